from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ignite.engine import Engine
from PIL import Image

from convformer_monai.evaluation import StructureScore, VolumeScore, WriteOverlays, draw_overlay
from convformer_monai.evaluation.handlers import ScoredVolume
from convformer_monai.tasks.cardiac import CARDIAC

AFFINE = np.diag([-1.5, -1.5, 8.0, 1.0])
RV, MYO, LV = (label.colour for label in CARDIAC.labels)
WHITE = (255, 255, 255)


def heart(levels: range = range(1, 7)) -> np.ndarray:
    """Label map that grows narrower with the slice index."""
    result = np.zeros((60, 50, 8), dtype=np.uint8)
    for k in levels:
        result[20 + k : 40 - k, 15 + k : 35 - k, k] = 2
        result[23 + k : 37 - k, 18 + k : 32 - k, k] = 3
    return result


def drawn(reference: np.ndarray, predicted: np.ndarray, affine: np.ndarray = AFFINE) -> np.ndarray:
    image = np.random.default_rng(0).uniform(0, 100, size=reference.shape)
    return np.asarray(draw_overlay(image, reference, predicted, affine, CARDIAC.labels, "title"))


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Pixels of a colour between the texts above and below."""
    return int((picture[45:-25] == colour).all(axis=-1).sum())


def test_outlines_have_the_colours_of_their_structures() -> None:
    nothing = np.zeros_like(heart())
    neither, only_predicted, only_reference = drawn(nothing, nothing), drawn(nothing, heart()), drawn(heart(), nothing)
    assert [count(neither, colour) for colour in (RV, MYO, LV)] == [0, 0, 0]
    assert count(only_predicted, RV) == 0
    assert count(only_predicted, MYO) > 500 and count(only_predicted, LV) > 200
    assert count(only_reference, MYO) == 0
    assert count(only_reference, WHITE) > count(only_predicted, WHITE) + 200


def test_the_upper_row_is_the_image_alone() -> None:
    picture = drawn(heart(), heart())
    half = 40 + (picture.shape[0] - 60) // 2
    assert count(picture[: half + 25], MYO) == 0


def test_pixels_are_square_and_panels_ordered_from_the_base() -> None:
    wide = draw_overlay(heart(), heart(), heart(), np.diag([-3.0, -1.5, 8.0, 1.0]), CARDIAC.labels)
    tall = draw_overlay(heart(), heart(), heart(), np.diag([-0.75, -1.5, 8.0, 1.0]), CARDIAC.labels)
    assert wide.width / wide.height > 1.5 * tall.width / tall.height
    # stored from apex to base, the same heart gives the same slices in the same order
    flipped = AFFINE.copy()
    flipped[:3, 3] = AFFINE[:3, 2] * 7
    flipped[:3, 2] *= -1
    there, back = (
        np.asarray(draw_overlay(v, v, v, a, CARDIAC.labels))
        for v, a in ((heart(), AFFINE), (heart()[..., ::-1], flipped))
    )
    assert np.array_equal(there, back)
    upside_down = np.asarray(draw_overlay(*(heart()[..., ::-1],) * 3, AFFINE, CARDIAC.labels))
    assert np.array_equal(there[45:-25], upside_down[45:-25])  # only the slice numbers differ


@pytest.mark.parametrize(("choice", "expected"), [("worst", {"b", "d"}), ("best", {"a", "c"}), ("first", {"a", "b"})])
def test_chosen_cases_are_written(tmp_path: Path, choice: str, expected: set[str]) -> None:
    nib.Nifti1Image(heart().astype(np.int16), AFFINE).to_filename(tmp_path / "image.nii.gz")
    pictures = WriteOverlays(tmp_path, CARDIAC.labels, 2, choice)
    engine = Engine(lambda *_: None)
    pictures.attach(engine)
    cases = [("a", 0.9), ("b", 0.1), ("c", 0.8), ("d", 0.2)]

    def step(_engine: Engine, item: tuple[str, float]) -> None:
        score = VolumeScore(item[0], item[0], "ED", (StructureScore("LV", item[1], 1, 1, 1, 1),))
        pictures(ScoredVolume(score, heart(), heart(), AFFINE, str(tmp_path / "image.nii.gz"), 0))
        assert len(pictures.kept) <= 2

    engine._process_function = step
    engine.run(cases, max_epochs=1)
    written = {path.stem: Image.open(path).size for path in (tmp_path / "overlays").iterdir()}
    assert written.keys() == expected
    assert all(min(size) > 200 for size in written.values())


def test_wrong_choices_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="worst, best, first.*'nicest'"):
        WriteOverlays(tmp_path, CARDIAC.labels, 1, "nicest")
    for count in (-1, 1.5, "3", True):
        with pytest.raises(ValueError, match="count of the overlays"):
            WriteOverlays(tmp_path, CARDIAC.labels, count)  # type: ignore[arg-type]
