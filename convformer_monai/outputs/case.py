"""One case from file to files: read, segment, measure, write everything or nothing."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convformer_monai.bundle import Bundle
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.measurements.values import CSV_COLUMNS, Measurements
from convformer_monai.outputs.atomic import AtomicFiles, check_writable, write_text
from convformer_monai.outputs.journal import tidy_up
from convformer_monai.outputs.made_by import made_by_segmenter
from convformer_monai.outputs.measurements import write_measurements
from convformer_monai.outputs.writer import MOMENTS, Options, Result, check_pixel_size, path_for
from convformer_monai.readers.cases import Case, stem
from convformer_monai.readers.file_stamp import file_stamp

if TYPE_CHECKING:
    from convformer_monai.readers.series import ImageSeries
    from convformer_monai.segmenter import Segmenter

__all__ = ["check_name", "finished", "folder_for", "measure_mask", "merge_measurements", "process"]

logger = logging.getLogger(__name__)

TABLE = "measurements.csv"
MAX_NAME_BYTES = 255  # of one file name, on all common file systems


def process(
    segmenter: Segmenter,
    case: Case,
    output_dir: Path,
    options: Options,
    *,
    tidy: bool = True,
    input_stamp: str | None = None,
) -> tuple[tuple[Path, ...], Measurements]:
    """Does a whole case.

    Args:
        segmenter: the loaded bundle.
        case: image and name of the results.
        output_dir: the results go to ``output_dir/<case.name>_*``.
        options: what to write.
        tidy: see :func:`folder_for`.
        input_stamp: of an image that was fetched from elsewhere; ``None`` takes that of its path.

    Returns:
        The files written, and the measurements.

    Raises:
        InputRefused: if the image or an option cannot be used, or a result cannot be written; nothing is left then.
            What options, header and folder tell is refused before the network runs.
    """
    from convformer_monai.measurements.measure import measure

    check_name(case.name, options)
    base = folder_for(output_dir, case.name, tidy=tidy)
    _refuse_existing(base, options)
    bundle, start = segmenter.bundle, time.perf_counter()
    stamp = input_stamp if input_stamp is not None else file_stamp(case.path, output_dir) or ""
    series = segmenter.read(
        case.path,
        series_uid=options.series_uid,
        phase=options.phase_to_read,
        resample_uneven=options.resample_uneven,
    )
    if options.mm_per_pixel is not None:
        series = series.with_pixel_size(options.mm_per_pixel)
    seconds = {"read": time.perf_counter() - start}
    _check_before(series, bundle, options)
    found = segmenter.run(series, options.probabilities or (options.report and segmenter.has_probabilities))
    seconds.update(found.seconds)
    start = time.perf_counter()
    labels = found.labels.numpy()[0] if series.is_photo else found.labels.numpy()
    probabilities = None if found.probabilities is None else _by_structure(found.probabilities.numpy(), series)
    measurements = measure(
        labels,
        series,
        bundle.task,
        case=case.name,
        bundle=bundle.name,
        ed=options.ed,
        es=options.es,
        disagreement=found.disagreement,
        evidence=found.evidence,
        disagreement_threshold=bundle.metadata.get("disagreement_threshold"),
        expected_dice_threshold=bundle.metadata.get("expected_dice_threshold"),
    )
    seconds["measure"] = time.perf_counter() - start
    run = {
        "weights_sha256": segmenter.weights_sha256,
        "device": segmenter.runs_on,
        "seconds": seconds,
        "notes": found.notes,
        "evidence": found.evidence,
        "made_by": made_by_segmenter(segmenter, options, stamp),
    }
    whole = Result(series, labels, measurements, bundle, options, series, run, probabilities, flips=segmenter.flips)
    result = _kept(whole, options.phase)
    before = _written_before(base)
    with AtomicFiles(overwrite=options.overwrite) as files:
        for writer in options.writers():
            result.written.extend(writer.write(base, result, files))
    for path in before:
        if path not in result.written and path.is_file():
            logger.warning("%s is of an earlier run, and not replaced: it may belong to another mask", path)
    return tuple(result.written), measurements


def _by_structure(probabilities: NDArray[np.uint8], series: ImageSeries) -> NDArray[np.uint8]:
    """Probabilities, phase-major, as the writers take them: (structures, phases, X, Y, Z), photographs as they are."""
    if series.is_photo:
        return probabilities
    phases = len(series.phases)
    return np.moveaxis(probabilities.reshape(phases, -1, *probabilities.shape[1:]), 1, 0)


def _check_before(series: ImageSeries, bundle: Bundle, options: Options) -> None:
    """Refuses before the network runs what the image tells."""
    from convformer_monai.measurements.measure import check_phases

    check_phases(series, bundle.task, options.ed, options.es, bundle.name)
    if options.phase in MOMENTS:
        is_only = len(series.phases) == 1 and getattr(options, options.phase) is None
        if is_only or options.phase not in bundle.task.moments:
            raise _no_such_moment(series, options.phase)
    for writer in options.writers():
        writer.check_image(series)


def _kept(result: Result, phase: str) -> Result:
    """Returns the result with all phases, or with the one that is end-diastolic or end-systolic."""
    from monai.data import MetaTensor

    series = result.series
    if phase not in MOMENTS:
        return result
    chosen = result.measurements.details.get(phase, {}).get("phase")
    if chosen is None:
        raise _no_such_moment(series, phase)
    index = series.phases.index(chosen)
    image = MetaTensor(series.image.as_tensor()[index : index + 1]).copy_meta_from(series.image)
    one = replace(
        series,
        image=image,
        phases=(series.phases[index],),
        phase_times_ms=series.phase_times_ms[index : index + 1],
        frames=series.frames[index : index + 1],
    )
    likely = None if result.probabilities is None else result.probabilities[:, index : index + 1]
    return replace(result, series=one, labels=result.labels[index : index + 1], probabilities=likely)


def _no_such_moment(series: ImageSeries, phase: str) -> InputRefused:
    return InputRefused(
        RefusalCode.PHASE_NOT_FOUND,
        f"{series.path.name} has no phase that is known to be {phase}; leave --phase out, or give --{phase} too",
    )


def folder_for(output_dir: Path, name: str, *, tidy: bool = True) -> Path:
    """Makes the folder of a case's results, and tidies up after runs that were killed there.

    Args:
        output_dir: output folder.
        name: of the case.
        tidy: whether to tidy up, which reads the names of all files there; false where the caller has seen to it.

    Returns:
        The beginning of the paths of its results.

    Raises:
        InputRefused: if the folder cannot be made, or written to.
    """
    base = Path(output_dir).expanduser() / name if name else Path(output_dir).expanduser() / "x"
    check_writable(base.parent, "give another --output")
    if tidy:
        tidy_up(base.parent)
    return base


def check_name(name: str, options: Options) -> None:
    """Refuses the name of a case to which the endings of its results cannot be added.

    Args:
        name: of the case.
        options: what to write.

    Raises:
        InputRefused: ``NAME_TOO_LONG``.
    """
    suffixes = [suffix.replace("*", "000") for writer in options.writers() for suffix in writer.suffixes]
    most = MAX_NAME_BYTES - max(map(len, suffixes))
    size = len(os.fsencode(Path(name).name))
    if size > most:
        raise InputRefused(
            RefusalCode.NAME_TOO_LONG,
            f"{name}: the name has {size} bytes, and with more than {most} its results cannot be named; rename it",
        )


def _written_before(base: Path) -> list[Path]:
    """The files that the report of an earlier run names; none without a report."""
    try:
        report = json.loads(path_for(base, "_report.json").read_text(encoding="utf-8"))
        return [base.parent / Path(name).name for name in report["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _refuse_existing(base: Path, options: Options) -> None:
    """Refuses before the work what would be refused after it."""
    if options.overwrite:
        return
    for writer in options.writers():
        for path in writer.existing(base):
            raise InputRefused(RefusalCode.EXISTS, f"{path} exists already; give --overwrite or another output folder")


def finished(
    case: Case, output_dir: Path, segmenter: Segmenter, options: Options, *, tidy: bool = True
) -> dict[str, Any] | None:
    """Tells whether a case was done before: by this bundle and these options, from this input, and completely.

    Args:
        case: image and name of the results.
        output_dir: output folder.
        segmenter: the loaded bundle.
        options: what to write.
        tidy: see :func:`folder_for`.

    Returns:
        Its measurements, or ``None`` if it is to be done.
    """
    base = folder_for(output_dir, case.name, tidy=tidy)
    try:
        report = json.loads(path_for(base, "_report.json").read_text(encoding="utf-8"))
        measurements: dict[str, Any] = json.loads(path_for(base, "_measurements.json").read_text(encoding="utf-8"))
        complete = all((base.parent / name).is_file() for name in report["files"])
        same = report["made_by"] == made_by_segmenter(segmenter, options, file_stamp(case.path, output_dir) or "")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return measurements if complete and same else None


def merge_measurements(output_dir: Path) -> Path:
    """Writes ``measurements.csv`` of all cases of an output folder, whichever run did them, in place of an older one.

    Args:
        output_dir: output folder.
    """
    path = folder_for(output_dir, TABLE)
    rows: list[dict[str, str]] = []
    for part in sorted(path.parent.rglob(f"*_{TABLE}")):
        if path_for(part.with_name(part.name.removesuffix(f"_{TABLE}")), "_report.json").is_file():
            with part.open(encoding="utf-8", newline="") as file:
                rows += csv.DictReader(file)
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)  # of an earlier version one may have fewer columns
    write_text(path, text.getvalue(), overwrite=True)
    return path


def measure_mask(
    mask: Path,
    bundle: str | Path,
    *,
    ed: int | None = None,
    es: int | None = None,
    mm_per_pixel: float | None = None,
    output: Path | None = None,
    overwrite: bool = False,
) -> Measurements:
    """Measures an existing label map.

    Args:
        mask: NIfTI, NRRD or MetaImage (4-D for a cine), DICOM SEG (of a cine the folder of them), or for a
            photograph a picture of two grey levels, 0 and 255 or 0 and 1.
        bundle: whose structures its labels are.
        ed: end-diastolic phase; ``None`` to find it.
        es: end-systolic phase; ``None`` to find it.
        mm_per_pixel: side of a pixel of a photograph's mask; ``None`` counts pixels.
        output: folder for ``<mask>_measurements.json`` and ``.csv``; ``None`` writes nothing.
        overwrite: replace results that exist.

    Raises:
        InputRefused: if the file is not a label map of this bundle, or a result cannot be written.
    """
    from convformer_monai.measurements.measure import measure
    from convformer_monai.readers import read_series
    from convformer_monai.readers.dicom.masks import find_dicom_masks, read_dicom_masks
    from convformer_monai.readers.values import GREY, is_grey
    from convformer_monai.transforms.photo import binary_mask

    check_pixel_size(mm_per_pixel)
    if output is not None:
        check_name(stem(mask), Options())
    source = Bundle(bundle)
    table = source.labels
    segmentations = find_dicom_masks(mask)
    series = read_dicom_masks(segmentations, table) if segmentations else read_series(mask, phase="all")
    if mm_per_pixel is not None:
        series = series.with_pixel_size(mm_per_pixel)
    values = series.image.numpy()
    if series.is_photo:
        values = binary_mask(values[0] if is_grey(values) else values, mask)
        series = replace(series, warnings=tuple(note for note in series.warnings if note != GREY))
    known = {0, *(label.index for label in table)}
    found = set(np.unique(values).tolist())
    if not found <= known:
        strange = ", ".join(f"{value:g}" for value in sorted(found - known)[:5])
        raise InputRefused(
            RefusalCode.NOT_A_MASK, f"{mask} holds {strange}; a mask of {source.name} holds {sorted(known)} only"
        )
    measurements = measure(
        values.astype(np.uint8), series, source.task, case=mask.name, bundle=source.name, ed=ed, es=es, of_image=False
    )
    if output is not None:
        base = folder_for(output, stem(mask))
        with AtomicFiles(overwrite=overwrite) as files:
            write_measurements(base, measurements, files)
    return measurements
