"""How probable each structure is: 8 bits, on the grid of the input.

A bundle of one structure gives one map. One of several gives as many, along a last axis, the class axis: place ``k`` is
the structure with label ``k + 1``. The background is what they leave of 1. In NIfTI that is the fifth dimension, since
the fourth is time, also of a single phase. Its intent is not that of a vector: ITK 5.4 corrupts its memory where such a
file also scales its values.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from convformer_monai.outputs.atomic import AtomicFiles
from convformer_monai.outputs.nifti import nifti_of
from convformer_monai.outputs.png import write_grey
from convformer_monai.outputs.writer import Options, Result, Writer, path_for, register_writer

if TYPE_CHECKING:
    from convformer_monai.readers.series import ImageSeries

__all__ = ["probability_image"]

FULL = 255


class ProbabilityWriter(Writer):
    """``x_prob.nii.gz``, whose header scales 0-255 to 0-1; of photographs ``x_prob.png``, white where it is 1."""

    name = "probabilities"
    suffixes = ("_prob.nii.gz", "_prob.png")
    order = 15

    def is_asked_for(self, options: Options) -> bool:
        """By ``--probabilities``."""
        return options.probabilities

    def write(self, base: Path, result: Result, files: AtomicFiles) -> list[Path]:
        """Stages the maps."""
        values = result.probabilities
        assert values is not None
        if result.series.is_photo:  # whose masks know one structure only
            path = path_for(base, self.suffixes[1])
            write_grey(path, values[0], files)
            return [path]
        path = path_for(base, self.suffixes[0])
        image = probability_image(values, result.series)

        def holds(temporary: Path) -> bool:
            again: Any = nib.Nifti1Image.from_filename(temporary).dataobj
            return np.array_equal(again.get_unscaled(), np.asarray(image.dataobj))

        files.write(path, image.to_filename, holds)
        return [path]


def probability_image(values: NDArray[np.uint8], series: ImageSeries) -> nib.Nifti1Image:
    """Makes the NIfTI image of probabilities, whose header scales 0-255 to 0-1.

    Args:
        values: (structures, phases, X, Y, Z), times 255.
        series: the image.

    Returns:
        Of one structure an image of the shape of the mask; of several (X, Y, Z, phases, structures).
    """
    image = nifti_of(values[0], series)
    if len(values) > 1:
        header = image.header.copy()
        stacked = np.moveaxis(values, (0, 1), (-1, -2))  # (X, Y, Z, phases, structures)
        header.set_data_shape(stacked.shape)
        image = nib.Nifti1Image(stacked, None, header)
    image.header.set_slope_inter(1 / FULL, 0)  # for those who read it; what is stored are the values
    return image


register_writer(ProbabilityWriter())
