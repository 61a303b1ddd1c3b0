"""The command; see ``scripts/experiment --help``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from convformer_monai.benchmarks.arguments import Parser, positive
from convformer_monai.errors import EXIT_INTERRUPTED, EXIT_REFUSED, InputRefused
from convformer_monai.experiments.cells import EXPERIMENTS, make_cells
from convformer_monai.experiments.runner import Runner
from convformer_monai.experiments.table import write_table


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _seeds(text: str) -> list[int]:
    if not text or not all(number.isdigit() for number in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be whole numbers such as 0,1,2, got {text!r}")
    return [int(number) for number in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs an experiment and prints its table."""
    parser = Parser("scripts/experiment", "Trains and compares networks.")
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--bundle_root", type=Path, required=True)
    parser.add_argument("--dataset_dir", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--nets", type=_names, default=[])
    parser.add_argument("--blocks", type=_names, default=[])
    parser.add_argument("--seeds", type=_seeds, default=[0])
    parser.add_argument("--jobs", type=positive, default=1)
    parser.add_argument("--max_minutes", type=float, default=0)
    known, options = parser.parse_known_args(arguments)
    if known.max_minutes < 0:
        parser.error(f"--max_minutes must not be negative, got {known.max_minutes:g}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s - %(message)s")
    try:
        cells = make_cells(known.experiment, known.bundle_root, known.preset, known.nets, known.blocks)
        runner = Runner(known.bundle_root, known.dataset_dir, known.output_dir, options, known.max_minutes, known.jobs)
        failed = runner.run(cells, known.seeds, lambda: write_table(runner, cells, known.seeds))
        table = write_table(runner, cells, known.seeds)
    except InputRefused as refusal:
        sys.stderr.write(f"{refusal}\n")
        return EXIT_REFUSED
    except ValueError as error:
        sys.stderr.write(f"error[EXPERIMENT]: {error}\n")
        return EXIT_REFUSED
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on\n")
        return EXIT_INTERRUPTED
    sys.stdout.write(f"{table}\n" if table else "no cell is done yet\n")
    if failed:
        sys.stderr.write(f"failed: {'; '.join(failed)}\n")
        return 1
    left = sum(not runner.is_done(cell, seed) for cell in cells for seed in known.seeds)
    if left:
        sys.stderr.write(f"{left} trainings are left; the same command goes on\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
