"""`python -m convformer_monai.phantoms`: writes a phantom and its truth."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from convformer_monai.phantoms.cardiac import cardiac_phantom
from convformer_monai.phantoms.dicom.kinds import KINDS, write_kind

logger = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _make_cardiac(arguments: argparse.Namespace) -> Sequence[Path]:
    phantom = cardiac_phantom(seed=arguments.seed, num_phases=arguments.num_phases)
    return phantom.save(arguments.output_dir, "cardiac_phantom")


def _make_dicom(arguments: argparse.Namespace) -> Sequence[Path]:
    return write_kind(arguments.kind, arguments.output_dir, seed=arguments.seed, num_phases=arguments.num_phases)


COMMANDS = {"cardiac": _make_cardiac, "dicom": _make_dicom}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m convformer_monai.phantoms`; returns the exit code."""
    parser = _Parser(prog="python -m convformer_monai.phantoms", description="Make images with known truth.")
    kinds = parser.add_subparsers(dest="command", required=True)
    cardiac = kinds.add_parser("cardiac", help="short-axis cine MRI")
    cardiac.add_argument("--output_dir", type=Path, required=True, help="folder to write to; made if missing")
    cardiac.add_argument("--seed", type=int, default=0, help="another seed is another patient (default 0)")
    cardiac.add_argument("--num_phases", type=int, default=1, help="more than 1 makes a 4-D cine (default 1)")
    dicom = kinds.add_parser("dicom", help="DICOM series whose voxels tell their place, or of the cardiac phantom")
    dicom.add_argument("--output_dir", type=Path, required=True, help="folder to write to; made if missing")
    dicom.add_argument(
        "--kind",
        choices=list(KINDS),
        default="cardiac",
        help="cardiac is an MR cine of the heart with its truth; the others are small test series (default cardiac)",
    )
    dicom.add_argument("--seed", type=int, default=0, help="of the heart: another seed is another patient (default 0)")
    dicom.add_argument("--num_phases", type=int, default=10, help="phases of a cine (default 10)")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)  # tried first: a cine takes a while
        paths = COMMANDS[arguments.command](arguments)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for path in paths:
        logger.info("wrote %s", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
