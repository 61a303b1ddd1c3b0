"""Phantoms to train on where there are no images yet: to try a training out, not for weights that one would use."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convformer_monai.bundle import Bundle
from convformer_monai.datalist import DATALIST
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.phantoms import HeadCtPhantom, head_ct_phantom
from convformer_monai.tasks.task import resolve

__all__ = ["data_or_phantoms", "write_phantom_slices", "write_phantoms"]

logger = logging.getLogger(__name__)

SECTIONS = {"train": 4, "val": 2}
WINDOW = (0.0, 80.0)  # Hounsfield units, of slices written as pictures
HEAD: dict[str, Any] = {"shape": (144, 144, 8), "spacing": (1.6, 1.6, 15.0)}


def data_or_phantoms(
    bundle_root: object, output_dir: object, slices: Mapping[str, int] | None = None, without_blood: str = ""
) -> str:
    """The ``dataset_dir`` of a training that is given none: ``data`` in the bundle, or else generated phantoms.

    Args:
        bundle_root: folder of the bundle, whose task names the phantom.
        output_dir: of the training; the phantoms are written into ``phantoms`` there, once.
        slices: for trainings on pictures of slices of head CT: how many a section gets.
        without_blood: the section of ``slices`` that shows none.

    Returns:
        The folder that holds ``datalist.json``.

    Raises:
        InputRefused: ``DATALIST_MISSING`` if there are no data and no phantom.
    """
    bundle = Bundle(str(bundle_root))
    data, made = bundle.root / "data", Path(str(output_dir)).absolute() / "phantoms"
    if (data / DATALIST).is_file() or (made / DATALIST).is_file():
        return str(data if (data / DATALIST).is_file() else made)
    if bundle.task.phantom is None:
        raise InputRefused(RefusalCode.DATALIST_MISSING, f"there is no {data / DATALIST}; give --dataset_dir")
    logger.warning("no --dataset_dir and no %s: training on generated phantoms, to try it out only", data / DATALIST)
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent, prefix=".phantoms.") as folder:
        part = Path(folder) / "part"
        if slices:
            write_phantom_slices(part, slices, without_blood)
        else:
            write_phantoms(part, resolve(bundle.task.phantom))
        try:
            os.replace(part, made)
        except OSError:  # another process of the same training was faster, with the same phantoms
            if not (made / DATALIST).is_file():
                raise
    return str(made)


def write_phantoms(folder: Path, make: Any, sections: Mapping[str, int] = SECTIONS) -> None:
    """Writes phantoms with their truth, and a datalist of them.

    Args:
        folder: is made.
        make: takes a ``seed`` and returns a phantom.
        sections: of the datalist, and how many cases each gets.
    """
    content: dict[str, list[dict[str, str]]] = {}
    for section, count in sections.items():
        content[section] = []
        for number in range(count):
            seed = sum(map(len, content.values()))
            image, truth = make(seed=seed).save(folder, f"{section}{number}")
            content[section].append({"id": f"{section}{number}", "image": image.name, "label": truth.name})
    (folder / DATALIST).write_text(json.dumps(content, indent=2))


def write_phantom_slices(folder: Path, sections: Mapping[str, int], without_blood: str = "") -> None:
    """Writes slices of head CT phantoms as 8-bit pictures, as public sets publish them, and a datalist of them.

    Args:
        folder: is made.
        sections: of the datalist, and how many slices each gets, each of another head.
        without_blood: the section that shows none.
    """
    from PIL import Image

    folder.mkdir(parents=True)
    content: dict[str, list[dict[str, str | None]]] = {}
    for section, count in sections.items():
        content[section] = []
        for number in range(count):
            name, bleeds = f"{section}{number}", () if section == without_blood else ("intraparenchymal",)
            head: HeadCtPhantom = head_ct_phantom(seed=sum(map(len, content.values())), bleeds=bleeds, **HEAD)
            index = int(head.label.sum((0, 1)).argmax()) if bleeds else head.label.shape[2] // 2
            low, high = WINDOW
            grey = np.clip((head.image[..., index] - low) / (high - low) * 255, 0, 255).astype(np.uint8)
            Image.fromarray(grey.T).save(folder / f"{name}.png")
            entry: dict[str, str | None] = {"id": name, "image": f"{name}.png", "label": None, "source": "phantom"}
            if bleeds:
                Image.fromarray(head.label[..., index].T * np.uint8(255)).save(folder / f"{name}_truth.png")
                entry |= {"patient": name, "label": f"{name}_truth.png"}
            content[section].append(entry)
    (folder / DATALIST).write_text(json.dumps(content, indent=2))
