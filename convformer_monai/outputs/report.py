"""How a result came about: versions, weights, input, choices, doubts and times, without personal data."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convformer_monai import __version__
from convformer_monai.measurements.values import Measurements
from convformer_monai.outputs.atomic import AtomicFiles, write_text
from convformer_monai.outputs.writer import Result, Writer, path_for, register_writer

if TYPE_CHECKING:
    from convformer_monai.readers.series import ImageSeries

__all__ = ["describe", "fingerprint", "make_report", "versions", "write_report"]

SCHEMA, SCHEMA_VERSION = "convformer_monai.report", 1
PACKAGES = ("monai", "torch", "numpy")
SECONDS_DIGITS = EVIDENCE_DIGITS = 4


class ReportWriter(Writer):
    """``x_report.json``: the last file, which names the others."""

    name = "report"
    suffixes = ("_report.json",)
    order = 90

    def write(self, base: Path, result: Result, files: AtomicFiles) -> list[Path]:
        """Stages the report."""
        path = path_for(base, self.suffixes[0])
        report = make_report(
            result.source,
            measurements=result.measurements,
            bundle=result.bundle.name,
            bundle_version=result.bundle.version,
            licence=result.bundle.licence(result.run["weights_sha256"]),
            options=result.options.recorded(),
            files=result.written,
            **result.run,
        )
        write_report(path, report, files=files)
        return [path]


def make_report(
    series: ImageSeries,
    *,
    measurements: Measurements,
    bundle: str,
    bundle_version: str,
    licence: Mapping[str, str],
    weights_sha256: str,
    device: str,
    seconds: Mapping[str, float],
    options: Mapping[str, Any],
    notes: Sequence[str],
    evidence: Mapping[str, float],
    files: Sequence[str | os.PathLike[str]],
    made_by: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Makes the report of a case, as JSON types.

    It holds no paths, only the names of the files that were written, and of DICOM no value but the modality.

    Args:
        series: the image.
        measurements: of its mask.
        bundle: name of the bundle.
        bundle_version: its version.
        licence: of its ``code`` and of the ``weights``.
        weights_sha256: SHA-256 of its weights.
        device: on which it ran.
        seconds: time taken by each stage.
        options: what the user chose.
        notes: what happened on the way.
        evidence: numbers of doubt that the bundle's transforms left.
        files: the results.
        made_by: what they follow from; see :func:`convformer_monai.outputs.made_by.made_by`.
    """
    details = measurements.details
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
        "bundle": {"name": bundle, "version": bundle_version, "weights_sha256": weights_sha256},
        "licence": dict(licence),
        "input": describe(series),
        **{moment: dict(details[moment]) for moment in ("ed", "es") if moment in details},
        "flags": [{"code": flag.code, "message": flag.message} for flag in measurements.flags],
        "warnings": list(series.warnings),
        "notes": list(notes),
        "evidence": {name: round(float(number), EVIDENCE_DIGITS) for name, number in evidence.items()},
        "options": dict(options),
        "device": device,
        "seconds": {stage: round(float(time), SECONDS_DIGITS) for stage, time in seconds.items()},
        "files": [Path(name).name for name in files],
        **({} if made_by is None else {"made_by": dict(made_by)}),
    }


def write_report(
    path: str | os.PathLike[str],
    report: Mapping[str, Any],
    *,
    files: AtomicFiles | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a report as JSON, complete or not at all.

    Args:
        path: where; its folder must exist.
        report: what :func:`make_report` made.
        files: transaction to join; its own ``overwrite`` holds then.
        overwrite: replace a file that exists.

    Raises:
        InputRefused: ``EXISTS`` or ``CANNOT_WRITE``; nothing is left behind then.
        ValueError: if a number is not finite.
    """
    text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(Path(path), text, overwrite=overwrite, files=files)


def fingerprint(series: ImageSeries) -> str:
    """Returns the SHA-256 over shape, type and values of the voxels, and over the affine; the same on every machine.

    Args:
        series: the image.
    """
    voxels: NDArray[Any] = np.asarray(series.image)
    digest = hashlib.sha256(f"{voxels.shape} {voxels.dtype.name} ".encode())
    for index in np.ndindex(voxels.shape[:2]):  # the bytes of all voxels in C order, without a copy of them
        part = np.ascontiguousarray(voxels[index])
        digest.update(part.astype(part.dtype.newbyteorder("<"), copy=False).data)
    digest.update(series.affine.astype("<f8").tobytes())
    return digest.hexdigest()


def versions(*more: str) -> dict[str, str]:
    """Returns the versions of this package, of those that shape its results and of ``more``, and of Python."""
    packages = {name: _version(name) for name in (*PACKAGES, *more)}
    return {"convformer_monai": __version__, **packages, "python": platform.python_version()}


@functools.cache
def _version(name: str) -> str:
    """The version of a package; it is parsed once, not for each case of a cohort."""
    return version(name)


def describe(series: ImageSeries) -> dict[str, Any]:
    """Describes an image, as JSON types and without personal data."""
    axes = 2 if series.is_photo else 3
    spacing = [round(float(one), 6) for one in np.linalg.norm(series.affine[:3, :axes], axis=0)]
    content: dict[str, Any] = {
        "fingerprint": fingerprint(series),
        "format": series.format,
        "modality": series.modality,
        "shape": [int(size) for size in series.image.shape],
        "spacing_mm": spacing if series.spacing_known else None,
        "phases": list(series.phases),
        "phase_times_ms": list(series.phase_times_ms),
    }
    if series.frames:
        frames = [frame for phase in series.frames for frame in phase]
        content["frames"] = len(frames)
        content["sop_instances"] = len({frame.sop_instance_uid for frame in frames})
    return content


register_writer(ReportWriter())
