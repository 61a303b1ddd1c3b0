"""``convformer-monai serve``: the DICOM node."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from convformer_monai.bundle import BUNDLES
from convformer_monai.cli.console import start_logging
from convformer_monai.cli.lean_monai import lean_monai
from convformer_monai.cli.options import Quiet
from convformer_monai.errors import EXIT_REFUSED, InputRefused

__all__ = ["serve"]


def serve(
    config: Annotated[Path, typer.Option("--config", metavar="YAML", help="The configuration: see docs/hospital.md.")],
    check: Annotated[bool, typer.Option("--check", help="Check the configuration and stop.")] = False,
    retry_dead: Annotated[
        bool, typer.Option("--retry-dead", help="Try again what failed for good: jobs, and results not stored.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Run a DICOM node: studies come from a PACS, results go back to it.

    It takes C-STORE from the callers that are listed, or asks a PACS by DICOMweb; routes each series of a complete
    study to a bundle; and sends SEG, SR and previews until they are stored. Killed at any time, it goes on where it
    was. SIGTERM and Ctrl-C stop it in order. Needs pip install 'convformer_monai[node,dicom]'.
    """
    start_logging(quiet, times=True)
    from convformer_monai.commands import serve as command

    try:
        read = command.check(config)
    except InputRefused as refusal:
        faults = refusal.each() if hasattr(refusal, "each") else [refusal]
        sys.stderr.write("".join(f"{one}\n" for one in faults))
        raise typer.Exit(EXIT_REFUSED) from None
    if check:
        typer.echo(f"{config} is good; rules: {len(read.rules)}, destinations: {len(read.destinations)}")
        return
    bundles = {rule.bundle for rule in read.rules}
    with lean_monai(next(iter(bundles - set(BUNDLES)), read.rules[0].bundle)):
        command.serve(read, retry_dead=retry_dead)
