"""``convformer-monai phantom``: images with known truth."""

from __future__ import annotations

from pathlib import Path
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
    from convformer_monai.commands.phantom import write_phantom
    from convformer_monai.phantoms import cardiac_phantom

    write_phantom(
        output_dir, lambda: cardiac_phantom(seed=seed, num_phases=num_phases).save(output_dir, "cardiac_phantom")
    )


@app.command("head-ct")
def head_ct(
    output_dir: PhantomFolder,
    seed: Seed = 0,
    bleeds: Annotated[
        str,
        typer.Option(help="Comma-separated: intraparenchymal, subdural, intraventricular, epidural; or none."),
    ] = "intraparenchymal",
    tilt: Tilt = 0.0,
) -> None:
    """Make CT of a head with bleeds."""
    start_logging()
    from convformer_monai.commands.lists import names_in
    from convformer_monai.commands.phantom import write_phantom
    from convformer_monai.phantoms import head_ct_phantom

    kinds = () if bleeds == "none" else tuple(names_in(bleeds))
    write_phantom(
        output_dir,
        lambda: head_ct_phantom(seed=seed, bleeds=kinds, tilt_degrees=tilt).save(output_dir, "head_ct_phantom"),
    )


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
    from convformer_monai.commands.phantom import write_phantom
    from convformer_monai.phantoms import dermoscopy_phantom

    def write() -> tuple[Path, Path]:
        phantom = dermoscopy_phantom(size=size, seed=seed, hair=not no_hair, ruler=ruler, vignette=not no_vignette)
        return phantom.save(output_dir, "dermoscopy_phantom", suffix)

    write_phantom(output_dir, write)


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
    from convformer_monai.commands.phantom import write_phantom
    from convformer_monai.phantoms.dicom.kinds import write_kind

    write_phantom(output_dir, lambda: write_kind(kind, output_dir, seed=seed, num_phases=num_phases, tilt_degrees=tilt))
