"""``convformer-monai phantom``: images with known truth."""

from __future__ import annotations

from typing import Annotated

import typer

from convformer_monai.cli.console import start_logging
from convformer_monai.cli.options import PhantomFolder, Seed

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Make images with known truth.")

Tilt = Annotated[float, typer.Option(help="Gantry tilt of the head, degrees.")]


@app.command()
def cardiac(
    output_dir: PhantomFolder,
    seed: Seed = 0,
    num_phases: Annotated[int, typer.Option(min=1, help="More than 1 makes a 4-D cine.")] = 1,
) -> None:
    """Make short-axis cine MRI of a heart."""
    start_logging()
    from convformer_monai.commands.phantom import write_cardiac

    write_cardiac(output_dir, seed=seed, num_phases=num_phases)


@app.command("head-ct")
def head_ct(
    output_dir: PhantomFolder,
    seed: Seed = 0,
    bleeds: Annotated[
        str,
        typer.Option(help="Comma-separated: intraparenchymal, subdural, intraventricular; or none."),
    ] = "intraparenchymal",
    tilt: Tilt = 0.0,
) -> None:
    """Make CT of a head with bleeds."""
    start_logging()
    from convformer_monai.commands.phantom import write_head_ct

    write_head_ct(output_dir, seed=seed, bleeds=bleeds, tilt_degrees=tilt)


@app.command()
def dermoscopy(
    output_dir: PhantomFolder,
    seed: Seed = 0,
    size: Annotated[tuple[int, int], typer.Option(metavar="COLUMNS ROWS", help="In pixels.")] = (1024, 768),
    no_hair: Annotated[bool, typer.Option("--no-hair", help="Without hairs.")] = False,
    ruler: Annotated[bool, typer.Option("--ruler", help="With a millimetre scale.")] = False,
    no_vignette: Annotated[bool, typer.Option("--no-vignette", help="Without dark corners.")] = False,
    suffix: Annotated[str, typer.Option(help="File format: .jpg or .png.")] = ".jpg",
) -> None:
    """Make a photograph of a skin lesion."""
    start_logging()
    from convformer_monai.commands.phantom import write_dermoscopy

    write_dermoscopy(output_dir, suffix, seed=seed, size=size, hair=not no_hair, ruler=ruler, vignette=not no_vignette)


@app.command()
def dicom(
    output_dir: PhantomFolder,
    kind: Annotated[
        str,
        typer.Option(
            help="cardiac (MR cine of the heart), head-ct, dermoscopy: with their truth. ct, mr, cine, enhanced-ct, "
            "enhanced-mr: small test series, whose values tell each voxel's position."
        ),
    ] = "cardiac",
    seed: Seed = 0,
    num_phases: Annotated[int, typer.Option(min=1, help="Phases of a cine.")] = 10,
    tilt: Tilt = 0.0,
) -> None:
    """Make DICOM series of the phantoms, or small test series."""
    start_logging()
    from convformer_monai.commands.phantom import write_dicom

    write_dicom(output_dir, kind, seed=seed, num_phases=num_phases, tilt_degrees=tilt)
