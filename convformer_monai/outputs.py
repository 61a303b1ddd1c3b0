"""One case from file to files: read, segment, measure, write everything or nothing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray

from convformer_monai.catalogue import bundle_path
from convformer_monai.errors import InputRefused
from convformer_monai.labels import table_of
from convformer_monai.readers import Case, ImageSeries, read_series, stem
from convformer_monai.results.atomic import AtomicFiles, write_atomically
from convformer_monai.results.dicom_masks import find_dicom_masks, read_dicom_masks
from convformer_monai.results.dicom_seg import write_dicom_seg
from convformer_monai.results.dicom_sr import write_dicom_sr
from convformer_monai.results.label_files import write_label_files
from convformer_monai.results.masks import write_mask, write_png_mask
from convformer_monai.results.measure import measure
from convformer_monai.results.measurements import Measurements, to_csv, write_text
from convformer_monai.results.preview import write_preview
from convformer_monai.results.report import make_report, write_report
from convformer_monai.segmenter import Segmentation, Segmenter

__all__ = ["FORMATS", "Options", "finished", "folder_for", "measure_mask", "merge_measurements", "process"]

logger = logging.getLogger(__name__)

FORMATS = ("nifti", "dicom-seg", "dicom-sr")
MOMENTS = ("ed", "es")


@dataclass(frozen=True)
class Options:
    """What to write of a case, and what to take of its image.

    Attributes:
        formats: of :data:`FORMATS`. Photographs: ``nifti`` beside the PNG, which is always written.
        seg_type: ``BINARY`` or ``LABELMAP`` DICOM segmentation.
        preview: also write a picture.
        phase: ``all``, ``ed``, ``es``, or the 0-based number of the phase to keep.
        ed: end-diastolic phase, 0-based; ``None`` to find it.
        es: end-systolic phase; ``None`` to find it.
        series_uid: DICOM series to take.
        resample_uneven: see :func:`convformer_monai.readers.read_series`.
        overwrite: replace results that exist.
    """

    formats: tuple[str, ...] = ("nifti",)
    seg_type: str = "BINARY"
    preview: bool = False
    phase: str = "all"
    ed: int | None = None
    es: int | None = None
    series_uid: str | None = None
    resample_uneven: bool = False
    overwrite: bool = False

    def check(self) -> None:
        """Refuses what is no option, before any work is done.

        Raises:
            InputRefused: naming the option, its value and what is allowed.
        """
        for name in self.formats:
            if name not in FORMATS:
                raise InputRefused("OPTION", f"--format {name!r} is unknown; give one or more of {', '.join(FORMATS)}")
        if not self.formats:
            raise InputRefused("OPTION", f"--format is empty; give one or more of {', '.join(FORMATS)}")
        if self.phase not in ("all", *MOMENTS) and not (self.phase.isascii() and self.phase.isdigit()):
            raise InputRefused("OPTION", f"--phase {self.phase!r} is unknown; give all, ed, es or a number from 0")

    @property
    def phase_to_read(self) -> int | str:
        """The phase for the reader: ED and ES are only known when all phases are segmented."""
        return int(self.phase) if self.phase.isdigit() else "all"

    def recorded(self) -> dict[str, Any]:
        """The options that shape the results, as the report holds them."""
        options = asdict(self)
        del options["overwrite"]
        return {**options, "formats": list(self.formats)}


def process(
    segmenter: Segmenter, case: Case, output_dir: Path, options: Options
) -> tuple[tuple[Path, ...], dict[str, Any]]:
    """Does a whole case.

    Args:
        segmenter: the loaded bundle.
        case: image and name of the results.
        output_dir: the results go to ``output_dir/<case.name>_*``.
        options: what to write.

    Returns:
        The files written, and the measurements as JSON types.

    Raises:
        InputRefused: if the image or an option cannot be used, or a result cannot be written; nothing is left then.
    """
    base = folder_for(output_dir, case.name)
    _refuse_existing(base, options)
    start = time.perf_counter()
    series = segmenter.read(
        case.path,
        series_uid=options.series_uid,
        phase=options.phase_to_read,
        resample_uneven=options.resample_uneven,
    )
    seconds = {"read": time.perf_counter() - start}
    if ({"dicom-seg", "dicom-sr"} & set(options.formats)) and series.format != "dicom" and not series.frames:
        raise InputRefused("NOT_DICOM", f"{case.path} is no DICOM image, and only those get DICOM results; use nifti")
    result = segmenter.run(series)
    seconds.update(result.seconds)
    start = time.perf_counter()
    measurements = measure(
        _array(result),
        series,
        segmenter.name,
        case=case.name,
        ed=options.ed,
        es=options.es,
        disagreement=result.disagreement,
        disagreement_threshold=segmenter.metadata.get("disagreement_threshold"),
    )
    seconds["measure"] = time.perf_counter() - start
    kept, labels = _kept(result, measurements, options.phase)
    with AtomicFiles(overwrite=options.overwrite) as files:
        written = _write(base, kept, labels, measurements, segmenter, options, files)
        report = make_report(
            series,
            measurements=measurements,
            bundle=segmenter.name,
            bundle_version=str(segmenter.metadata.get("version", "")),
            weights_sha256=segmenter.weights_sha256,
            device=str(segmenter.device),
            seconds=seconds,
            options=options.recorded(),
            notes=result.notes,
            files=[path.name for path in written],
        )
        written.append(_place(base, "_report.json"))
        write_report(written[-1], report, files=files)
    for flag in measurements.flags:
        logger.warning("%s: %s", case.name, flag.message)
    return tuple(written), measurements.to_dict()


def _array(result: Segmentation) -> NDArray[np.uint8]:
    """Labels as the writers want them: ``(phases, X, Y, Z)``, of a photograph ``(X, Y)``."""
    labels: NDArray[np.uint8] = result.labels.numpy()
    return labels[0] if result.series.is_photo else labels


def _kept(result: Segmentation, measurements: Measurements, phase: str) -> tuple[ImageSeries, NDArray[np.uint8]]:
    """Returns the series and labels to write: all phases, or the one that is end-diastolic or end-systolic."""
    series, labels = result.series, _array(result)
    if phase not in MOMENTS:
        return series, labels
    chosen = measurements.details.get(phase, {}).get("phase")
    if chosen is None:
        raise InputRefused(
            "PHASE_NOT_FOUND",
            f"{series.path.name} has no phase that is known to be {phase}; leave --phase out, or give --{phase} too",
        )
    place = series.phases.index(chosen)
    image = MetaTensor(series.image.as_tensor()[place : place + 1]).copy_meta_from(series.image)
    one = replace(
        series,
        image=image,
        phases=(series.phases[place],),
        phase_times_ms=series.phase_times_ms[place : place + 1],
        frames=series.frames[place : place + 1],
    )
    return one, labels[place : place + 1]


def _write(
    base: Path,
    series: ImageSeries,
    labels: NDArray[np.uint8],
    measurements: Measurements,
    segmenter: Segmenter,
    options: Options,
    files: AtomicFiles,
) -> list[Path]:
    """Stages the results of a case; returns their places."""
    written: list[Path] = []
    version = str(segmenter.metadata.get("version", "unknown"))
    if series.is_photo:
        written.append(_place(base, "_seg.png"))
        write_png_mask(written[-1], labels, series, files=files)
    if "nifti" in options.formats and not series.is_photo:
        written.append(_place(base, "_seg.nii.gz"))
        write_mask(written[-1], labels, series, files=files)
    written += write_label_files(base.parent, base.name, segmenter.labels, files=files)
    written.append(_place(base, "_measurements.json"))
    write_text(written[-1], measurements.to_json(), files=files)
    written.append(_place(base, "_measurements.csv"))
    write_text(written[-1], to_csv([measurements]), files=files)
    if options.preview:
        written.append(_place(base, "_preview.png"))
        write_preview(written[-1], series, labels, segmenter.labels, measurements, files=files)
    segments: list[Path] = []
    if {"dicom-seg", "dicom-sr"} & set(options.formats):
        segments = write_dicom_seg(
            _place(base, "_seg.dcm"),
            labels,
            series,
            segmenter.labels,
            kind=options.seg_type,
            algorithm_name=segmenter.name,
            algorithm_version=version,
            files=files,
        )
        written += segments
    if "dicom-sr" in options.formats:
        written.append(_place(base, "_sr.dcm"))
        write_dicom_sr(written[-1], measurements, series, segments, algorithm_version=version, files=files)
    return written


def _place(base: Path, ending: str) -> Path:
    return base.with_name(base.name + ending)


def folder_for(output_dir: Path, name: str) -> Path:
    """Makes the folder of a case's results.

    Args:
        output_dir: output folder.
        name: of the case.

    Returns:
        The beginning of the paths of its results.

    Raises:
        InputRefused: if the folder cannot be made.
    """
    base = Path(output_dir).expanduser() / name if name else Path(output_dir).expanduser() / "x"
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputRefused(
            "CANNOT_WRITE", f"the folder {base.parent} cannot be made: {error.strerror}; give another --output"
        ) from error
    return base


def _refuse_existing(base: Path, options: Options) -> None:
    """Refuses before the work what would be refused after it."""
    for ending in ("_report.json", "_seg.nii.gz", "_seg.png"):
        if _place(base, ending).exists() and not options.overwrite:
            raise InputRefused(
                "EXISTS", f"{_place(base, ending)} exists already; give --overwrite or another output folder"
            )


def finished(case: Case, output_dir: Path, segmenter: Segmenter, options: Options) -> dict[str, Any] | None:
    """Tells whether a case was done before: by these weights and options, from this input, and completely.

    Returns:
        Its measurements, or ``None`` if it is to be done.
    """
    base = folder_for(output_dir, case.name)
    report_file = _place(base, "_report.json")
    try:
        report = json.loads(report_file.read_text(encoding="utf-8"))
        measurements: dict[str, Any] = json.loads(_place(base, "_measurements.json").read_text(encoding="utf-8"))
        complete = all((base.parent / name).is_file() for name in report["files"])
        same = (
            report["options"] == options.recorded() and report["bundle"]["weights_sha256"] == segmenter.weights_sha256
        )
        older = _newest(case.path) <= report_file.stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return measurements if complete and same and older else None


def _newest(path: Path) -> float:
    """Time of the last change of a file, or of anything in a folder."""
    times = (one.stat().st_mtime for one in (path, *(path.rglob("*") if path.is_dir() else ())))
    return float(max(times))


def merge_measurements(output_dir: Path, names: Sequence[str]) -> Path:
    """Writes ``measurements.csv`` of many cases, which is replaced if it exists.

    Args:
        output_dir: output folder.
        names: of the cases, all done.
    """
    path = folder_for(output_dir, "measurements.csv")
    parts = [_place(folder_for(output_dir, name), "_measurements.csv").read_bytes() for name in names]
    content = b"".join(part if place == 0 else part.split(b"\n", 1)[1] for place, part in enumerate(parts))
    write_atomically(
        path, lambda place: place.write_bytes(content), lambda place: place.read_bytes() == content, overwrite=True
    )
    return path


def measure_mask(
    mask: Path,
    bundle: str | Path,
    *,
    ed: int | None = None,
    es: int | None = None,
    output: Path | None = None,
    overwrite: bool = False,
) -> Measurements:
    """Measures an existing label map.

    Args:
        mask: NIfTI, NRRD or MetaImage (4-D for a cine), DICOM SEG (of a cine the folder of them), or PNG for a
            photograph.
        bundle: whose structures its labels are.
        ed: end-diastolic phase; ``None`` to find it.
        es: end-systolic phase; ``None`` to find it.
        output: folder for ``<mask>_measurements.json`` and ``.csv``; ``None`` writes nothing.
        overwrite: replace results that exist.

    Raises:
        InputRefused: if the file is no label map of this bundle, or a result cannot be written.
    """
    root = bundle_path(bundle).resolve()
    name, table = root.name, table_of(root.name, json.loads((root / "configs" / "metadata.json").read_text()))
    segmentations = find_dicom_masks(mask)
    series = read_dicom_masks(segmentations, table) if segmentations else read_series(mask, phase="all")
    values = series.image.numpy()
    if series.is_photo:
        values = (values.max(axis=0) > 127).astype(np.uint8)
    known = {0, *(label.index for label in table)}
    found = set(np.unique(values).tolist())
    if not found <= known:
        strange = ", ".join(f"{value:g}" for value in sorted(found - known)[:5])
        raise InputRefused(
            "NOT_A_MASK", f"{mask} holds {strange}; a mask of the bundle {name} holds {sorted(known)} only"
        )
    measurements = measure(
        values.astype(np.uint8), series, name, case=mask.name, ed=ed, es=es, of_image=False, labels_table=table
    )
    if output is not None:
        base = folder_for(output, stem(mask))
        with AtomicFiles(overwrite=overwrite) as files:
            write_text(_place(base, "_measurements.json"), measurements.to_json(), files=files)
            write_text(_place(base, "_measurements.csv"), to_csv([measurements]), files=files)
    return measurements
