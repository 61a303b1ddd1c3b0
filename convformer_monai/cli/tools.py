"""The other commands: ``info``, ``export``, ``demo``, ``label``, ``view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convformer_monai.cli.console import print_json, print_text, start_logging
from convformer_monai.cli.lean_monai import lean_monai
from convformer_monai.cli.options import BUNDLE, Bundle, Device, Json, Quiet

__all__ = ["demo", "export", "info", "label", "view"]


def info(
    bundle: Annotated[str | None, typer.Option("-b", "--bundle", help="One bundle only.")] = None,
    path_of: Annotated[
        str | None,
        typer.Option("--bundle-path", metavar="BUNDLE", help="Print the folder of a bundle and nothing else."),
    ] = None,
    networks: Annotated[bool, typer.Option("--networks", help="The networks and blocks to choose from.")] = False,
    as_json: Json = False,
) -> None:
    """Show versions, devices and bundles; or the networks."""
    from convformer_monai.about import about, about_networks, as_text, bundle_path, networks_as_text

    if path_of is not None:
        typer.echo(bundle_path(path_of))
        return
    content = about_networks() if networks else about(bundle)
    if as_json:
        print_json(content)
    else:
        print_text(networks_as_text(content) if networks else as_text(content))


def export(
    name: Annotated[str | None, typer.Argument(metavar="BUNDLE", help="The same as --bundle.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Network for other programs: .ts, .pt2 or .onnx.")
    ] = None,
    weights: Annotated[
        list[Path] | None,
        typer.Option(help="Weights of a training (best.pt) to put into the bundle; given several times, their mean."),
    ] = None,
    bundle: Annotated[str | None, typer.Option("-b", "--bundle", help=f"{BUNDLE} Default cardiac.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file that exists, or the weights of the installed package.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write a bundle's network for other programs, or put trained weights into the bundle.

    --output writes TorchScript (.ts), torch.export (.pt2) or ONNX (.onnx), and checks that it computes the same.
    --weights replaces models/model.pt of the bundle that is named, in float16, and its SHA-256 in metadata.json: the
    old weights are gone. Name a copy of the bundle's folder to keep them:

    cp -r "$(convformer-monai info --bundle-path cardiac)" my_cardiac

    The bundles of the installed package are changed with --overwrite only; installing the package again brings their
    weights back.
    """
    start_logging(quiet)
    from convformer_monai.commands.export import export
    from convformer_monai.errors import InputRefused, RefusalCode

    if None not in (name, bundle) and name != bundle:
        raise InputRefused(RefusalCode.OPTION, f"two bundles are named, {name} and {bundle}; give one")
    export(name or bundle, output=output, weights=weights or (), overwrite=overwrite)


def demo(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="BUNDLE IMAGE FOLDER", help="cardiac, dermoscopy, hemorrhage or serve; your file; a folder."
        ),
    ] = None,
    bundle: Annotated[str | None, typer.Option("-b", "--bundle", help="The same as BUNDLE.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Segment a generated image and compare the mask with the truth; or segment your own image.

    All words may be left out: demo hemorrhage, demo my_scan.nii.gz, demo dermoscopy photo.jpg results. BUNDLE is
    cardiac by default. FOLDER gets image, mask, measurements, report and preview, as from segment --preview; it is
    demo_output by default. The last line is the path of the preview, a picture to look at.
    The exit code is 1 if the Dice of a generated image is below the expected minimum.

    demo serve starts Orthanc and the DICOM node, sends a generated heart from one to the other, and shows where to look
    at what came back; Ctrl-C ends it.
    """
    start_logging(quiet)
    if words and words[0] == "serve" and bundle is None:
        _demo_serve(words[1:])
    from convformer_monai.commands.demo import read_words, run_demo

    name, image, folder = read_words(words or [], bundle)
    with lean_monai(name):
        done = run_demo(name, image, folder, device)
    if done.dice:
        typer.echo("Dice against the truth (1 is perfect)")
    for structure, value in done.dice.items():
        typer.echo(f"  {structure:10}  {value:.3f}")
    for picture in done.pictures:
        print_text(str(picture))
    raise typer.Exit(done.exit_code)


def _demo_serve(words: list[str]) -> None:
    """``demo serve [FOLDER]``."""
    from convformer_monai.commands.demo import OUTPUT
    from convformer_monai.commands.demo_serve import run_serve_demo
    from convformer_monai.errors import InputRefused, RefusalCode

    if len(words) > 1:
        raise InputRefused(RefusalCode.OPTION, f"demo serve takes a folder, got {' '.join(words)}")
    with lean_monai("cardiac"):
        raise typer.Exit(run_serve_demo(Path(words[0]) if words else OUTPUT / "serve"))


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
    host: Annotated[str, typer.Option(help="Address to listen on; others need --users.")] = "127.0.0.1",
    users: Annotated[
        Path | None, typer.Option(help="Password file of those who may log in, as htpasswd -B -C 10 writes it.")
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="For https, PEM; with --tls-key.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    name: Annotated[
        str, typer.Option(help="Further names under which the server may be asked, as by a proxy; commas between them.")
    ] = "",
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
    command that installs it is printed where it is missing.
    """
    start_logging(quiet)
    from convformer_monai.label_app.launch import check_names, check_tls, launch, prepare

    tls, names = check_tls(tls_certificate, tls_key), check_names(name)
    source, options = prepare(studies, bundle, work, device, version, serve=not versions)
    if versions:
        current = options.versions.current
        for one in options.versions.all():
            typer.echo(f"{one}{' (in use)' if one == current else ''}")
        return
    raise typer.Exit(launch(source, options, host, port, users, tls, names))


def view(
    results: Annotated[Path, typer.Argument(metavar="OUT", help="The output folder of segment or cohort.")],
    images: Annotated[
        Path | None,
        typer.Option(help="The folder that was segmented, for a data set of the cases that are accepted or corrected."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 0,
    export: Annotated[
        Path | None,
        typer.Option(help="Write decisions.csv, and with --images datalist.json, into this folder, and stop."),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    quiet: Quiet = False,
) -> None:
    """Look through a folder of results in the browser: accept, reject with a reason, or correct each case.

    The server listens on this machine only; the address that is printed holds a token. What is decided is kept in
    OUT/review.sqlite3, corrected masks beside the others as x_corrected_label. Cases segmented with --report show image
    and mask.
    """
    start_logging(quiet)
    from convformer_monai.commands.view import export_review, serve_review

    if export is not None:
        export_review(results, images, export)
    else:
        serve_review(results, images, port, print_text, open_browser)
