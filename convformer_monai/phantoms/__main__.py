"""`python -m convformer_monai.phantoms`: writes a phantom and its truth."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from convformer_monai.phantoms.cardiac import cardiac_phantom
from convformer_monai.phantoms.dermoscopy import SUFFIXES, dermoscopy_phantom
from convformer_monai.phantoms.dicom.kinds import KINDS, write_kind
from convformer_monai.phantoms.head_ct import KINDS as BLEEDS
from convformer_monai.phantoms.head_ct import head_ct_phantom

logger = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def _make_cardiac(arguments: argparse.Namespace) -> Sequence[Path]:
    phantom = cardiac_phantom(seed=arguments.seed, num_phases=arguments.num_phases)
    return phantom.save(arguments.output_dir, "cardiac_phantom")


def _make_head_ct(arguments: argparse.Namespace) -> Sequence[Path]:
    phantom = head_ct_phantom(seed=arguments.seed, bleeds=arguments.bleeds, tilt_degrees=arguments.tilt)
    return phantom.save(arguments.output_dir, "head_ct_phantom")


def _make_dermoscopy(arguments: argparse.Namespace) -> Sequence[Path]:
    phantom = dermoscopy_phantom(
        seed=arguments.seed,
        size=arguments.size,
        hair=not arguments.no_hair,
        ruler=arguments.ruler,
        vignette=not arguments.no_vignette,
    )
    return phantom.save(arguments.output_dir, "dermoscopy_phantom", arguments.suffix)


def _make_dicom(arguments: argparse.Namespace) -> Sequence[Path]:
    return write_kind(
        arguments.kind,
        arguments.output_dir,
        seed=arguments.seed,
        num_phases=arguments.num_phases,
        tilt_degrees=arguments.tilt,
    )


COMMANDS = {"cardiac": _make_cardiac, "head-ct": _make_head_ct, "dermoscopy": _make_dermoscopy, "dicom": _make_dicom}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m convformer_monai.phantoms`; returns the exit code."""
    arguments = _parser().parse_args(argv)
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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m convformer_monai.phantoms", description="Make images with known truth.")
    kinds = parser.add_subparsers(dest="command", required=True)
    cardiac = kinds.add_parser("cardiac", help="short-axis cine MRI")
    cardiac.add_argument("--output_dir", type=Path, required=True, help="folder to write to; made if missing")
    cardiac.add_argument("--seed", type=int, default=0, help="another seed is another patient (default 0)")
    cardiac.add_argument("--num_phases", type=int, default=1, help="more than 1 makes a 4-D cine (default 1)")
    head = kinds.add_parser("head-ct", help="CT of the head with bleeds")
    head.add_argument("--output_dir", type=Path, required=True, help="folder to write to; made if missing")
    head.add_argument("--seed", type=int, default=0, help="another seed is another patient (default 0)")
    head.add_argument(
        "--bleeds",
        nargs="*",
        choices=BLEEDS,
        default=["intraparenchymal"],
        metavar="KIND",
        help=f"any of {', '.join(BLEEDS)}; none makes a head without blood (default intraparenchymal)",
    )
    head.add_argument("--tilt", type=float, default=0.0, help="gantry tilt in degrees (default 0)")
    photo = kinds.add_parser("dermoscopy", help="photograph of a skin lesion")
    photo.add_argument("--output_dir", type=Path, required=True, help="folder to write to; made if missing")
    photo.add_argument("--seed", type=int, default=0, help="another seed is another lesion (default 0)")
    photo.add_argument("--size", type=int, nargs=2, default=(1024, 768), metavar=("COLUMNS", "ROWS"))
    photo.add_argument("--no_hair", action="store_true", help="without hairs")
    photo.add_argument("--ruler", action="store_true", help="with a millimetre scale")
    photo.add_argument("--no_vignette", action="store_true", help="without dark corners")
    photo.add_argument("--suffix", choices=SUFFIXES, default=".jpg", help="file format (default .jpg)")
    dicom = kinds.add_parser("dicom", help="DICOM series whose voxels tell their place, or of the phantoms")
    dicom.add_argument("--output_dir", type=Path, required=True, help="folder to write to; made if missing")
    dicom.add_argument(
        "--kind",
        choices=list(KINDS),
        default="cardiac",
        help="cardiac is an MR cine of the heart, head-ct a CT of the head, dermoscopy a photograph, with their truth; "
        "the others are small test series (default cardiac)",
    )
    dicom.add_argument("--seed", type=int, default=0, help="of the phantoms: another seed is another patient")
    dicom.add_argument("--num_phases", type=int, default=10, help="phases of a cine (default 10)")
    dicom.add_argument("--tilt", type=float, default=0.0, help="gantry tilt of the head in degrees (default 0)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
