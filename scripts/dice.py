"""Prints the Dice of each cardiac structure of a mask against the truth; used by scripts/demo."""

import argparse
import sys

import nibabel as nib
import numpy as np
import torch
from monai.metrics import compute_dice
from monai.networks.utils import one_hot

from convformer_monai.labels import CARDIAC


def load_labels(path: str) -> tuple[torch.Tensor, np.ndarray]:
    """The labels of a NIfTI file as (1, 1, *spatial), and its affine."""
    image = nib.load(path)
    labels = torch.from_numpy(np.asarray(image.dataobj).astype(np.int64))
    return labels[None, None], image.affine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mask")
    parser.add_argument("truth")
    parser.add_argument("--least_lv", type=float, default=0.0, help="exit with status 1 where the LV Dice is below")
    arguments = parser.parse_args()

    mask, mask_affine = load_labels(arguments.mask)
    truth, truth_affine = load_labels(arguments.truth)
    if mask.shape != truth.shape or not np.allclose(mask_affine, truth_affine, atol=1e-4):
        sys.exit(f"error: {arguments.mask} and {arguments.truth} lie on different grids")

    num_classes = len(CARDIAC) + 1
    dice = compute_dice(one_hot(mask, num_classes), one_hot(truth, num_classes), include_background=False)[0]
    print("Dice against the truth (1 is perfect)")
    scores = {label.name: value for label, value in zip(CARDIAC, dice.tolist(), strict=True)}
    for name, value in scores.items():
        print(f"  {name:4}{value:.3f}")
    if not scores["LV"] >= arguments.least_lv:
        sys.exit(f"error: the LV Dice is below {arguments.least_lv}")


if __name__ == "__main__":
    main()
