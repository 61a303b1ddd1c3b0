"""How unsure the network is of each image without a label, for active learning.

Bayesian active learning by disagreement (Houlsby et al., arXiv 1112.5745) with dropout at inference (Gal et al., ICML
2017): the mutual information between prediction and weights, that is the entropy of the mean prediction minus the mean
entropy of the predictions. It is averaged over the pixels that any pass calls a structure, so that it does not depend
on how much air there is around; of an image without any, over all pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from monailabel.interfaces.tasks.scoring import ScoringMethod
from torch import Tensor, nn

from convformer_monai.errors import InputRefused
from convformer_monai.label_app.options import LabelOptions
from convformer_monai.readers import ImageSeries
from convformer_monai.segmenter import Segmenter

__all__ = ["SCORE", "EpistemicScoring", "mutual_information"]

logger = logging.getLogger(__name__)

SCORE, SCORED_BY = "epistemic_entropy", "epistemic_version"  # the first is what MONAI Label's strategy looks at
DROPOUT = 0.2
PASSES = 5
MAX_SAMPLES = 100


def mutual_information(probabilities: Tensor) -> float:
    """Computes the mean mutual information of predictions and weights.

    Args:
        probabilities: (passes, K, ...), of K classes, background first.

    Returns:
        In nats, 0 to ln K.
    """
    mean = probabilities.mean(0)
    information = _entropy(mean, 0) - _entropy(probabilities, 1).mean(0)
    structure = (probabilities.argmax(1) > 0).any(0)
    return float((information[structure] if structure.any() else information).mean().clamp(min=0))


def _entropy(probabilities: Tensor, dim: int) -> Tensor:
    information: Tensor = torch.special.xlogy(probabilities, probabilities).sum(dim)
    return -information


class EpistemicScoring(ScoringMethod):  # type: ignore[misc]
    """Scores images without a label.

    Args:
        options: of the server.
    """

    def __init__(self, options: LabelOptions) -> None:
        super().__init__("Mutual information of predictions and weights, by dropout at inference")
        self.options = options

    def __call__(self, request: Mapping[str, Any], datastore: Any) -> dict[str, Any]:
        """Scores the images that the version in use has not scored yet.

        Args:
            request: ``max_samples``: how many images at most.
            datastore: the images.

        Returns:
            How many there are, were scored, skipped since they had been, and refused.
        """
        version = self.options.versions.current
        unlabelled = sorted(datastore.get_unlabeled_images())
        waiting = [
            image_id for image_id in unlabelled if datastore.get_image_info(image_id).get(SCORED_BY) != version.number
        ]
        summary = {"total": len(unlabelled), "executed": 0, "refused": 0}
        segmenter = Segmenter(
            self.options.bundle,
            self.options.device,
            weights=self.options.versions.weights(version),
            overrides={"network_def#dropout": DROPOUT},
        )
        for module in segmenter.network.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.train()
        for image_id in waiting[: int(request.get("max_samples", MAX_SAMPLES))]:
            try:
                score = self._score(segmenter, datastore.series(image_id))
            except InputRefused as refusal:
                logger.warning("%s is not scored: %s", image_id, refusal)
                summary["refused"] += 1
                continue
            datastore.update_image_info(image_id, {SCORE: score, SCORED_BY: version.number})
            logger.info("%s: epistemic score %.4f", image_id, score)
            summary["executed"] += 1
        return {**summary, "skipped": summary["total"] - len(waiting)}

    def _score(self, segmenter: Segmenter, series: ImageSeries) -> float:
        prepared = segmenter.prepare(series)
        classes = len(self.options.labels) + 1
        torch.manual_seed(0)  # the same image gets the same score
        passes = [segmenter.scores(prepared).unflatten(0, (-1, classes)).softmax(1) for _ in range(PASSES)]
        return mutual_information(torch.stack([one.transpose(0, 1) for one in passes]))  # (passes, K, phases, ...)
