"""``convformer-monai cohort``: many cases, on this machine or a cluster."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from convformer_monai.cli.console import print_json, print_text, start_logging
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
)

__all__ = ["cohort"]


class EngineName(str, Enum):
    """Where the cases are done."""

    LOCAL = "local"
    DASK = "dask"


class Retried(str, Enum):
    """What an earlier run gave up."""

    FAILED = "failed"


def cohort(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MANIFEST|DIR",
            help="CSV or Parquet with columns case and path, and optionally series_uid, phase, bundle; or a folder.",
        ),
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="Folder or URL for the results; made if missing.")],
    bundle: Bundle = "cardiac",
    device: Device = "auto",
    engine: Annotated[EngineName, typer.Option(help="This machine, or a Dask cluster.")] = EngineName.LOCAL,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of --engine dask, as tcp://host:8786.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; else as many as memory and cores bear, or one a GPU.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do only this part of the cases, 1/N to N/N, and no tables.")
    ] = None,
    attempts: Annotated[int, typer.Option(min=1, help="Starts of a case before it is given up.")] = 2,
    retry: Annotated[
        Retried | None, typer.Option(help="Start those anew that an earlier run gave up: failed and quarantined.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be done.")] = False,
    format: Format = "nifti",
    seg_type: SegType = SegmentationType.BINARY,
    preview: Preview = False,
    report: Report = False,
    probabilities: Probabilities = False,
    phase: Phase = "all",
    ed: Ed = None,
    es: Es = None,
    resample_uneven: ResampleUneven = False,
    mm_per_pixel: PixelSize = None,
    force_modality: ForceModality = False,
    flips: Flips = False,
    network_engine: Annotated[
        NetworkEngine, typer.Option(help="What runs the network, as --engine of segment.")
    ] = NetworkEngine.TORCH,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Segment a cohort: thousands of cases, on all cores of this machine or on a Dask cluster.

    Each case gets what segment writes. At the end the output folder has measurements.csv and .parquet, refused.csv
    (what is not done, and why) and cohort.html. Stopped at any time, the same command goes on; cases done by the same
    bundle, weights and options are left as they are. Needs pip install 'convformer_monai[cluster]'.
    """
    start_logging(quiet)
    from convformer_monai.cohort.run import CohortOptions, plan_cohort, run_cohort
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
        resample_uneven=resample_uneven,
        mm_per_pixel=mm_per_pixel,
        overwrite=overwrite,
    )
    how = CohortOptions(
        device=device,
        flips=flips,
        force_modality=force_modality,
        network_engine=network_engine.value,
        engine=engine.value,
        scheduler=scheduler,
        workers=workers,
        shard=shard,
        attempts=attempts,
        retry_failed=retry is not None,
        quiet=quiet,
    )
    if dry_run:
        plan = plan_cohort(source, output, bundle, options, how)
        print_json(plan.to_json()) if as_json else print_text(plan.to_text())
        return
    summary = run_cohort(source, output, bundle, options, how)
    if as_json:
        print_json(summary.to_json())
    raise typer.Exit(summary.exit_code)
