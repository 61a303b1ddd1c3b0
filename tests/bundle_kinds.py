"""What the bundles take, for tests that are the same for all of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nifti_files import affine, save
from PIL import Image

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"


@dataclass(frozen=True)
class Kind:
    """One bundle.

    Attributes:
        name: short name.
        folder: of the bundle in ``bundles``.
        channels: that the network takes; the two beside a CT's own are its neighbours.
        classes: of the network, background included.
        grey: value of 0 and 1 of a pattern in the images that it takes.
    """

    name: str
    folder: str
    channels: int
    classes: int
    grey: tuple[float, float]

    @property
    def root(self) -> Path:
        """Folder of the bundle."""
        return BUNDLES / self.folder

    @property
    def is_photo(self) -> bool:
        """Whether it takes photographs."""
        return self.name == "dermoscopy"

    def write(self, folder: Path, name: str, seed: int = 0, size: tuple[int, int] = (40, 36)) -> Path:
        """Writes a small image that the bundle takes, of smooth blobs; returns its path."""
        pattern = blobs(*size, 3, seed=seed)
        values = self.grey[0] + pattern * (self.grey[1] - self.grey[0])
        if not self.is_photo:
            return save(folder / f"{name}.nii.gz", values.astype(np.int16), affine((1.5, 1.5, 8.0)))
        path = folder / f"{name}.png"
        Image.fromarray(values.clip(0, 255).astype(np.uint8).swapaxes(0, 1)).save(path)
        return path

    def read_mask(self, folder: Path, name: str) -> np.ndarray:
        """Reads the mask that belongs to :meth:`write`, (X, Y, Z) or (X, Y)."""
        if self.is_photo:
            return np.asarray(Image.open(folder / f"{name}_seg.png")).T // 255
        return np.asarray(nib.load(folder / f"{name}_seg.nii.gz").dataobj)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("cardiac", "cardiac_mri_convformer_segmentation", 1, 4, (0.0, 1000.0)),
        Kind("dermoscopy", "dermoscopy_convformer_segmentation", 3, 2, (0.0, 255.0)),
        Kind("hemorrhage", "ct_hemorrhage_convformer_segmentation", 3, 2, (0.0, 80.0)),
    )
}
SMALL = {  # options of `train.json`
    "cardiac": {"canvas": [96, 96], "crop": [64, 64]},
    "dermoscopy": {"canvas": [64, 48], "sizes": [[48, 64], [64, 48]]},
    "hemorrhage": {"canvas": [96, 96], "crop": [64, 64], "epoch_length": 7},
}
VOLUMES = [kind.name for kind in KINDS.values() if not kind.is_photo]


def heads(net: Any) -> Any:
    """The heads of a bundle's network, which may stand behind intensity windows."""
    return getattr(net, "network", net).heads


def blobs(*shape: int, seed: int = 0) -> np.ndarray:
    """Smooth blobs, 0-1, of shape (X, Y, Z) or, a new pattern in each phase, (X, Y, Z, T)."""
    grid = np.meshgrid(*(np.linspace(0, 6, n) for n in shape[:3]), indexing="ij")
    phases = []
    for phase in range(shape[3] if len(shape) == 4 else 1):
        k = phase + seed
        waves = np.sin(grid[0] + k) * np.cos(1.3 * grid[1] - k) + 0.3 * np.sin(grid[2] + 2 * k)
        phases.append((waves + np.exp(-((grid[0] - 2) ** 2)) + 1.3) / 3.6)
    data = np.stack(phases, axis=-1)
    return data if len(shape) == 4 else data[..., 0]


def random_data(kind: Kind, folder: Path, size: tuple[int, int] = (96, 80)) -> None:
    """Writes a datalist with the sections train and val, of images and masks of blobs on the images' own grids."""
    content: dict[str, list[dict[str, str]]] = {"train": [], "val": []}
    for number, section in enumerate(["train", "train", "val", "val"]):
        image = kind.write(folder, f"{section}{number}", seed=number, size=size)
        mask = (blobs(*size, 3, seed=number) * kind.classes * 0.99).astype(np.uint8)
        if kind.is_photo:
            label = folder / f"{section}{number}_truth.png"
            Image.fromarray(mask[..., 0].T * np.uint8(255)).save(label)
        else:
            label = save(folder / f"{section}{number}_truth.nii.gz", mask, affine((1.5, 1.5, 8.0)))
        content[section].append({"image": image.name, "label": label.name})
    (folder / "datalist.json").write_text(json.dumps(content))


def training_data(kind: Kind, folder: Path) -> None:
    """Writes a datalist of a few images of bright discs and their masks, as the bundle's training takes them."""
    sections = {
        "cardiac": {"train": 2, "val": 1},
        "dermoscopy": {"train": 8, "val": 2},
        "hemorrhage": {"expert": 10, "phe_silver": 20, "normal": 5},
    }[kind.name]
    content: dict[str, list[dict[str, object]]] = {}
    for section, count in sections.items():
        content[section] = [_case(kind, folder, section, number) for number in range(count)]
    (folder / "datalist.json").write_text(json.dumps(content))


def _case(kind: Kind, folder: Path, section: str, number: int) -> dict[str, object]:
    name = f"{section}{number}"
    x, y = np.meshgrid(np.arange(96), np.arange(80), indexing="ij")
    disc = (x - 30 - 2 * number) ** 2 + (y - 40) ** 2 < 15**2
    noise = np.random.default_rng(number).integers(0, 20, (96, 80))
    grey = (80 + 100 * disc + noise).astype(np.uint8)
    entry: dict[str, object] = {"id": name, "patient": name, "source": "kit"}
    if kind.name == "cardiac":
        label = np.repeat((disc * (1 + (x > 30) + (y > 40)))[..., None], 4, -1).astype(np.uint8)
        for ending, data in (("", np.repeat(grey[..., None], 4, -1)), ("_truth", label)):
            save(folder / f"{name}{ending}.nii.gz", data, affine((1.5, 1.5, 8.0)))
        return {**entry, "image": f"{name}.nii.gz", "label": f"{name}_truth.nii.gz"}
    picture = np.stack([grey, grey // 2, grey // 3], -1) if kind.is_photo else grey
    Image.fromarray(picture.swapaxes(0, 1)).save(folder / f"{name}.png")
    if section == "normal":
        return {"id": name, "image": f"{name}.png", "label": None}
    Image.fromarray(disc.T).save(folder / f"{name}_truth.png")
    if section == "phe_silver":
        del entry["source"]
    if section == "expert":
        entry |= {"source": "bhsd", "spacing": 2.0}
    return {**entry, "image": f"{name}.png", "label": f"{name}_truth.png"}
