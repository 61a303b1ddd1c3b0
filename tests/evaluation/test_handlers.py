import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from convformer_monai.errors import InputRefused
from convformer_monai.evaluation import ScoreVolumes
from convformer_monai.evaluation.handlers import ScoredVolume
from convformer_monai.tasks.cardiac import CARDIAC

AFFINE = torch.diag(torch.tensor([-1.5, -1.5, 8.0, 1.0], dtype=torch.float64))
CASE = {"id": "p1_x", "patient": "p1", "phase": "ED", "image_path": "x.nii.gz"}


def maps(phases: int = 1) -> torch.Tensor:
    data = torch.zeros(phases, 12, 10, 4)
    data[:, 2:5, 2:5, 1:3] = 1
    data[:, 6:10, 2:8, 1:3] = 2
    data[:, 7:9, 4:6, 1:3] = 3
    return data


def test_every_phase_of_a_cine_is_a_volume() -> None:
    seen: list[ScoredVolume] = []
    scores = ScoreVolumes(CARDIAC.labels, [seen.append])
    predicted = maps(3).byte()
    predicted[1] = 0
    scores.add(CASE, MetaTensor(predicted, affine=AFFINE), MetaTensor(maps(3), affine=AFFINE))
    assert [(one.case, one.patient, one.phase) for one in scores.scores] == [
        (f"p1_x_t0{t}", "p1", "ED") for t in range(3)
    ]
    assert [one.dice for one in scores.scores] == [1, 0, 1]
    assert [(one.channel, one.image_path) for one in seen] == [(t, "x.nii.gz") for t in range(3)]
    assert seen[2].reference.dtype == np.uint8 and np.array_equal(seen[2].reference, maps()[0])


def test_a_single_volume_keeps_its_name() -> None:
    scores = ScoreVolumes(CARDIAC.labels)
    scores.add(CASE, MetaTensor(maps().byte(), affine=AFFINE), MetaTensor(maps(), affine=AFFINE))
    assert scores.scores[0].case == "p1_x"
    assert scores.scores[0].structures[0].reference_ml == pytest.approx(18 * 1.5 * 1.5 * 8 / 1000)


@pytest.mark.parametrize("value", [4.0, 0.5, -1.0, 256.0])
def test_unknown_label_values_are_refused(value: float) -> None:
    label = maps()
    label[0, 0, 0, 0] = value
    with pytest.raises(InputRefused, match=rf"LABEL_VALUES.*holds {value:g};.*1 is RV"):
        ScoreVolumes(CARDIAC.labels).add(CASE, MetaTensor(maps(), affine=AFFINE), MetaTensor(label, affine=AFFINE))


def test_labels_on_another_grid_are_refused() -> None:
    moved = AFFINE.clone()
    moved[0, 0] = -1.4
    for label in (MetaTensor(maps(2), affine=AFFINE), MetaTensor(maps(), affine=moved)):
        with pytest.raises(InputRefused, match="GRIDS_DIFFER.*p1_x"):
            ScoreVolumes(CARDIAC.labels).add(CASE, MetaTensor(maps(), affine=AFFINE), label)


def test_structures_are_needed() -> None:
    with pytest.raises(ValueError, match="labels"):
        ScoreVolumes([])
