"""Measurements as JSON and CSV."""

from __future__ import annotations

from pathlib import Path

from convformer_monai.measurements.values import Measurements, to_csv
from convformer_monai.outputs.atomic import AtomicFiles, write_text
from convformer_monai.outputs.writer import Result, Writer, path_for, register_writer

__all__ = ["write_measurements"]


class MeasurementsWriter(Writer):
    """``x_measurements.json`` and ``.csv``."""

    name = "measurements"
    suffixes = ("_measurements.json", "_measurements.csv")
    order = 30

    def write(self, base: Path, result: Result, files: AtomicFiles) -> list[Path]:
        """Stages both."""
        return write_measurements(base, result.measurements, files)


def write_measurements(base: Path, measurements: Measurements, files: AtomicFiles) -> list[Path]:
    """Writes both files.

    Args:
        base: folder and name of the case.
        measurements: of the case.
        files: the open transaction.

    Raises:
        InputRefused: ``EXISTS`` or ``CANNOT_WRITE``.
    """
    paths = [path_for(base, suffix) for suffix in MeasurementsWriter.suffixes]
    for path, text in zip(paths, (measurements.to_json(), to_csv([measurements])), strict=True):
        write_text(path, text, files=files)
    return paths


register_writer(MeasurementsWriter())
