"""A bundle loaded once, which segments any number of images in memory."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, apply_transform
from torch import Tensor

from convformer_monai.bundle import Bundle, file_sha256, load_weights
from convformer_monai.engines import check_engine
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.inferers import SliceBatchInferer
from convformer_monai.measurements.measure import measure
from convformer_monai.measurements.overlap import dice
from convformer_monai.measurements.values import Measurements
from convformer_monai.readers import ImageSeries, read_series
from convformer_monai.readers.cases import stem
from convformer_monai.readers.glance import Glance
from convformer_monai.readers.memory import like, series_from
from convformer_monai.readers.values import is_grey, looks_like_ct, mask_values
from convformer_monai.tasks.task import PHOTOGRAPH, VOLUME
from convformer_monai.transforms.doubt import EVIDENCE, EXPECTED_DICE, expected_dice
from convformer_monai.transforms.geometry import InPlaneOrientationd, InPlaneSpacingd

__all__ = ["Segmentation", "Segmenter", "choose_device"]

logger = logging.getLogger(__name__)

PARTS = ("modality", "weights", "weights_sha256", "network_def", "preparation", "inferer", "native_labels")
PROBABILITIES = "native_probabilities"


@dataclass(frozen=True)
class Segmentation:
    """What a bundle found in a series.

    Attributes:
        series: the image.
        labels: ``(phases, X, Y, Z)`` uint8 on the image's own grid, with its affine; of a photograph ``(1, X, Y)``.
        seconds: time taken by each stage.
        disagreement: 1 - Dice between the plain and the flip-averaged result (of all structures together); ``None`` if
            the bundle ran without flips.
        notes: what happened on the way, for the user; one line each.
        probabilities: that a voxel belongs to a structure, times 255, ``(phases * structures, X, Y, Z)`` uint8, of each
            phase the structures in the order of the label table; of a photograph ``(structures, X, Y)``. ``None`` if
            they were not asked for.
        evidence: numbers that tell of doubt: what the bundle's transforms left, and ``expected_dice``, of all phases
            the lowest, unless the mask is empty; see :func:`convformer_monai.transforms.doubt.expected_dice`.
    """

    series: ImageSeries
    labels: MetaTensor
    seconds: dict[str, float] = field(default_factory=dict)
    disagreement: float | None = None
    notes: tuple[str, ...] = ()
    probabilities: MetaTensor | None = None
    evidence: dict[str, float] = field(default_factory=dict)


def choose_device(device: str = "auto") -> torch.device:
    """Returns a device that exists.

    Args:
        device: ``auto`` takes CUDA, then MPS, then the CPU; or ``cpu``, ``cuda``, ``cuda:N``, ``mps``.

    Raises:
        InputRefused: if this machine has no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputRefused(
            RefusalCode.DEVICE, f"{device!r} is not a device: give auto, cpu, cuda, cuda:N or mps"
        ) from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (chosen.index or 0) >= count.get(chosen.type, 0):
        raise InputRefused(RefusalCode.DEVICE, f"this machine has no device {device}; give --device auto or cpu")
    return chosen


class Segmenter:
    """A bundle, ready to segment.

    Everything but the loading of files is what the bundle's ``configs/inference.json`` names, so that the result is
    that of ``python -m monai.bundle run``.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`.
        device: see :func:`choose_device`.
        flips: average over the in-plane flips, and measure how far they disagree (five times the work).
        force_modality: take images of any modality.
        weights: file of a plain state dict that replaces the bundle's own weights, e.g. of a fine-tuning.
        overrides: values by id that replace those of ``configs/inference.json``.
        engine: what runs the network; see :func:`convformer_monai.engines.check_engine`. ``openvino`` is faster on a
            CPU, from the second image of a size on.

    Raises:
        InputRefused: if the bundle, the device, the engine or the weights cannot be used.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle = "cardiac",
        device: str = "auto",
        *,
        flips: bool = False,
        force_modality: bool = False,
        weights: str | Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        engine: str = "torch",
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
        check_engine(engine, self.bundle, device)
        self.device = choose_device("cpu" if engine == "openvino" else device)
        self.flips, self.force_modality, self.engine = flips, force_modality, engine
        self.config_sha256 = self.bundle.config_sha256  # now: the files may change while this object lives
        self.bundle.task  # noqa: B018 (unusable metadata are refused before the network is made)
        values = {"device": self.device, "flips": False, **(overrides or {})}
        if weights is not None:
            values |= {"weights": Path(weights), "weights_sha256": ""}
        has_probabilities = PROBABILITIES in self.bundle.read("inference")
        parts = self.bundle.get([*PARTS, *([PROBABILITIES] if has_probabilities else [])], "inference", values)
        self._prepare, self._inferer, self._to_labels = (parts[key] for key in PARTS[-3:])
        self._to_probabilities = parts.get(PROBABILITIES)
        if flips and not hasattr(self._inferer, "flips"):
            raise InputRefused(
                RefusalCode.OPTION, f"the inferer of {self.bundle.name} averages over no flips; leave --flips out"
            )
        self.modality = None if force_modality else parts["modality"]
        file, sha256 = parts["weights"], parts["weights_sha256"]
        network = load_weights(parts["network_def"], file, sha256, "cpu")
        self.weights_sha256: str = sha256 or file_sha256(Path(file))
        self.network = network.to(self.device).eval()
        self._other: Any = None  # what runs the network instead of torch
        self.runs_on = str(self.device)
        if engine == "openvino":
            from convformer_monai.openvino_network import OpenVinoNetwork

            definition = f"{self.config_sha256} {sorted((overrides or {}).items())}"
            self._other = OpenVinoNetwork(self.network, self.weights_sha256, definition)
            self.runs_on = f"{self.device}, OpenVINO {self._other.version}"
        # Two threads may segment: one has the network, the other the transforms, which MONAI changes while it inverts.
        self._turn, self._transforming = threading.Lock(), threading.Lock()

    @property
    def has_probabilities(self) -> bool:
        """Whether the bundle tells how probable its structures are."""
        return self._to_probabilities is not None

    def read(
        self,
        path: str | Path,
        *,
        series_uid: str | None = None,
        phase: int | str | None = "all",
        resample_uneven: bool = False,
    ) -> ImageSeries:
        """Reads an image for this bundle; see :func:`convformer_monai.readers.read_series`."""
        return read_series(
            path, series_uid=series_uid, phase=phase, modality=self.modality, resample_uneven=resample_uneven
        )

    def segment(self, x: Any) -> Any:
        """Segments an image and answers in kind.

        Args:
            x: a path or a :class:`ImageSeries`, which give a :class:`Segmentation`; or a MetaTensor ``(X, Y, Z)`` or
                ``(phases, X, Y, Z)``, or a nibabel, SimpleITK or itk image (3-D; 4-D with phases), which give a label
                map of the same type, uint8, on exactly the same grid.

        Raises:
            InputRefused: if the image cannot be used.
            TypeError: if ``x`` is none of these.
        """
        if isinstance(x, str | Path):
            started = time.perf_counter()
            series = self.read(x)
            result = self.run(series)
            return _with_seconds(result, read=time.perf_counter() - started - sum(result.seconds.values()))
        if isinstance(x, ImageSeries):
            return self.run(x)
        result = self.run(series_from(x))
        return like(x, result.labels.numpy())

    def prepare(self, series: ImageSeries) -> MetaTensor:
        """Prepares a series as the bundle does.

        Returns:
            What the network sees: ``(phases, X', Y', Z)``, of a photograph ``(C, X', Y')``, with its affine.

        Raises:
            InputRefused: if it is not of the kind that the bundle takes.
        """
        self._check(series)
        with self._transforming:
            return self._prepare({"image": self._own(series.image)})["image"]  # type: ignore[no-any-return]

    def network_input(self, prepared: MetaTensor, number: int | None = None) -> Tensor:
        """What the network sees of a slice, with the neighbours that the inferer shows it, or of a photograph.

        Args:
            prepared: of :meth:`prepare`; of a cine the first phase is taken.
            number: of the slice along Z; ``None`` of a photograph.

        Returns:
            ``(1, C, X', Y')``.
        """
        if number is None:
            return prepared.as_tensor()[None]
        if isinstance(self._inferer, SliceBatchInferer):
            return self._inferer.network_input(prepared, number)
        return prepared.as_tensor()[None, :1, ..., number]

    def _own(self, image: MetaTensor) -> MetaTensor:
        """An image that the preparation may change: a copy, unless it begins by making one, as ours of volumes do."""
        steps = self._prepare.flatten().transforms if isinstance(self._prepare, Compose) else [self._prepare]
        first = next((one for one in steps if type(one) is not InPlaneOrientationd), None)
        if type(first) is not InPlaneSpacingd:
            copied: MetaTensor = image.clone()
            return copied
        own = MetaTensor(image.as_tensor())
        own.copy_meta_from(image)
        return own

    def run(self, series: ImageSeries, probabilities: bool = False) -> Segmentation:
        """Segments a series.

        Args:
            series: the image.
            probabilities: also return how probable each structure is.

        Raises:
            InputRefused: if it is not of the kind that the bundle takes, or if the bundle has no probabilities.
        """
        self._check(series)
        if probabilities and self._to_probabilities is None:
            raise InputRefused(
                RefusalCode.OPTION, f"{self.bundle.name} has no {PROBABILITIES} in inference.json: no probabilities"
            )
        notes: list[str] = []
        start = time.perf_counter()
        with torch.inference_mode():
            with self._transforming:
                data: dict[Any, Any] = self._prepare({"image": self._own(series.image)})
            prepared = time.perf_counter()
            attempt = self._attempt()
            found = self._find(data, attempt, self.flips, notes, probabilities)
            disagreement = None
            if self.flips:
                plain = self._find(data, attempt, False, notes)
                disagreement = 1 - dice(found.labels.numpy(), plain.labels.numpy())
                found.native_grid += plain.network + plain.native_grid
        evidence = found.evidence | ({} if found.expected_dice is None else {EXPECTED_DICE: found.expected_dice})
        seconds = {"prepare": prepared - start, "network": found.network, "native_grid": found.native_grid}
        return Segmentation(series, found.labels, seconds, disagreement, tuple(notes), found.probabilities, evidence)

    def _find(
        self, data: Mapping[Any, Any], attempt: _Attempt, flips: bool, notes: list[str], probabilities: bool = False
    ) -> _Found:
        """Labels of a prepared image, a few phases at a time, so that not the scores of a whole cine are held."""
        image, found = data["image"], []
        for phases in self._groups(image):
            few = image[phases] if phases.stop - phases.start < len(image) else image
            found.append(self._find_in({**data, "image": few}, attempt, flips, notes, probabilities))
            if few is not image and found[0].evidence:  # numbers of the whole image
                return self._find_in(data, attempt, flips, notes, probabilities)
        return _joined(found)

    def _find_in(
        self, data: Mapping[Any, Any], attempt: _Attempt, flips: bool, notes: list[str], probabilities: bool
    ) -> _Found:
        """Labels of prepared phases, all at once."""
        scores = attempt.scores(data["image"], flips, notes)
        inferred = time.perf_counter()
        promised = self._promised(scores, data["image"])
        with self._transforming:
            likely = self._to_probabilities({**data, "pred": scores})["pred"] if probabilities else None
            given = [{**data, "pred": scores}]
            del scores  # half a gigabyte of a large volume
            labelled = _applied(self._to_labels, given)
        seconds = attempt.seconds, time.perf_counter() - inferred
        return _Found(labelled["pred"], likely, dict(labelled.get(EVIDENCE, {})), promised, *seconds)

    def _promised(self, scores: Tensor, image: Tensor) -> float | None:
        """The lowest Dice of a phase that its probabilities promise."""
        temperature = float(self.bundle.metadata.get("temperature", 1.0))
        phases = 1 if image.ndim == 3 else len(image)
        return _least([expected_dice(phase, temperature) for phase in scores.chunk(phases)])

    def _groups(self, image: MetaTensor) -> list[slice]:
        """Phases of (T, X, Y, Z) that go through the network together: as many as fill whole batches of slices.

        So each slice is in the batch in which it would be if all phases went at once: no bit differs. All go at once
        where the inferer looks at all of them, for a foreground.
        """
        if type(self._inferer) is not SliceBatchInferer or self._inferer.foreground is not None or image.ndim != 4:
            return [slice(0, len(image))]
        size = self._inferer.slice_batch_size
        count = size // math.gcd(size, image.shape[-1])
        return [slice(start, min(start + count, len(image))) for start in range(0, len(image), count)]

    def measure(self, result: Segmentation, *, ed: int | None = None, es: int | None = None) -> Measurements:
        """Measures what was segmented, as the command line does.

        Args:
            result: of this segmenter.
            ed: end-diastolic phase, from 0; ``None`` to find it.
            es: end-systolic phase, likewise.

        Returns:
            The numbers and flags; ``print(measurements.to_text())`` shows them.

        Raises:
            InputRefused: see :func:`convformer_monai.measurements.measure.measure`.
        """
        labels = result.labels.numpy()
        return measure(
            labels[0] if result.series.is_photo else labels,
            result.series,
            self.bundle.task,
            case=stem(result.series.path),
            bundle=self.bundle.name,
            ed=ed,
            es=es,
            disagreement=result.disagreement,
            disagreement_threshold=self.bundle.metadata.get("disagreement_threshold"),
            expected_dice_threshold=self.bundle.metadata.get("expected_dice_threshold"),
            evidence=result.evidence,
        )

    def _check(self, series: ImageSeries) -> None:
        """Refuses an image that this bundle does not take, as far as headers and values tell."""
        name, values = Path(series.path.name), series.image.numpy()
        grey = series.is_photo and is_grey(values)
        by_values = not series.is_photo and series.modality is None and looks_like_ct(values)
        seen = Glance(
            PHOTOGRAPH if series.is_photo else VOLUME,
            frozenset({"CT"} if by_values else ()),
            "values (air at -1000)" if by_values else "",
            grey,
        )
        self.bundle.check_kind(name, seen, force_modality=self.modality is None)
        found = mask_values(values) if grey or not series.is_photo else []
        if found:
            raise InputRefused(
                RefusalCode.NOT_AN_IMAGE,
                f"{name} holds only the values {', '.join(map(str, found))}: a mask, no image; "
                "convformer-monai measure -m measures it",
            )

    def scores(self, image: Tensor) -> Tensor:
        """Class scores of an image that :meth:`prepare` made, on the CPU.

        Returns:
            ``(phases * K, X', Y', Z)`` for ``K`` classes, of a photograph ``(K, X', Y')``.
        """
        with torch.inference_mode():
            return self._attempt().scores(image, False, [])

    def _attempt(self) -> _Attempt:
        """What runs the network for one image."""
        return _Attempt(self._other or self.network, copy.copy(self._inferer), self.device, self.device, self._turn)


@dataclass
class _Found:
    """What was found in some phases, and the seconds that network and labels took."""

    labels: MetaTensor
    probabilities: MetaTensor | None
    evidence: dict[str, float]
    expected_dice: float | None
    network: float
    native_grid: float


def _joined(found: Sequence[_Found]) -> _Found:
    """What was found in all phases, from that in groups of them."""
    first = found[0]
    if len(found) == 1:
        return first
    labels = _in_a_row([one.labels for one in found])
    likely = [one.probabilities for one in found if one.probabilities is not None]
    seconds = sum(one.network for one in found), sum(one.native_grid for one in found)
    promised = _least([one.expected_dice for one in found])
    return _Found(labels, _in_a_row(likely) if likely else None, first.evidence, promised, *seconds)


def _least(numbers: Sequence[float | None]) -> float | None:
    """The least of those that there are."""
    return min((number for number in numbers if number is not None), default=None)


def _in_a_row(phases: Sequence[MetaTensor]) -> MetaTensor:
    """Label maps (T, X, Y, Z) one after the other, with the metadata of the first."""
    result = MetaTensor(torch.cat([one.as_tensor() for one in phases]))
    result.copy_meta_from(phases[0])
    return result


@dataclass
class _Attempt:
    """Runs the network on one image; when the accelerator's memory runs out, with less, at last on the CPU."""

    network: Any
    inferer: Any
    home: torch.device
    device: torch.device
    turn: threading.Lock
    seconds: float = 0.0  # that the last scores took

    def scores(self, image: Tensor, flips: bool, notes: list[str]) -> Tensor:
        """Class scores on the CPU; says in ``notes`` what it had to do.

        One thread at a time: the others wait. The network ends where it was.
        """
        self.inferer.flips = flips
        with self.turn:
            start = time.perf_counter()
            try:
                return self._scores(image, notes)
            finally:
                self.seconds = time.perf_counter() - start
                _trim_heap()
                if self.device != self.home:
                    self.network.to(self.home)

    def _scores(self, image: Tensor, notes: list[str]) -> Tensor:
        if self.device != self.home:  # the group of phases before did not fit
            self.network.to(self.device)
        while True:
            try:
                return self.inferer(image[None].to(self.device), self.network)[0].cpu()  # type: ignore[no-any-return]
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                notes.append(self._use_less())
                logger.warning("%s", notes[-1])
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _use_less(self) -> str:
        slices = getattr(self.inferer, "slice_batch_size", 1)
        if slices > 1:
            self.inferer.slice_batch_size = slices // 2
            return f"out of memory on {self.device}: again with {slices // 2} slices at once"
        if self.device.type == "cpu":
            raise InputRefused(RefusalCode.OUT_OF_MEMORY, "the image does not fit into memory; segment one phase of it")
        device, self.device = self.device, torch.device("cpu")
        self.network.to(self.device)
        return f"out of memory on {device}: again on the CPU"


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory: on CPU and MPS torch says so in a RuntimeError's words only."""
    words = str(error).lower()
    known = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(one in words for one in known)


def _trim_heap() -> None:
    """Gives memory back that is free: the C library keeps it for later, hundreds of MB after a large image.

    glibc only, malloc_trim(3); elsewhere nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _applied(transform: Callable[..., Any], given: list[dict[Any, Any]]) -> dict[Any, Any]:
    """Takes the data out of a list, and applies a transform; of several in a row, it keeps nothing between them.

    ``Compose`` holds what it was given to its end: the scores of the network, beside those that the transforms made.
    """
    data = given.pop()
    for one in transform.flatten().transforms if isinstance(transform, Compose) else [transform]:
        data = apply_transform(one, data)  # type: ignore[assignment]
        _trim_heap()
    return data


def _with_seconds(result: Segmentation, **more: float) -> Segmentation:
    return replace(result, seconds={**more, **result.seconds})
