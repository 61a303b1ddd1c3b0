"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

BUNDLE = "cardiac, dermoscopy, hemorrhage, or the folder of a bundle."


class SegmentationType(str, Enum):
    """Kinds of DICOM segmentation objects."""

    BINARY = "binary"
    LABELMAP = "labelmap"


class NetworkEngine(str, Enum):
    """What runs the network."""

    TORCH = "torch"
    OPENVINO = "openvino"


Bundle = Annotated[str, typer.Option("-b", "--bundle", help=BUNDLE)]
BundleName = Annotated[str, typer.Argument(metavar="BUNDLE", help=BUNDLE)]
Ed = Annotated[int | None, typer.Option("--ed", min=0, help="End-diastolic phase, from 0; else it is found.")]
Es = Annotated[int | None, typer.Option("--es", min=0, help="End-systolic phase, from 0; else it is found.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Series = Annotated[str | None, typer.Option(help="DICOM series to take, if there are several.")]
ResampleUneven = Annotated[
    bool, typer.Option("--resample-uneven", help="Resample unevenly spaced slices instead of refusing them.")
]
ForceModality = Annotated[
    bool, typer.Option("--force-modality", help="Take images of a modality that the bundle was not made for.")
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; made if missing.")]
PixelSize = Annotated[
    float | None, typer.Option("--mm-per-pixel", help="Side of a pixel of a photograph, for sizes in mm.")
]
Format = Annotated[str, typer.Option(help="Comma-separated: nifti, dicom-seg, dicom-sr, dicom-rtstruct, dicom-sc.")]
SegType = Annotated[SegmentationType, typer.Option(help="Kind of DICOM SEG.")]
Preview = Annotated[bool, typer.Option("--preview", help="Also write a picture with the outlines.")]
Report = Annotated[
    bool, typer.Option("--report", help="Also write a page for a browser: image, mask, numbers, figures.")
]
Probabilities = Annotated[
    bool, typer.Option("--probabilities", help="Also write how probable the structures are, from 0 to 1.")
]
Phase = Annotated[str, typer.Option(help="Phase of a cine: all, ed, es, or its number from 0.")]
Flips = Annotated[
    bool, typer.Option("--flips", help="Average over flipped images and report how far they disagree; slower.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")]

Data = Annotated[
    Path, typer.Option("--data", help="Folder that holds datalist.json, or a datalist of another name (.json).")
]
ResultFolder = Annotated[Path | None, typer.Option("-o", "--output-dir", help="Folder for the results.")]
MaxMinutes = Annotated[float, typer.Option(min=0, help="Stop after so many minutes, at the end of an epoch; 0: never.")]

PhantomFolder = Annotated[Path, typer.Option("-o", "--output-dir", help="Folder to write to; made if missing.")]
Seed = Annotated[int, typer.Option(min=0, help="Another seed is another patient.")]
Repeats = Annotated[int, typer.Option(min=1, help="Measurements, of which the median is shown.")]
Threads = Annotated[int, typer.Option(min=0, help="0 for all; 1 is disturbed least by other programs.")]
