"""The commands that look at one image or mask: ``segment``, ``measure``, ``explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convformer_monai.cli.console import print_json, print_text, start_logging
from convformer_monai.cli.lean_monai import lean_monai
from convformer_monai.cli.options import (
    Bundle,
    Device,
    Ed,
    Es,
    Flips,
    ForceModality,
    Format,
    Json,
    NetworkEngine,
    Output,
    Overwrite,
    Phase,
    PixelSize,
    Preview,
    Probabilities,
    Quiet,
    Report,
    ResampleUneven,
    SegmentationType,
    SegType,
    Series,
)

__all__ = ["explain", "measure", "segment"]


def segment(
    input: Annotated[Path, typer.Option("-i", "--input", help="A file, a DICOM folder, or a folder of cases.")],
    output: Output,
    bundle: Bundle = "cardiac",
    device: Device = "auto",
    format: Format = "nifti",
    seg_type: SegType = SegmentationType.BINARY,
    preview: Preview = False,
    report: Report = False,
    probabilities: Probabilities = False,
    phase: Phase = "all",
    ed: Ed = None,
    es: Es = None,
    series_uid: Series = None,
    resample_uneven: ResampleUneven = False,
    mm_per_pixel: PixelSize = None,
    force_modality: ForceModality = False,
    flips: Flips = False,
    engine: Annotated[
        NetworkEngine,
        typer.Option(help="What runs the network; openvino is faster on a CPU, for many images of one size."),
    ] = NetworkEngine.TORCH,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Segment images: mask, measurements, report; on request DICOM, a picture and a page.

    For an input x, the output folder gets x_seg.nii.gz (photographs: x_seg.png), x_measurements.json and .csv, and
    x_report.json. A folder of cases is gone through to its end: cases done before are skipped, bad ones listed;
    files named as masks and results (x_gt, x_seg, x_label, ...) are left out. Photographs may
    have up to 100 million pixels.
    """
    start_logging(quiet)
    from convformer_monai.cohort import segment_cases
    from convformer_monai.outputs.writer import Options

    options = Options(
        formats=tuple(name.strip() for name in format.split(",") if name.strip()),
        seg_type=seg_type.name,
        preview=preview,
        report=report,
        probabilities=probabilities,
        phase=phase,
        ed=ed,
        es=es,
        series_uid=series_uid,
        resample_uneven=resample_uneven,
        mm_per_pixel=mm_per_pixel,
        overwrite=overwrite,
    )
    with lean_monai(bundle):
        summary = segment_cases(
            input,
            output,
            bundle,
            options,
            device=device,
            flips=flips,
            force_modality=force_modality,
            engine=engine.value,
            quiet=quiet,
        )
    if as_json:
        print_json(summary.to_json())
    elif not quiet:
        for result in summary.results:
            if result.table:
                print_text(result.table)
    raise typer.Exit(summary.exit_code)


def measure(
    mask: Annotated[
        Path,
        typer.Option(
            "-m",
            "--mask",
            help="A label map: NIfTI, NRRD, MetaImage, DICOM SEG (or a folder of them, one a phase), or PNG.",
        ),
    ],
    bundle: Bundle = "cardiac",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for <mask>_measurements.json and .csv.")
    ] = None,
    ed: Ed = None,
    es: Es = None,
    mm_per_pixel: PixelSize = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure an existing mask, whoever made it."""
    start_logging(quiet)
    from convformer_monai.outputs.case import measure_mask

    with lean_monai(bundle):
        measurements = measure_mask(
            mask, bundle, ed=ed, es=es, mm_per_pixel=mm_per_pixel, output=output, overwrite=overwrite
        )
    if as_json:
        print_json(measurements.to_dict())
    elif not quiet:
        print_text(measurements.to_text())


def explain(
    input: Annotated[Path, typer.Option("-i", "--input", help="An image file, or a folder of one DICOM series.")],
    output: Output,
    bundle: Bundle = "cardiac",
    net: Annotated[str | None, typer.Option(help="Another network than the bundle's: see info --networks.")] = None,
    block: Annotated[str | None, typer.Option(help="Its transformer block (default convformer).")] = None,
    preset: Annotated[str | None, typer.Option(help="Its size (default small).")] = None,
    weights: Annotated[Path | None, typer.Option(help="Its state dict; without, it is untrained.")] = None,
    slice: Annotated[
        int | None, typer.Option(min=0, help="Slice of the image, from 0; else the one with the largest mask.")
    ] = None,
    pixel: Annotated[
        str | None, typer.Option(metavar="X,Y", help="Pixel of the image, from 0,0; else one within the mask.")
    ] = None,
    phase: Annotated[int | None, typer.Option(min=0, help="Phase of a cine, from 0 (default the first).")] = None,
    series_uid: Series = None,
    device: Device = "auto",
    resample_uneven: ResampleUneven = False,
    force_modality: ForceModality = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a network attends to in an image, and whether its attention has collapsed.

    For an input x, the output folder gets x_attention.png, x_collapse.png, x_receptive_field.png (of ConvFormer heads)
    and x_explain.json with all numbers. Needs matplotlib: pip install 'convformer_monai[train]'.
    """
    start_logging(quiet)
    from convformer_monai.analysis.explain import ExplainOptions, explain, read_pixel

    options = ExplainOptions(
        net=net,
        block=block,
        preset=preset,
        weights=weights,
        slice=slice,
        pixel=read_pixel(pixel),
        phase=phase,
        series_uid=series_uid,
        resample_uneven=resample_uneven,
        overwrite=overwrite,
    )
    content = explain(input, output, bundle, options, device=device, force_modality=force_modality)
    if as_json:
        print_json(content)
