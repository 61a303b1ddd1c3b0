"""Cross-validation on slices that are pictures: each slice is segmented by the weights that never saw its patient."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_numpy
from numpy.typing import NDArray

from convformer_monai.bundle import load_weights
from convformer_monai.evaluation.overlap import PictureScore, score_picture
from convformer_monai.evaluation.overlays import draw_overlay
from convformer_monai.evaluation.picture_report import write_picture_report
from convformer_monai.evaluation.report import output_folder
from convformer_monai.tasks.task import Label
from convformer_monai.training.mixture import read_mixture

__all__ = ["CrossValidation", "false_positive_rate", "wilson_interval"]

logger = logging.getLogger(__name__)

SIDE = 256  # false positives are counted on a grid of so many pixels a side
PIXELS = 50  # more than so many there are a finding
Z95 = 1.959964


@dataclass(frozen=True)
class _Result:
    score: PictureScore
    image: NDArray[np.float32]
    predicted: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    affine: NDArray[np.float64]


class CrossValidation:
    """Segments the held-out slices of each fold with that fold's weights, and reports all together.

    Args:
        network: of all folds.
        preprocessing: reads a case; its ``image`` is (1, X, Y, 1), its ``label`` as read.
        inferer: gives class scores.
        postprocessing: brings them to labels on the native grid.
        labels: the structure.
        dataset_dir: see :func:`convformer_monai.training.read_mixture`.
        parts: sections to test on, the folds as in training; those in ``blood_free`` for false positives.
        blood_free: names of sections without anything to find.
        sources: see ``read_mixture``.
        weights: file of each fold's weights, ``{fold}`` standing for its number.
        folds: how many.
        device: where the network runs.
        pixels: a blood-free slice with more of them, counted on 256 x 256, is a false positive.
        overlays: how many of the worst, and of the best, to draw.
        window: values shown as black and white; ``None`` for those of the image.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        preprocessing: Callable[[dict[str, Any]], dict[Any, Any]],
        inferer: Callable[..., torch.Tensor],
        postprocessing: Callable[[dict[Any, Any]], dict[Any, Any]],
        labels: Sequence[Label],
        dataset_dir: object,
        parts: Sequence[Mapping[str, Any]],
        sources: Mapping[str, Mapping[str, Any]],
        weights: str,
        folds: int,
        device: str | torch.device = "cpu",
        blood_free: Sequence[str] = ("normal",),
        pixels: int = PIXELS,
        overlays: int = 0,
        window: tuple[float, float] | None = None,
    ) -> None:
        self.network = network
        self.preprocessing = preprocessing
        self.inferer = inferer
        self.postprocessing = postprocessing
        self.labels = tuple(labels)
        self.dataset_dir = dataset_dir
        self.parts = list(parts)
        self.sources = sources
        self.weights = [str(weights).format(fold=fold) for fold in range(folds)]
        self.device = torch.device(device)
        self.blood_free = tuple(blood_free)
        self.pixels = pixels
        self.overlays = overlays
        self.window = window
        self.results: list[_Result] = []
        self.false_positives: list[bool] = []

    def run(self) -> None:
        """Segments and scores every slice.

        Raises:
            InputRefused: if the data or weights cannot be used.
        """
        self.results.clear()
        self.false_positives.clear()
        for fold, file in enumerate(self.weights):
            load_weights(self.network, file, device=self.device)
            self.network.eval()
            parts = [{**part, "fold": fold, "held_out": True} for part in self.parts]
            for case in read_mixture(self.dataset_dir, parts, self.sources):
                result = self._segmented(case)
                if case["section"] in self.blood_free:
                    share = result.score.predicted_pixels / result.predicted.size
                    self.false_positives.append(share * SIDE**2 > self.pixels)
                else:
                    self.results.append(result)
                logger.info("fold %d, %s: Dice %.3f", fold, case["id"], result.score.dice)

    def _segmented(self, case: dict[str, Any]) -> _Result:
        data = self.preprocessing(dict(case))
        with torch.inference_mode():
            image = data["image"].as_tensor()[None].to(self.device)
            scores = self.inferer(image, self.network)[0].cpu()
            predicted = self.postprocessing({**data, "pred": scores})["pred"]
        masks = [np.asarray(convert_to_numpy(mask))[0].astype(np.uint8) for mask in (predicted, data["label"])]
        score = score_picture(case["id"], case["patient"], case["source"], masks[0] > 0, masks[1] > 0)
        affine = np.asarray(convert_to_numpy(data["label"].affine), dtype=np.float64)
        return _Result(score, np.asarray(convert_to_numpy(data["native"]))[0], masks[0], masks[1], affine)

    def report(self, output_dir: object, name: str, bundle_version: str, settings: Mapping[str, Any]) -> str:
        """Writes what :func:`convformer_monai.evaluation.write_picture_report` does, and overlays.

        Args:
            output_dir: folder to write to.
            name: of the bundle.
            bundle_version: of the bundle.
            settings: what else was chosen.

        Returns:
            The headline and the table, for people.
        """
        self._draw(output_dir)
        rate = false_positive_rate(self.false_positives)
        what = f"more than {self.pixels} pixels found at {SIDE} x {SIDE}"
        text = (
            f"Blood-free slices with {what}: {rate['count']} of {rate['slices']} "
            f"({rate['rate']:.1%}, 95% CI {rate['ci95_low']:.1%} to {rate['ci95_high']:.1%}).\n"
            f"Every slice was segmented by weights that saw no slice of its patient ({len(self.weights)} folds)."
        )
        return write_picture_report(
            [result.score for result in self.results],
            output_dir,
            name,
            bundle_version,
            self.weights,
            self.dataset_dir,
            "+".join(str(part["section"]) for part in self.parts),
            settings,
            more={"blood_free": {"definition": f"{what}; interval: Wilson", **rate}},
            more_text=text,
        )

    def _draw(self, output_dir: object) -> None:
        if not self.overlays:
            return
        folder = output_folder(f"{output_dir}/overlays")
        ranked = sorted(self.results, key=lambda result: result.score.dice)
        for index, result in enumerate([*ranked[: self.overlays], *ranked[-self.overlays :]]):
            title = f"{result.score.case}   Dice {result.score.dice:.3f}"
            image = result.image if self.window is None else np.clip(result.image, *self.window)
            picture = draw_overlay(image, result.reference, result.predicted, result.affine, self.labels, title)
            rank = "worst" if index < self.overlays else "best"
            picture.save(folder / f"{rank}_{result.score.case}.png".replace("/", "_"))


def false_positive_rate(found: Sequence[bool]) -> dict[str, float | int]:
    """Returns count, rate and its interval.

    Args:
        found: of each blood-free slice, whether something was found.

    Raises:
        ValueError: if there is none.
    """
    if not found:
        raise ValueError("found must not be empty")
    low, high = wilson_interval(sum(found), len(found))
    return {
        "count": sum(found),
        "slices": len(found),
        "rate": sum(found) / len(found),
        "ci95_low": low,
        "ci95_high": high,
    }


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Wilson's 95% interval of a proportion, which is sound for small counts too.

    Args:
        count: how many were.
        total: how many could have been.
    """
    share = count / total
    centre = share + Z95**2 / (2 * total)
    half = Z95 * np.sqrt(share * (1 - share) / total + Z95**2 / (4 * total**2))
    scale = 1 + Z95**2 / total
    return max(0.0, float((centre - half) / scale)), min(1.0, float((centre + half) / scale))
