"""Engine handlers that score every volume or photograph as it leaves the bundle's postprocessing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.utils import convert_to_numpy
from numpy.typing import NDArray

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.evaluation.metrics import VolumeScore, score_volume
from convformer_monai.evaluation.overlap import PictureScore, score_picture
from convformer_monai.readers.grids import check_grids
from convformer_monai.tasks.task import Label

__all__ = ["ScoreMasks", "ScorePictures", "ScoreVolumes", "ScoredVolume"]

logger = logging.getLogger(__name__)


class Score(Protocol):
    """What every score tells."""

    @property
    def case(self) -> str:
        """Identifier."""

    @property
    def dice(self) -> float:
        """0-1; of several structures the mean."""


S = TypeVar("S", bound=Score)


@dataclass(frozen=True)
class ScoredVolume:
    """One scored volume or photograph and its label maps; a phase if the case is a cine.

    Attributes:
        score: its score.
        predicted: (X, Y, Z) label map; of a photograph (X, Y).
        reference: label map of the same shape.
        affine: (4, 4) voxel index to mm.
        image_path: file of the image.
        channel: index of the volume in that file, 0 but in a cine.
    """

    score: Score
    predicted: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    affine: NDArray[np.float64]
    image_path: str
    channel: int


Listener: TypeAlias = Callable[[ScoredVolume], None]


class ScoreMasks(Generic[S]):
    """Scores predictions against labels as they were read, on the native grid; attach it to an evaluator.

    After postprocessing, each item must hold ``pred`` and ``label``, (T, X, Y, Z) label maps with T = 1 but in a cine,
    where every phase is a volume of its own (photographs: (1, X, Y)), and the entries of
    :func:`convformer_monai.datalist.read_cases`.

    Args:
        labels: the structures to score.
        listeners: called with each scored volume.

    Attributes:
        scores: filled as the engine runs.
    """

    def __init__(self, labels: Sequence[Label], listeners: Sequence[Listener] = ()) -> None:
        if not labels:
            raise ValueError("labels must not be empty")
        self.labels = tuple(labels)
        self.listeners = tuple(listeners)
        self.scores: list[S] = []

    def attach(self, engine: Engine) -> None:
        """Makes the engine score each batch."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self, _engine: Engine) -> None:
        self.scores.clear()

    def __call__(self, engine: Engine) -> None:
        """Scores the items that the engine has just finished.

        Raises:
            InputRefused: if a label does not fit its image or holds unknown values.
        """
        cases: Any = engine.state.batch  # MONAI's engines hold lists of dicts here, ignite declares something else
        outputs: Any = engine.state.output
        for case, output in zip(cases, outputs, strict=True):
            self.add(case, output["pred"], output["label"])
            done, total = engine.state.iteration, engine.state.epoch_length
            logger.info("%d/%s  %s: Dice %.3f", done, total, self.scores[-1].case, self.scores[-1].dice)

    def add(self, case: Mapping[str, Any], predicted: MetaTensor, reference: MetaTensor) -> None:
        """Scores one case.

        Args:
            case: ``id``, ``patient``, ``phase``, ``image_path``.
            predicted: (T, X, Y, Z) or (1, X, Y) label map.
            reference: label map of the same shape.

        Raises:
            InputRefused: if the label does not fit its image or holds unknown values.
        """
        name = str(case["id"])
        check_grids(name, predicted, reference)
        truth = self._checked_labels(name, reference)
        guess = _plain(predicted).astype(np.uint8)
        affine = np.asarray(convert_to_numpy(reference.affine), dtype=np.float64)
        for channel in range(len(guess)):
            called = name if len(guess) == 1 else f"{name}_t{channel:02d}"
            score = self._score(called, case, guess[channel], truth[channel], affine)
            self.scores.append(score)
            scored = ScoredVolume(score, guess[channel], truth[channel], affine, str(case["image_path"]), channel)
            for listener in self.listeners:
                listener(scored)

    def _score(
        self,
        name: str,
        case: Mapping[str, Any],
        predicted: NDArray[np.uint8],
        reference: NDArray[np.uint8],
        affine: NDArray[np.float64],
    ) -> S:
        """Scores one volume or photograph."""
        raise NotImplementedError

    def _checked_labels(self, name: str, reference: MetaTensor) -> NDArray[np.uint8]:
        """Returns the label map as uint8, if that changes nothing."""
        values = _plain(reference)
        known = [0, *(label.index for label in self.labels)]
        found = np.unique(values)
        unknown = found[~np.isin(found, known)]
        if len(unknown):
            raise InputRefused(
                RefusalCode.LABEL_VALUES,
                f"the label of case {name} holds {', '.join(f'{value:g}' for value in unknown[:5])}; "
                f"allowed are {', '.join(map(str, known))} (0 is background, "
                f"{', '.join(f'{label.index} is {label.name}' for label in self.labels)})",
            )
        return values.astype(np.uint8)


class ScoreVolumes(ScoreMasks[VolumeScore]):
    """Scores volumes: see :class:`ScoreMasks` and :mod:`convformer_monai.evaluation.metrics`."""

    def _score(
        self,
        name: str,
        case: Mapping[str, Any],
        predicted: NDArray[np.uint8],
        reference: NDArray[np.uint8],
        affine: NDArray[np.float64],
    ) -> VolumeScore:
        return VolumeScore(
            case=name,
            patient=str(case["patient"]),
            phase=str(case["phase"]),
            structures=score_volume(predicted, reference, affine, self.labels),
        )


class ScorePictures(ScoreMasks[PictureScore]):
    """Scores photographs of one structure: see :class:`ScoreMasks` and :mod:`convformer_monai.evaluation.overlap`."""

    def _score(
        self,
        name: str,
        case: Mapping[str, Any],
        predicted: NDArray[np.uint8],
        reference: NDArray[np.uint8],
        affine: NDArray[np.float64],
    ) -> PictureScore:
        return score_picture(name, str(case["patient"]), str(case.get("source", "")), predicted > 0, reference > 0)


def _plain(data: torch.Tensor) -> NDArray[Any]:
    return np.asarray(convert_to_numpy(data))
