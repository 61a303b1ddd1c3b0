"""Are probabilities right? Reliability by structure, expected calibration error, and the temperature that lowers it.

Guo et al., "On calibration of modern neural networks", ICML 2017: a network is calibrated if, of the voxels to which it
gives a probability of 0.8, four in five belong to the structure. Dividing the scores by one number, the temperature,
repairs much of what is wrong, and leaves every mask as it is.

Far from the structures every network is right and sure, which would hide the rest. So only what lies near counts: the
box around mask and reference, grown by 10 pixels in the plane, as in Mehrtash et al., "Confidence calibration and
predictive uncertainty estimation for deep medical image segmentation", IEEE TMI 2020. Each case has the same weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

from convformer_monai.transforms.doubt import box_around

__all__ = [
    "ReliabilityBin",
    "VoxelSample",
    "draw_reliability",
    "expected_calibration_error",
    "fit_temperature",
    "held_out_temperatures",
    "reliability",
    "sample_voxels",
]

BINS = 15
SAMPLE = 20_000  # voxels of a case
FOLDS = 5
LOG_RANGE = (-1.5, 2.5)  # of the temperature


@dataclass(frozen=True)
class VoxelSample:
    """Voxels of a case, near its structures, drawn at random.

    Attributes:
        patient: whose they are.
        scores: (N, K) logits.
        truth: (N) classes.
    """

    patient: str
    scores: Tensor
    truth: Tensor


@dataclass(frozen=True)
class ReliabilityBin:
    """The voxels of which a structure has a probability of a certain size.

    Attributes:
        structure: its number.
        share: of all voxels.
        probability: that the network gives on average.
        frequency: with which they belong to the structure.
    """

    structure: int
    share: float
    probability: float
    frequency: float


def sample_voxels(patient: str, scores: Tensor, truth: Tensor, seed: int = 0) -> VoxelSample:
    """Draws voxels near the structures, with replacement.

    Args:
        patient: whose they are.
        scores: (K, X, Y) or (K, X, Y, Z) logits.
        truth: classes, of the same grid.
        seed: of the draw.
    """
    rows, columns = box_around((truth > 0) | (scores.argmax(0) > 0))
    near, labels = scores[:, rows, columns].flatten(1), truth[rows, columns].flatten()
    index = torch.randint(len(labels), (SAMPLE,), generator=torch.Generator().manual_seed(seed))
    return VoxelSample(patient, near[:, index].T.float().contiguous(), labels[index].long())


def fit_temperature(samples: Sequence[VoxelSample]) -> float:
    """The temperature at which the scores have the smallest cross-entropy."""
    scores, truth = torch.cat([one.scores for one in samples]), torch.cat([one.truth for one in samples])

    def loss(logarithm: float) -> float:
        return float(torch.nn.functional.cross_entropy(scores / float(np.exp(logarithm)), truth))

    found = minimize_scalar(loss, bounds=LOG_RANGE, method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


def held_out_temperatures(samples: Sequence[VoxelSample]) -> list[float]:
    """For each case the temperature that was fitted without its patient, in five folds."""
    fold_of = {name: index % FOLDS for index, name in enumerate(sorted({one.patient for one in samples}))}
    fitted: dict[int, float] = {}
    for fold in set(fold_of.values()):
        others = [one for one in samples if fold_of[one.patient] != fold]
        fitted[fold] = fit_temperature(others or samples)
    return [fitted[fold_of[one.patient]] for one in samples]


def reliability(samples: Sequence[VoxelSample], temperatures: Sequence[float]) -> list[ReliabilityBin]:
    """Fifteen bins of probability for each structure, those without a voxel left out.

    Args:
        samples: of all cases.
        temperatures: of each.
    """
    probabilities = torch.cat(
        [(one.scores / number).softmax(1) for one, number in zip(samples, temperatures, strict=True)]
    ).numpy()
    truth = torch.cat([one.truth for one in samples]).numpy()
    bins = []
    for structure in range(1, probabilities.shape[1]):
        given, true = probabilities[:, structure], (truth == structure).astype(np.float64)
        index = np.minimum((given * BINS).astype(np.int64), BINS - 1)
        counts, sums, hits = (np.bincount(index, weights, BINS) for weights in (None, given, true))
        bins += [
            ReliabilityBin(structure, float(n / len(given)), float(total / n), float(right / n))
            for n, total, right in zip(counts, sums, hits, strict=True)
            if n
        ]
    return bins


def expected_calibration_error(bins: Sequence[ReliabilityBin], structure: int) -> float:
    """How far probability and frequency are apart, on average over voxels; 0 to 1."""
    chosen = [one for one in bins if one.structure == structure]
    return sum(one.share * abs(one.probability - one.frequency) for one in chosen)


def draw_reliability(
    before: Sequence[ReliabilityBin], after: Sequence[ReliabilityBin], names: Sequence[str], path: Path
) -> bool:
    """Draws frequency against probability, a panel for each structure.

    Args:
        before: as the network gives them.
        after: with the temperature.
        names: of the structures, from number 1.
        path: picture to write.

    Returns:
        False if nothing is drawn, since matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(names) + 0.6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels: NDArray[np.object_] = figure.subplots(1, len(names), squeeze=False)[0]
    for number, (axes, name) in enumerate(zip(panels, names, strict=True), start=1):
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for bins, label in ((before, "as the network gives it"), (after, "with temperature")):
            chosen = [one for one in bins if one.structure == number]
            error = expected_calibration_error(bins, number)
            axes.plot(
                [one.probability for one in chosen],
                [one.frequency for one in chosen],
                marker="o",
                markersize=4,
                label=f"{label} (ECE {error:.4f})",
            )
        axes.set(title=name, xlabel="probability", xlim=(0, 1), ylim=(0, 1))
        axes.legend(fontsize=7, loc="upper left")
    panels[0].set_ylabel("share that belongs to the structure")
    figure.savefig(path, dpi=120)
    return True
