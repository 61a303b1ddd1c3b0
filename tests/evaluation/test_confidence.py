"""Which peak of the probability brings the findings in blood-free slices within the bar."""

from pathlib import Path

import pytest
import torch
from bundle_kinds import KINDS, training_data

from convformer_monai.bundle import component
from convformer_monai.errors import find_refusal
from convformer_monai.evaluation.confidence import PeakResult, choose_peak, measure_peaks, report_peaks


def test_the_smallest_peak_within_the_bar() -> None:
    results = [PeakResult(0.99, 0.6, 0.2, 0.03), PeakResult(0.9, 0.8, 0.1, 0.2), PeakResult(0.95, 0.7, 0.1, 0.05)]
    assert choose_peak(results) == 0.95
    with pytest.raises(ValueError, match="no peak"):
        choose_peak(results[1:2])


@pytest.mark.slow
def test_nothing_is_left_of_an_unsure_network(tmp_path: Path) -> None:
    kind = KINDS["hemorrhage"]
    training_data(kind, tmp_path)
    network = component(kind.root, "inference", "network_def")
    state = {key: torch.zeros_like(value) for key, value in network.state_dict().items()}
    last = [key for key in state if key.startswith("heads.") and key.endswith("bias")][-1]
    state[last] = torch.tensor([0.0, 3.0])  # probability 0.953 everywhere
    for fold in range(5):
        (tmp_path / f"fold{fold}").mkdir()
        torch.save(state, tmp_path / f"fold{fold}" / "best.pt")
    sure, unsure = measure_peaks(kind.root, tmp_path, tmp_path, (0.95, 0.96))
    assert sure.missed == 0 and 0 < sure.dice < 1
    assert unsure.missed == 1 and unsure.dice == 0


def test_missing_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Exception) as caught:
        report_peaks("hemorrhage", tmp_path, tmp_path, tmp_path)
    refusal = find_refusal(caught.value)
    assert refusal is not None and refusal.code == "DATALIST_MISSING"
