"""Names and colours of the labels for viewers: 3D Slicer (``.ctbl``) and ITK-SNAP (``.label``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convformer_monai.outputs.atomic import AtomicFiles, write_text
from convformer_monai.outputs.writer import Result, Writer, path_for, register_writer
from convformer_monai.tasks.task import BACKGROUND, Label

__all__ = ["itksnap_labels", "slicer_colours"]

ITKSNAP_HEADER = """\
################################################
# ITK-SnAP Label Description File
# File format:
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
# Fields:
#    IDX:   Zero-based index
#    -R-:   Red color component (0..255)
#    -G-:   Green color component (0..255)
#    -B-:   Blue color component (0..255)
#    -A-:   Label transparency (0.00 .. 1.00)
#    VIS:   Label visibility (0 or 1)
#    MSH:   Label mesh visibility (0 or 1)
#  LABEL:   Label description
################################################
"""


def slicer_colours(labels: Sequence[Label]) -> str:
    """Returns a color table file of 3D Slicer: ``index name red green blue opacity``, 0-255, no spaces in names.

    Format: 3D Slicer developer guide, Colors, "Color table file format (.txt, .ctbl)".

    Args:
        labels: the structures, without the background.
    """
    rows = [
        " ".join(map(str, (label.index, "_".join(label.long_name.split()), *label.colour, 255 if label.index else 0)))
        for label in (BACKGROUND, *labels)
    ]
    return "\n".join(["# Color table file", f"# {len(rows)} values", *rows, ""])


def itksnap_labels(labels: Sequence[Label]) -> str:
    """Returns a label description file of ITK-SNAP; its label 0 is the "Clear Label".

    Format: the header that ITK-SNAP itself writes into such files.

    Args:
        labels: the structures, without the background.
    """
    rows = ['    0     0    0    0        0  0  0    "Clear Label"']
    for label in labels:
        red, green, blue = label.colour
        rows.append(f'{label.index:5d}{red:6d}{green:5d}{blue:5d}        1  1  1    "{label.long_name}"')
    return ITKSNAP_HEADER + "\n".join([*rows, ""])


class LabelFilesWriter(Writer):
    """``x_seg.ctbl`` and ``x_seg.label``, the endings the viewers look for."""

    name = "label-files"
    suffixes = ("_seg.ctbl", "_seg.label")
    order = 20

    def write(self, base: Path, result: Result, files: AtomicFiles) -> list[Path]:
        """Stages both."""
        paths = [path_for(base, suffix) for suffix in self.suffixes]
        for path, text in zip(
            paths, (slicer_colours(result.bundle.labels), itksnap_labels(result.bundle.labels)), strict=True
        ):
            write_text(path, text, files=files)
        return paths


register_writer(LabelFilesWriter())
