"""Validation images as other scanners might have made them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from convformer_monai.cli import main
from convformer_monai.evaluation.shifts import SHIFTS, shifted
from convformer_monai.phantoms import cardiac_phantom
from convformer_monai.readers import read_series


@pytest.fixture
def data(tmp_path: Path) -> Path:
    image, label = cardiac_phantom(shape=(96, 96, 3), spacing=(1.8, 1.8, 10.0), seed=3).save(tmp_path, "p")
    (tmp_path / "datalist.json").write_text(json.dumps({"val": [{"image": image.name, "label": label.name}]}))
    return tmp_path


def test_each_change_does_what_it_says_and_the_same_each_time(data: Path) -> None:
    series = read_series(next(data.glob("p*.nii.gz")))
    plain = series.image.numpy()
    for name, change in SHIFTS.items():
        once, again = shifted(series, name), shifted(series, name)
        values = once.image.numpy()
        assert values.shape == plain.shape and np.isfinite(values).all() and np.array_equal(values, again.image.numpy())
        spacing = np.linalg.norm(once.affine[:3, :3], axis=0)
        if isinstance(change, float):
            assert np.array_equal(values, plain) and spacing == pytest.approx([1.8 * change, 1.8 * change, 10.0])
            continue
        assert np.allclose(once.affine, series.affine)
        assert np.array_equal(values, plain) == (name == "none")
        if name.startswith(("gamma", "flat", "steep")):  # brighter stays brighter
            order = np.argsort(plain, axis=None)
            assert (np.diff(values.flatten()[order]) >= -1e-6).all()


def test_blur_smooths_noise_roughens_and_coils_tilt(data: Path) -> None:
    series = read_series(next(data.glob("p*.nii.gz")))
    plain = series.image.numpy()
    unit = np.clip((plain - plain.min()) / (np.percentile(plain, 99.5) - plain.min()), 0, 1)
    by_name = {name.split()[0]: shifted(series, name).image.numpy() for name in SHIFTS}

    def rough(values: np.ndarray) -> float:
        return float(np.abs(np.diff(values, axis=1)).mean())

    assert rough(by_name["blur"]) < rough(unit) < 0.95 * rough(by_name["noise"])
    ratio = by_name["uneven"] / np.maximum(unit, 1e-3)
    assert ratio[unit > 0.2].std() > 0.05


@pytest.mark.slow
def test_table(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", "cardiac", "--data", str(data), "--shifts", "--output-dir", str(tmp_path / "out")]
    assert main(command) == 0
    text = capsys.readouterr().out
    rows = {row["change"]: float(row["dice"]) for row in csv.DictReader(open(tmp_path / "out" / "shifts.csv"))}
    assert list(rows) == list(SHIFTS) and rows["none"] > 0.85
    assert f"Mean over the changes: {np.mean([rows[name] for name in rows if name != 'none']):.4f}" in text
    assert main(command) == 2 and "EXISTS" in capsys.readouterr().err


@pytest.mark.parametrize("bundle", ["hemorrhage", "dermoscopy"])
def test_other_images_are_refused(data: Path, tmp_path: Path, bundle: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", bundle, "--data", str(data), "--shifts", "--output-dir", str(tmp_path / "out")]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("error[OPTION]: --shifts is for volumes of MRI")
