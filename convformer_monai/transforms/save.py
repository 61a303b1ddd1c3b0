"""Masks of photographs written by a bundle's own config, exactly as the command line writes them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import SaveImaged
from monai.utils import convert_to_numpy

from convformer_monai.readers import ImageSeries, stem
from convformer_monai.results.masks import write_mask, write_png_mask

__all__ = ["SavePhotoMaskd"]

ENDINGS = (".png", ".nii.gz")


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
