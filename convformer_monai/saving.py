"""How a bundle's own config saves masks: names, NIfTI and PNG, exactly as the command line writes them."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import DtypeLike, KeysCollection, PathLike
from monai.data import NibabelWriter
from monai.transforms import SaveImaged
from monai.utils import convert_to_numpy

from convformer_monai.outputs.atomic import write_atomically
from convformer_monai.outputs.nifti import as_labels, holds_voxels, mask_image, write_mask
from convformer_monai.outputs.png import write_png_mask
from convformer_monai.readers import ImageSeries, stem

__all__ = ["MaskWriter", "SavePhotoMaskd", "output_name"]

logger = logging.getLogger(__name__)

ENDINGS = (".png", ".nii.gz")


def output_name(meta: Mapping[str, Any], _saver: object = None) -> dict[str, Any]:
    """Names an output after its input, for ``SaveImaged(output_name_formatter=...)``.

    MONAI takes everything from the last dot on for an ending, which would cut the name of a folder such as ``1.2.840``.

    Args:
        meta: the image's metadata with the path that it was loaded from.
    """
    path = Path(str(meta.get("filename_or_obj") or "image")).absolute()
    return {"subject": f"{stem(path)}.image", "idx": None}


class MaskWriter(NibabelWriter):
    """Writes a label map; for ``SaveImaged(writer="convformer_monai.saving.MaskWriter", ...)``.

    A mask of an image read by :func:`convformer_monai.readers.nifti.read_nifti` gets the input's own geometry fields
    (pixdim, qform, sform and their codes), so every viewer lays it over the input, whichever of them it believes.
    Other masks get theirs as :func:`write_mask` says. T comes last, units are mm and, with T, seconds.

    The file appears complete or not at all, and replaces one that exists, as MONAI's writers do.

    Args:
        output_dtype: accepted for MONAI's sake; the file always holds uint8.
        kwargs: passed on to MONAI's writer.
    """

    def __init__(self, output_dtype: DtypeLike = np.uint8, **kwargs: Any) -> None:
        super().__init__(output_dtype=output_dtype, **kwargs)
        self.meta: Mapping[str, Any] = {}

    def set_data_array(
        self, data_array: Any, channel_dim: int | None = 0, squeeze_end_dims: bool = False, **kwargs: Any
    ) -> None:
        """Takes the labels as (T, X, Y, Z), or without T if ``channel_dim`` is ``None``.

        MONAI's ``squeeze_end_dims`` is not heeded: the file gets the shape of its input, single slices included.
        """
        super().set_data_array(data_array, channel_dim, squeeze_end_dims=False, **kwargs)  # (X, Y, Z, T)

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, resample: bool = False, **options: Any) -> None:
        """Notes the metadata; a mask is already on the input's grid, so nothing is resampled.

        Raises:
            ValueError: if resampling is asked for.
        """
        if resample:
            raise ValueError("resample must be False: MaskWriter expects the mask on the grid of its input")
        self.meta = meta_dict or {}

    def write(self, filename: PathLike, verbose: bool = False, **kwargs: Any) -> None:
        """Writes the mask.

        Args:
            filename: where, ending in ``.nii`` or ``.nii.gz``.
            verbose: log the path.

        Raises:
            ValueError: if values are not labels of 0-255, or the shape is not the input's.
            CannotWrite: if the file cannot be written; nothing is left behind then.
        """
        image = mask_image(as_labels(self.data_obj), self.meta)
        write_atomically(filename, image.to_filename, lambda path: holds_voxels(path, image), overwrite=True)
        if verbose:
            logger.info("wrote %s", filename)


class SavePhotoMaskd(SaveImaged):
    """Writes ``<stem>_seg.png``, 0 and 255, or ``<stem>_seg.nii.gz``, 0 and 1, at the photograph's own size.

    Why not MONAI's ``SaveImaged`` itself: its PNG writer leaves half a file when it is interrupted. It is a subclass,
    so that programs that leave saving out (MONAI Label) find it. Files that exist are replaced.

    Args:
        keys: masks (1, X, Y), 0 and 1, whose metadata name the photograph's file.
        output_dir: folder, made if needed.
        output_ext: ``.png``, ``.nii.gz``, or both with a comma between them.
        allow_missing_keys: do not fail if a key is missing.

    Raises:
        ValueError: if an ending is another.
    """

    def __init__(
        self, keys: KeysCollection, output_dir: object, output_ext: str = ".png", allow_missing_keys: bool = False
    ) -> None:
        self.folder = Path(str(output_dir)).expanduser()
        self.endings = tuple(part.strip() for part in output_ext.split(","))
        super().__init__(keys, output_dir=self.folder, output_ext=ENDINGS[0], allow_missing_keys=allow_missing_keys)
        for ending in self.endings:
            if ending not in ENDINGS:
                raise ValueError(f"output_ext must be {' or '.join(ENDINGS)}, got {output_ext!r}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Writes each mask.

        Raises:
            InputRefused: if it cannot be written.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            mask = result[key]
            path = Path(str(mask.meta["filename_or_obj"])).absolute()
            series = ImageSeries(mask, "photo", path, spacing_known=not np.allclose(mask.pixdim[:2], 1))
            labels = np.asarray(convert_to_numpy(mask))[0].astype(np.uint8)
            self.folder.mkdir(parents=True, exist_ok=True)
            for ending in self.endings:
                write = write_png_mask if ending == ".png" else write_mask
                write(self.folder / f"{stem(path)}_seg{ending}", labels, series, overwrite=True)
        return result
