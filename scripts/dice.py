"""Prints the Dice of each structure of a mask against the truth; used by scripts/demo."""

import argparse
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.metrics import compute_dice
from monai.networks.utils import one_hot
from PIL import Image

from convformer_monai.bundle import BUNDLES, Bundle


def load_labels(path: str) -> tuple[torch.Tensor, np.ndarray]:
    """The labels of a NIfTI or PNG file as (1, 1, *spatial), and its affine."""
    if Path(path).suffix == ".png":
        labels, affine = np.asarray(Image.open(path)) > 127, np.eye(4)
    else:
        image = nib.load(path)
        labels, affine = np.asarray(image.dataobj), image.affine
    return torch.from_numpy(labels.astype(np.int64))[None, None], affine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", choices=list(BUNDLES))
    parser.add_argument("mask")
    parser.add_argument("truth")
    parser.add_argument("--least", metavar="NAME=DICE", help="exit with status 1 where this structure's Dice is below")
    arguments = parser.parse_args()

    mask, mask_affine = load_labels(arguments.mask)
    truth, truth_affine = load_labels(arguments.truth)
    if mask.shape != truth.shape or not np.allclose(mask_affine, truth_affine, atol=1e-4):
        sys.exit(f"error: {arguments.mask} and {arguments.truth} lie on different grids")

    table = Bundle(arguments.bundle).labels
    dice = compute_dice(*(one_hot(labels, len(table) + 1) for labels in (mask, truth)), include_background=False)[0]
    print("Dice against the truth (1 is perfect)")
    scores = {label.name: value for label, value in zip(table, dice.tolist(), strict=True)}
    for name, value in scores.items():
        print(f"  {name:{max(map(len, scores))}}  {value:.3f}")
    if arguments.least:
        name, least = arguments.least.split("=")
        if not scores[name] >= float(least):
            sys.exit(f"error: the Dice of {name} is below {least}")


if __name__ == "__main__":
    main()
