import csv
import json

import numpy as np
import pytest
import torch

from convformer_monai.evaluation import score_picture, summarise_pictures, write_picture_report


def mask(*pixels: int) -> np.ndarray:
    result = np.zeros((4, 5), bool)
    result.flat[list(pixels)] = True
    return result


def test_dice_and_jaccard():
    score = score_picture("x", "", "kit", mask(1, 2, 3), mask(2, 3, 4, 5))
    assert score.dice == pytest.approx(4 / 7) and score.jaccard == pytest.approx(2 / 5)
    assert (score.predicted_pixels, score.reference_pixels, score.patient) == (3, 4, "x")


@pytest.mark.parametrize(("predicted", "expected"), [((), 1.0), ((1,), 0.0)])
def test_nothing_to_find(predicted, expected):
    score = score_picture("x", "p", "", mask(*predicted), mask())
    assert score.dice == score.jaccard == expected


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        score_picture("x", "p", "", mask(), mask().T)


def scores() -> list:
    parts = [("kit", (1, 2), (1, 2)), ("kit", (1,), (1, 2)), ("bhsd", (3,), (4,))]
    return [score_picture(str(i), f"p{i}", source, mask(*a), mask(*b)) for i, (source, a, b) in enumerate(parts)]


def test_summary_for_each_source_and_all():
    rows = {row.source: row for row in summarise_pictures(scores())}
    assert list(rows) == ["bhsd", "kit", "all"]
    assert rows["kit"].dice.mean == pytest.approx((1 + 2 / 3) / 2)
    assert rows["all"].jaccard.mean == pytest.approx(0.5)
    assert rows["all"].low.mean == pytest.approx(2 / 3), "0.5 and 0 are below 0.65"
    assert rows["all"].dice.ci95[0] < rows["all"].dice.mean < rows["all"].dice.ci95[1]
    with pytest.raises(ValueError, match="empty"):
        summarise_pictures([])


def test_report_files(tmp_path):
    (tmp_path / "datalist.json").write_text("{}")
    torch.save({}, tmp_path / "w.pt")
    text = write_picture_report(
        scores(), tmp_path / "out", "Name", "1.0", tmp_path / "w.pt", tmp_path, "val", more={"x": 1}, more_text="More."
    )
    assert "Dice 0.5556" in text and "Jaccard below 0.65 in 2 of them" in text and text.endswith("More.")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["results"]["all"]["jaccard"]["mean"] == pytest.approx(0.5) and summary["x"] == 1
    rows = list(csv.DictReader((tmp_path / "out" / "per_case.csv").open()))
    assert [row["source"] for row in rows] == ["kit", "kit", "bhsd"]
    assert "| all " in (tmp_path / "out" / "summary.md").read_text()
