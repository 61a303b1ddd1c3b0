"""The sheet of training examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convformer_monai.evaluation.examples import SIDE, draw_examples
from convformer_monai.tasks.hemorrhage import HEMORRHAGE
from convformer_monai.training.unknown import UNKNOWN


def augmentation(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return batch["image"], batch["label"]


def batch(channels: int = 3) -> dict[str, torch.Tensor]:
    """Two slices: black with a white middle channel, a structure in one corner, unknown pixels in another."""
    image = torch.zeros(2, channels, 32, 32)
    image[:, channels // 2] = 80
    label = torch.zeros(2, 1, 32, 32)
    label[:, :, 2:12, 2:12] = 1
    label[:, :, 20:30, 20:30] = UNKNOWN
    return {"image": image, "label": label}


def test_slices_outlines_and_unknown_pixels(tmp_path: Path) -> None:
    said = draw_examples([batch()], augmentation, HEMORRHAGE.labels, tmp_path / "out", 3, window=(0, 160))
    assert said == f"3 training examples: {tmp_path / 'out' / 'examples.png'}"
    sheet = np.asarray(Image.open(tmp_path / "out" / "examples.png"))
    assert sheet.shape == (SIDE, 3 * SIDE, 3)
    first = sheet[:, :SIDE]
    assert tuple(first[SIDE // 2, SIDE // 2]) == (127, 127, 127)  # the middle slice, half of the window
    colours = {tuple(colour) for colour in first.reshape(-1, 3).tolist()}
    assert {HEMORRHAGE.labels[0].colour, (255, 255, 0)} <= colours


def test_colours_of_photographs(tmp_path: Path) -> None:
    red = {"image": torch.zeros(1, 3, 32, 32), "label": torch.zeros(1, 1, 32, 32)}
    red["image"][:, 0] = 1
    draw_examples([red], augmentation, HEMORRHAGE.labels, tmp_path, 1, window=(0, 1), photo=True)
    assert (np.asarray(Image.open(tmp_path / "examples.png")) == (255, 0, 0)).all()


def test_wrong_count(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="count"):
        draw_examples([batch()], augmentation, HEMORRHAGE.labels, tmp_path, 0)
