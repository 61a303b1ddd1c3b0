from pathlib import Path

import pytest
import torch

from convformer_monai.errors import InputRefused
from convformer_monai.label_app.versions import Versions


def weights(folder: Path, value: float) -> Path:
    path = folder / f"trained{value}.pt"
    torch.save({"w": torch.tensor([value])}, path)
    return path


def test_before_any_training_the_shipped_weights_are_in_use(tmp_path: Path) -> None:
    versions = Versions(tmp_path / "versions")
    assert versions.current.number == 0 and versions.weights(versions.current) is None
    assert not (tmp_path / "versions").exists()


def test_versions_are_copies_with_their_parent_and_can_be_taken_back(tmp_path: Path) -> None:
    versions = Versions(tmp_path / "versions")
    first = weights(tmp_path, 1.0)
    versions.add(first, cases=["a", "b"], dice=0.9, dice_before=0.8)
    first.unlink()
    second = versions.add(weights(tmp_path, 2.0))
    assert (second.number, second.parent, versions.current.number) == (2, 1, 2)
    assert versions.use(1).cases == ("a", "b")
    again = Versions(tmp_path / "versions")
    assert again.current.number == 1
    assert torch.load(again.weights(again.current))["w"].item() == 1.0
    assert versions.add(weights(tmp_path, 3.0)).parent == 1
    assert [version.number for version in versions.all()] == [0, 1, 2, 3]


def test_a_version_may_be_added_without_being_used(tmp_path: Path) -> None:
    versions = Versions(tmp_path)
    versions.add(weights(tmp_path, 1.0), use=False)
    assert versions.current.number == 0 and len(versions.all()) == 2


def test_unknown_changed_or_lost_versions_are_refused(tmp_path: Path) -> None:
    versions = Versions(tmp_path / "versions")
    version = versions.add(weights(tmp_path, 1.0))
    with pytest.raises(InputRefused, match="there is no version 5; there are 0, 1"):
        versions.use(5)
    (tmp_path / "versions" / version.file).write_bytes(b"other")
    with pytest.raises(InputRefused, match="was changed"):
        versions.weights(version)
    (tmp_path / "versions" / "versions.json").write_text("{")
    with pytest.raises(InputRefused, match="cannot be read"):
        versions.all()
