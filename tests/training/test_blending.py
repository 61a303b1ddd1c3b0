"""Weights between those of two networks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from convformer_monai.training import blend_weights


def test_a_share_of_each(tmp_path: Path) -> None:
    torch.save({"w": torch.tensor([0.0, 4.0]), "n": torch.tensor(3)}, tmp_path / "before.pt")
    torch.save({"w": torch.tensor([1.0, 0.0]).half(), "n": torch.tensor(5)}, tmp_path / "after.pt")
    path = blend_weights(tmp_path / "before.pt", tmp_path / "after.pt", 0.25)
    mixed = torch.load(path, weights_only=True)
    assert path == tmp_path / "blended.pt" and mixed["w"].tolist() == [0.25, 3.0] and mixed["n"] == 5
    assert [file.name for file in tmp_path.glob("*.part")] == []


def test_different_networks_and_shares(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "a.pt")
    torch.save({"w": torch.zeros(3)}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="different networks"):
        blend_weights(tmp_path / "a.pt", tmp_path / "b.pt")
    with pytest.raises(ValueError, match="between 0 and 1"):
        blend_weights(tmp_path / "a.pt", tmp_path / "a.pt", 1.5)
