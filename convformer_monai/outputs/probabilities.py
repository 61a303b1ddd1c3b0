"""How probable it is that a voxel belongs to any structure: 8 bits, on the grid of the input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from convformer_monai.outputs.atomic import AtomicFiles
from convformer_monai.outputs.nifti import nifti_of
from convformer_monai.outputs.png import write_grey
from convformer_monai.outputs.writer import Options, Result, Writer, path_for, register_writer

__all__: list[str] = []

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
        """Stages the map."""
        values = result.probabilities
        assert values is not None
        if result.series.is_photo:
            path = path_for(base, self.suffixes[1])
            write_grey(path, values, files)
            return [path]
        path = path_for(base, self.suffixes[0])
        image = nifti_of(values, result.series)
        image.header.set_slope_inter(1 / FULL, 0)  # for those who read it; what is stored are the values

        def holds(temporary: Path) -> bool:
            again: Any = nib.Nifti1Image.from_filename(temporary).dataobj
            return np.array_equal(again.get_unscaled(), np.asarray(image.dataobj))

        files.write(path, image.to_filename, holds)
        return [path]


register_writer(ProbabilityWriter())
