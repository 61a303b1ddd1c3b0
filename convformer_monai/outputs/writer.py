"""What writes a kind of result, and which kinds there are: one file each, which registers itself.

Writers refuse as early as they can: ``check`` sees the options before anything is loaded, ``check_image`` the series
before the network runs. This module, and importing any writer, costs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from glob import escape
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from convformer_monai.errors import InputRefused, RefusalCode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from convformer_monai.bundle import Bundle
    from convformer_monai.measurements.values import Measurements
    from convformer_monai.outputs.atomic import AtomicFiles
    from convformer_monai.readers.series import ImageSeries

__all__ = ["Options", "Result", "Writer", "check_pixel_size", "path_for", "register_writer", "sum_of", "writers"]

MOMENTS = ("ed", "es")
PIXEL_SIZES_MM = (0.0001, 10.0)  # of a photograph


@dataclass(frozen=True)
class Options:
    """What to write of a case, and what to take of its image.

    Attributes:
        formats: names of writers. Of photographs a PNG is always written.
        seg_type: ``BINARY`` or ``LABELMAP`` DICOM segmentation.
        preview: also write a picture.
        report: also write a page for a browser.
        probabilities: also write how probable the structures are.
        phase: ``all``, ``ed``, ``es``, or the 0-based number of the phase to keep.
        ed: end-diastolic phase, 0-based; ``None`` to find it.
        es: end-systolic phase; ``None`` to find it.
        series_uid: DICOM series to take.
        resample_uneven: see :func:`convformer_monai.readers.read_series`.
        mm_per_pixel: side of a pixel of a photograph; ``None`` for what a DICOM header says, else pixels are counted.
        overwrite: replace results that exist.
    """

    formats: tuple[str, ...] = ("nifti",)
    seg_type: str = "BINARY"
    preview: bool = False
    report: bool = False
    probabilities: bool = False
    phase: str = "all"
    ed: int | None = None
    es: int | None = None
    series_uid: str | None = None
    resample_uneven: bool = False
    mm_per_pixel: float | None = None
    overwrite: bool = False

    def check(self) -> None:
        """Refuses wrong options, and formats that cannot be written here, before any work is done.

        Raises:
            InputRefused: naming the option, its value and what is allowed; ``MISSING_PACKAGE``.
        """
        formats = [writer.name for writer in writers() if writer.on_request]
        for name in self.formats:
            if name not in formats:
                raise InputRefused(
                    RefusalCode.OPTION, f"--format {name!r} is unknown; give one or more of {', '.join(formats)}"
                )
        if not self.formats:
            raise InputRefused(RefusalCode.OPTION, f"--format is empty; give one or more of {', '.join(formats)}")
        if self.phase not in ("all", *MOMENTS) and not (self.phase.isascii() and self.phase.isdigit()):
            raise InputRefused(
                RefusalCode.OPTION, f"--phase {self.phase!r} is unknown; give all, ed, es or a number from 0"
            )
        check_pixel_size(self.mm_per_pixel)
        for writer in self.writers():
            writer.check(self)

    def writers(self) -> list[Writer]:
        """The writers that these options ask for, in the order in which they write."""
        return [writer for writer in writers() if writer.is_asked_for(self)]

    @property
    def phase_to_read(self) -> int | str:
        """The phase for the reader: ED and ES are only known when all phases are segmented."""
        return int(self.phase) if self.phase.isdigit() else "all"

    def recorded(self) -> dict[str, Any]:
        """The options that shape the results, as the report holds them."""
        options = asdict(self)
        del options["overwrite"]
        formats = [writer.name for writer in writers() if writer.name in self.formats]  # in whatever order they come
        return {**options, "formats": formats}


def check_pixel_size(mm_per_pixel: float | None) -> None:
    """Refuses a pixel size of a photograph that cannot be.

    Raises:
        InputRefused: ``OPTION``.
    """
    low, high = PIXEL_SIZES_MM
    if mm_per_pixel is not None and not low <= mm_per_pixel <= high:
        raise InputRefused(RefusalCode.OPTION, f"--mm-per-pixel must be from {low:g} to {high:g}, got {mm_per_pixel:g}")


@dataclass(frozen=True)
class Result:
    """One case that is done, as the writers get it.

    Attributes:
        series: the image, of the phases to write.
        labels: (phases, X, Y, Z) uint8, of a photograph (X, Y).
        measurements: of the whole case.
        bundle: what made it.
        options: what to write.
        source: the whole image.
        run: how it was made: ``weights_sha256``, ``device``, ``seconds``, ``notes``, ``evidence`` and ``made_by``.
        probabilities: of each structure, times 255: (structures, phases, X, Y, Z), of a photograph (structures, X, Y),
            in the order of the label table; if they or a page were asked for and the bundle has them.
        written: the files so far; a writer sees those of the writers before it.
        flips: the labels are averaged over flips of the image.
    """

    series: ImageSeries
    labels: NDArray[np.uint8]
    measurements: Measurements
    bundle: Bundle
    options: Options
    source: ImageSeries
    run: Mapping[str, Any] = field(default_factory=dict)
    probabilities: NDArray[np.uint8] | None = None
    written: list[Path] = field(default_factory=list)
    flips: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the whole image's voxels and affine; see :func:`convformer_monai.outputs.report.fingerprint`."""
        from convformer_monai.outputs.report import fingerprint

        return fingerprint(self.source)

    @cached_property
    def mask_hash(self) -> str:
        """SHA-256 of the labels."""
        import hashlib

        return hashlib.sha256(self.labels.tobytes()).hexdigest()

    @property
    def any_probability(self) -> NDArray[np.uint8] | None:
        """That a voxel belongs to any structure, times 255, of the shape of ``labels``."""
        return None if self.probabilities is None else sum_of(self.probabilities)


def sum_of(probabilities: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the probability of any structure, from those of each.

    Args:
        probabilities: (structures, ...), times 255.
    """
    import numpy as np

    total: NDArray[np.uint8] = probabilities[0]
    if len(probabilities) > 1:
        total = np.minimum(probabilities.sum(axis=0, dtype=np.uint16), 255).astype(np.uint8)
    return total


class Writer:
    """Writes one kind of result.

    Attributes:
        name: as in ``--format``.
        suffixes: of its files' names after the case's; ``*`` for what only the image tells.
        order: writers of a smaller number come first.
        on_request: whether ``--format`` asks for it.
    """

    name: str
    suffixes: tuple[str, ...]
    order = 50
    on_request = False

    def is_asked_for(self, options: Options) -> bool:
        """Whether the options ask for this."""
        return self.name in options.formats if self.on_request else True

    def check(self, options: Options) -> None:
        """Refuses what the options and the installed packages tell.

        Raises:
            InputRefused: before torch is imported.
        """

    def check_image(self, series: ImageSeries) -> None:
        """Refuses an image of which this cannot be written.

        Raises:
            InputRefused: before the network runs.
        """

    def write(self, base: Path, result: Result, files: AtomicFiles) -> Sequence[Path]:
        """Stages the files of a case.

        Args:
            base: folder and name of the case; see :func:`path_for`.
            result: the case.
            files: the open transaction.

        Returns:
            The files.
        """
        raise NotImplementedError

    def existing(self, base: Path) -> list[Path]:
        """Files that are there already."""
        return [path for suffix in self.suffixes for path in base.parent.glob(escape(base.name) + suffix)]


_WRITERS: dict[str, Writer] = {}


def register_writer(writer: Writer) -> None:
    """Adds a kind of result.

    Args:
        writer: of a new name.

    Raises:
        ValueError: if there is one of that name.
    """
    if writer.name in _WRITERS:
        raise ValueError(f"name must be new, and there is a writer {writer.name!r} already")
    _WRITERS[writer.name] = writer


def writers() -> list[Writer]:
    """All writers, in the order in which they write: those of the files in this folder, and those registered."""
    for module in iter_modules([str(Path(__file__).parent)]):
        if not module.ispkg:
            import_module(f"convformer_monai.outputs.{module.name}")
    return sorted(_WRITERS.values(), key=lambda writer: writer.order)


def path_for(base: Path, suffix: str) -> Path:
    """The path of a case's file.

    Args:
        base: folder and name of the case.
        suffix: what comes after the name.
    """
    return base.with_name(base.name + suffix)
