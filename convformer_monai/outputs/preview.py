"""A picture of the result; drawn in :mod:`convformer_monai.outputs.drawing`."""

from __future__ import annotations

from pathlib import Path

from convformer_monai.outputs.atomic import AtomicFiles
from convformer_monai.outputs.writer import Options, Result, Writer, path_for, register_writer

__all__: list[str] = []


class PreviewWriter(Writer):
    """``x_preview.png``."""

    name = "preview"
    suffixes = ("_preview.png",)
    order = 40

    def is_asked_for(self, options: Options) -> bool:
        """By ``--preview``."""
        return options.preview

    def write(self, base: Path, result: Result, files: AtomicFiles) -> list[Path]:
        """Draws it."""
        from convformer_monai.outputs.drawing.preview import write_preview

        path = path_for(base, self.suffixes[0])
        write_preview(path, result.series, result.labels, result.bundle.task, result.measurements, files=files)
        return [path]


register_writer(PreviewWriter())
