"""Names and colours of the labels for viewers: 3D Slicer (``.ctbl``) and ITK-SNAP (``.label``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from convformer_monai.labels import BACKGROUND, Label
from convformer_monai.results.atomic import AtomicFiles, transaction

__all__ = ["itksnap_labels", "slicer_colours", "write_label_files"]

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


def write_label_files(
    folder: str | os.PathLike[str],
    name: str,
    labels: Sequence[Label],
    *,
    overwrite: bool = False,
    files: AtomicFiles | None = None,
) -> list[Path]:
    """Writes both files beside a mask: ``<name>_seg.ctbl`` and ``<name>_seg.label``, the endings the viewers look for.

    Args:
        folder: where; it must exist.
        name: of the case.
        labels: the structures, without the background.
        overwrite: replace files that exist.
        files: transaction to join; its own ``overwrite`` holds then.

    Returns:
        The paths.

    Raises:
        InputRefused: ``EXISTS`` or ``CANNOT_WRITE``; nothing is left behind then.
    """
    contents = {".ctbl": slicer_colours(labels), ".label": itksnap_labels(labels)}
    paths = []
    with transaction(files, overwrite) as files:
        for ending, text in contents.items():
            paths.append(Path(folder) / f"{name}_seg{ending}")
            _write(files, paths[-1], text.encode())
    return paths


def _write(files: AtomicFiles, path: Path, content: bytes) -> None:
    files.write(path, lambda file: file.write_bytes(content), lambda file: file.read_bytes() == content)
