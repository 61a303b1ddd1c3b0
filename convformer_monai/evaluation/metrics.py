"""Scores of one segmented volume: Dice, HD95 and average surface distance in mm, volumes in mL.

Computed by MONAI's metrics, one structure at a time. Its surface is the set of the structure's voxels that touch, face
to face, a voxel outside of it (beyond the volume's border is outside); distances are between voxel centres, in mm,
in 3-D with the spacing of each axis. HD95 is the larger of the two directed 95th percentiles; the average surface
distance is symmetric, the mean of all distances of both directions.

What MONAI leaves open for empty structures is settled here:

=================================  ====  =========  ==========
structure                          Dice  distances  ``state``
=================================  ====  =========  ==========
in both volumes                    0-1   mm         scored
in neither                         1     NaN        both_empty
in the reference only              0     NaN        missed
in the prediction only             0     NaN        invented
=================================  ====  =========  ==========

A distance from a surface that does not exist is NaN, neither 0 nor infinity. It is left out of means and counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
from numpy.typing import NDArray

from convformer_monai.tasks.task import Label
from convformer_monai.transforms.geometry import voxel_volume_ml

__all__ = ["StructureScore", "VolumeScore", "score_structure", "score_volume"]

PERCENTILE = 95.0


@dataclass(frozen=True)
class StructureScore:
    """How well one structure of one volume was segmented.

    Attributes:
        structure: name.
        dice: 0-1.
        hd95_mm: 95th percentile of the surface distances; NaN if there is no surface to compare.
        asd_mm: symmetric average surface distance; NaN as above.
        predicted_ml: volume of the structure in the prediction.
        reference_ml: volume of the structure in the reference.
    """

    structure: str
    dice: float
    hd95_mm: float
    asd_mm: float
    predicted_ml: float
    reference_ml: float

    @property
    def volume_error_ml(self) -> float:
        """Predicted minus reference volume."""
        return self.predicted_ml - self.reference_ml

    @property
    def state(self) -> str:
        """``scored``, ``both_empty``, ``missed`` or ``invented``; see the module."""
        if self.reference_ml > 0:
            return "scored" if self.predicted_ml > 0 else "missed"
        return "invented" if self.predicted_ml > 0 else "both_empty"


@dataclass(frozen=True)
class VolumeScore:
    """The scores of one volume: one case, or one phase of a cine.

    Attributes:
        case: identifier.
        patient: identifier; several volumes may come from one patient.
        phase: ``ED``, ``ES``, ..., or empty.
        structures: one score each.
    """

    case: str
    patient: str
    phase: str
    structures: tuple[StructureScore, ...]

    @property
    def dice(self) -> float:
        """Mean Dice of the structures."""
        return float(np.mean([score.dice for score in self.structures]))

    @property
    def hd95_mm(self) -> float:
        """Mean HD95 of the structures; see :meth:`_mean_distance`."""
        return self._mean_distance([score.hd95_mm for score in self.structures])

    @property
    def asd_mm(self) -> float:
        """Mean average surface distance of the structures; see :meth:`_mean_distance`."""
        return self._mean_distance([score.asd_mm for score in self.structures])

    def _mean_distance(self, distances: Sequence[float]) -> float:
        """Mean over structures, without those that are in neither volume; NaN if one was missed or invented.

        Were a missed structure left out too, missing the hardest one would improve the mean.
        """
        if any(score.state in ("missed", "invented") for score in self.structures):
            return float("nan")
        present = [distance for distance in distances if not np.isnan(distance)]
        return float(np.mean(present)) if present else float("nan")


def score_volume(
    predicted: NDArray[np.integer[Any]],
    reference: NDArray[np.integer[Any]],
    affine: NDArray[np.float64],
    labels: Sequence[Label],
) -> tuple[StructureScore, ...]:
    """Scores all structures of a volume.

    Args:
        predicted: (X, Y, Z) label map.
        reference: (X, Y, Z) label map on the same grid.
        affine: (4, 4) voxel index to mm; its axes should be orthogonal.
        labels: the structures.

    Returns:
        One score for each label.
    """
    columns = np.asarray(affine, dtype=np.float64)[:3, :3]
    spacing = [float(length) for length in np.linalg.norm(columns, axis=0)]
    voxel_ml = voxel_volume_ml(affine)
    return tuple(
        score_structure(label.name, predicted == label.index, reference == label.index, spacing, voxel_ml)
        for label in labels
    )


def score_structure(
    name: str, predicted: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: Sequence[float], voxel_ml: float
) -> StructureScore:
    """Scores one structure.

    Args:
        name: of the structure.
        predicted: (X, Y, Z) mask.
        reference: (X, Y, Z) mask.
        spacing: distance of neighbouring voxel centres along the three axes, mm.
        voxel_ml: volume of a voxel, mL.

    Returns:
        The score.

    Raises:
        ValueError: if the masks differ in shape or are not 3-D.
    """
    if predicted.shape != reference.shape or predicted.ndim != 3:
        raise ValueError(f"predicted and reference must be (X, Y, Z) alike, got {predicted.shape}, {reference.shape}")
    guess, truth = (torch.from_numpy(mask.astype(np.float32))[None, None] for mask in (predicted, reference))
    dice = float(compute_dice(guess, truth, ignore_empty=False))
    hd95 = asd = float("nan")
    if predicted.any() and reference.any():
        options: dict[str, Any] = {"include_background": True, "spacing": list(spacing)}
        with warnings.catch_warnings():  # MONAI 1.6 warns of an argument that it passes itself
            warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
            hd95 = float(compute_hausdorff_distance(guess, truth, percentile=PERCENTILE, **options))
            asd = float(compute_average_surface_distance(guess, truth, symmetric=True, **options))
    return StructureScore(
        structure=name,
        dice=dice,
        hd95_mm=hd95,
        asd_mm=asd,
        predicted_ml=float(np.count_nonzero(predicted) * voxel_ml),
        reference_ml=float(np.count_nonzero(reference) * voxel_ml),
    )
