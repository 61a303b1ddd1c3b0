"""The command `convformer-monai`: arguments in, exit code out; the work is done elsewhere.

Exit codes: 0 done; 2 an input or argument was refused, with one line on stderr that says why; 1 a fault of ours.
Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from convformer_monai.errors import EXIT_FAULT, EXIT_INTERRUPTED, EXIT_REFUSED, InputRefused, find_refusal

__all__ = ["app", "main"]

DEBUG = "CONVFORMER_DEBUG"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Segment medical images with the ConvFormer bundles. Results are for research, not for diagnosis.",
)


class SegmentationType(str, Enum):
    """Kinds of DICOM segmentation objects."""

    BINARY = "binary"
    LABELMAP = "labelmap"


Bundle = Annotated[
    str, typer.Option("-b", "--bundle", help="cardiac, dermoscopy, hemorrhage, or the folder of a bundle.")
]
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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")]


@app.command()
def segment(
    input: Annotated[Path, typer.Option("-i", "--input", help="A file, a DICOM folder, or a folder of cases.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; made if missing.")],
    bundle: Bundle = "cardiac",
    device: Device = "auto",
    format: Annotated[str, typer.Option(help="Comma-separated: nifti, dicom-seg, dicom-sr.")] = "nifti",
    seg_type: Annotated[SegmentationType, typer.Option(help="Kind of DICOM SEG.")] = SegmentationType.BINARY,
    preview: Annotated[bool, typer.Option("--preview", help="Also write a picture with the outlines.")] = False,
    phase: Annotated[str, typer.Option(help="Phase of a cine: all, ed, es, or its number from 0.")] = "all",
    ed: Ed = None,
    es: Es = None,
    series_uid: Series = None,
    resample_uneven: ResampleUneven = False,
    force_modality: ForceModality = False,
    flips: Annotated[
        bool, typer.Option("--flips", help="Average over flipped images and report how far they disagree; slower.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Segment images: mask, measurements, report; on request DICOM and a picture.

    For an input x, the output folder gets x_seg.nii.gz (photographs: x_seg.png), x_measurements.json and .csv, and
    x_report.json. A folder of cases is gone through to its end: cases done before are skipped, bad ones listed.
    """
    start_logging(quiet)
    from convformer_monai.cohort import segment_cases
    from convformer_monai.outputs.writer import Options

    options = Options(
        formats=tuple(name.strip() for name in format.split(",") if name.strip()),
        seg_type=seg_type.name,
        preview=preview,
        phase=phase,
        ed=ed,
        es=es,
        series_uid=series_uid,
        resample_uneven=resample_uneven,
        overwrite=overwrite,
    )
    summary = segment_cases(
        input, output, bundle, options, device=device, flips=flips, force_modality=force_modality, quiet=quiet
    )
    if as_json:
        print_json(summary.to_json())
    raise typer.Exit(summary.exit_code)


@app.command()
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
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure an existing mask, whoever made it."""
    start_logging(quiet)
    from convformer_monai.outputs.case import measure_mask

    measurements = measure_mask(mask, bundle, ed=ed, es=es, output=output, overwrite=overwrite)
    if as_json:
        print_json(measurements.to_dict())
    elif not quiet:
        typer.echo(measurements.to_text())


@app.command()
def explain(
    input: Annotated[Path, typer.Option("-i", "--input", help="An image file, or a folder of one DICOM series.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results; made if missing.")],
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


@app.command()
def info(
    bundle: Annotated[str | None, typer.Option("-b", "--bundle", help="One bundle only.")] = None,
    networks: Annotated[bool, typer.Option("--networks", help="The networks and blocks to choose from.")] = False,
    as_json: Json = False,
) -> None:
    """Show versions, devices and bundles; or the networks."""
    from convformer_monai.about import about, about_networks, as_text, networks_as_text

    content = about_networks() if networks else about(bundle)
    if as_json:
        print_json(content)
    else:
        typer.echo(networks_as_text(content) if networks else as_text(content))


@app.command()
def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write: .ts, .pt2 or .onnx.")],
    bundle: Bundle = "cardiac",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a bundle's network for other programs, and check that it computes the same."""
    start_logging(quiet)
    from convformer_monai.export import export_network

    export_network(bundle, output, overwrite=overwrite)


@app.command()
def label(
    studies: Annotated[
        str, typer.Option(help="Folder of images (files, or folders of DICOM), or address of a DICOMweb server.")
    ],
    bundle: Bundle = "cardiac",
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for what the server makes (default convformer_label in the folder of images)."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on; there are no passwords.")] = "127.0.0.1",
    device: Device = "auto",
    version: Annotated[
        int | None, typer.Option(min=0, help="Weights to use: 0 are the shipped ones (default those last in use).")
    ] = None,
    versions: Annotated[bool, typer.Option("--versions", help="List the versions of the weights and stop.")] = False,
    quiet: Quiet = False,
) -> None:
    """Start a MONAI Label server, for 3D Slicer or OHIF, whose model learns from corrected labels.

    Labels go to the folder's labels/final, or into the PACS as DICOM SEG. Training makes a new version of the weights;
    the shipped ones are never changed, and --version goes back. Needs MONAI Label, in an environment of its own; the
    command that installs it is printed where it lacks.
    """
    start_logging(quiet)
    from convformer_monai.label_app.launch import launch, prepare

    place, options = prepare(studies, bundle, work, device, version)
    if versions:
        current = options.versions.current
        for one in options.versions.all():
            typer.echo(f"{one}{' (in use)' if one == current else ''}")
        return
    raise typer.Exit(launch(place, options, host, port))


def print_json(content: object) -> None:
    """Prints an object on stdout."""
    import json

    typer.echo(json.dumps(content, indent=2, allow_nan=False))


def start_logging(quiet: bool) -> None:
    """Sends our own messages to stderr, those of the libraries nowhere."""
    import warnings

    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stderr)
    logging.getLogger("convformer_monai").setLevel(logging.ERROR if quiet else logging.INFO)
    for name in ("monai", "pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def main(argv: list[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: arguments; ``None`` takes those of the program.

    Returns:
        The exit code.
    """
    try:
        result: Any = app(args=argv, prog_name="convformer-monai", standalone_mode=False)
        return report_interruption() if result == EXIT_INTERRUPTED else int(result or 0)
    except typer.Exit as ending:
        return int(ending.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return report_interruption()
    except InputRefused as refusal:
        sys.stderr.write(f"{refusal}\n")
        return EXIT_REFUSED
    except Exception as error:
        return report_fault(error)


def report_interruption() -> int:
    """Says that the user stopped the command, and returns the exit code."""
    sys.stderr.write("interrupted; the cases that are done are complete\n")
    return EXIT_INTERRUPTED


def report_fault(error: Exception) -> int:
    """Says in one line what went wrong, and returns the exit code."""
    refusal = find_refusal(error)
    if refusal is not None:
        sys.stderr.write(f"{refusal}\n")
        return EXIT_REFUSED
    show = getattr(error, "show", None)  # a usage error of the command line
    if show is not None:
        show()
        return int(getattr(error, "exit_code", EXIT_REFUSED))
    if os.environ.get(DEBUG):
        raise error
    sys.stderr.write(
        f"error[FAULT]: {type(error).__name__} in convformer-monai, a fault of ours; run again with {DEBUG}=1 and "
        "report what it says\n"
    )
    return EXIT_FAULT


def run() -> None:
    """Entry point of the installed command."""
    sys.exit(main())


if __name__ == "__main__":
    run()
