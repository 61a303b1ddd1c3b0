"""Do an image and its label lie on one grid?"""

from __future__ import annotations

import numpy as np
from monai.data import MetaTensor
from monai.utils import convert_to_numpy

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["check_grids"]

AFFINE_TOLERANCE = 1e-2  # mm, per entry


def check_grids(name: str, image: MetaTensor, label: MetaTensor) -> None:
    """Refuses a label on another grid than its image.

    Args:
        name: of the case.
        image: (phases, X, Y, Z) with an affine in mm.
        label: likewise.

    Raises:
        InputRefused: ``GRIDS_DIFFER`` if shapes or affines differ.
    """
    if image.shape != label.shape:
        raise InputRefused(
            RefusalCode.GRIDS_DIFFER,
            f"case {name}: the image has (phases, X, Y, Z) = {tuple(image.shape)}, its label "
            f"{tuple(label.shape)}; give the label that was drawn on this image",
        )
    first, second = (np.asarray(convert_to_numpy(data.affine), dtype=np.float64) for data in (image, label))
    if not np.allclose(first, second, rtol=0, atol=AFFINE_TOLERANCE):
        raise InputRefused(
            RefusalCode.GRIDS_DIFFER,
            f"case {name}: image and label have affines that differ by up to {np.abs(first - second).max():.3g} mm; "
            "correct the header, or give the label that was drawn on this image",
        )
