"""Calibration: errors by hand, and the temperature that was put in is found again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from convformer_monai.evaluation.calibration import (
    VoxelSample,
    draw_reliability,
    expected_calibration_error,
    fit_temperature,
    held_out_temperatures,
    reliability,
    sample_voxels,
)


def case(patient: str, sharper: float = 1.0, seed: int = 0) -> VoxelSample:
    """Scores of three classes whose probabilities are right, made sharper by a factor."""
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(20_000, 3, generator=generator)
    truth = torch.multinomial(scores.softmax(1), 1, generator=generator)[:, 0]
    return VoxelSample(patient, scores * sharper, truth)


def test_temperature_is_found_again() -> None:
    assert fit_temperature([case("a", 2.5), case("b", 2.5, 1)]) == pytest.approx(2.5, rel=0.05)
    assert fit_temperature([case("a")]) == pytest.approx(1.0, rel=0.05)


def test_temperature_of_a_patient_is_fitted_without_it() -> None:
    samples = [case("a", 4.0), case("b", 1.0, 1), case("a", 4.0, 2)]
    found = held_out_temperatures(samples)
    assert found[0] == found[2] == pytest.approx(1.0, rel=0.05) and found[1] == pytest.approx(4.0, rel=0.05)


def test_error_by_hand() -> None:
    probability = torch.tensor([0.9] * 10 + [0.2] * 10)
    scores = torch.stack([torch.zeros(20), torch.logit(probability)], dim=1)
    truth = torch.tensor([1] * 7 + [0] * 3 + [1] * 3 + [0] * 7)
    bins = reliability([VoxelSample("a", scores, truth)], [1.0])
    assert [(one.share, one.frequency) for one in bins] == [(0.5, 0.3), (0.5, 0.7)]
    assert [one.probability for one in bins] == pytest.approx([0.2, 0.9])
    assert expected_calibration_error(bins, 1) == pytest.approx(0.5 * 0.1 + 0.5 * 0.2)


def test_fitted_temperature_lowers_the_error() -> None:
    samples = [case(name, 3.0, seed) for seed, name in enumerate("abcd")]
    before, after = (reliability(samples, number) for number in ([1.0] * 4, held_out_temperatures(samples)))
    for structure in (1, 2):
        assert expected_calibration_error(after, structure) < 0.02 < 0.1 < expected_calibration_error(before, structure)


def test_only_what_is_near_is_drawn() -> None:
    truth = torch.zeros(100, 80, 3, dtype=torch.long)
    truth[50, 40, 1] = 1
    scores = torch.zeros(2, 100, 80, 3)
    scores[0] = 1.0
    scores[0, :39] = scores[0, :, :29] = 99.0  # far
    found = sample_voxels("a", scores, truth)
    assert float(found.scores.max()) == 1.0 and found.scores.shape[1] == 2
    assert torch.equal(found.scores, sample_voxels("a", scores, truth).scores)


def test_picture(tmp_path: Path) -> None:
    bins = reliability([case("a")], [1.0])
    assert draw_reliability(bins, bins, ["RV", "LV"], tmp_path / "x.png")
    assert np.fromfile(tmp_path / "x.png", np.uint8, 4).tobytes() == b"\x89PNG"
