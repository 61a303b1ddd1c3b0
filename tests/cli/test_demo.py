"""``convformer-monai demo``: a generated image, or the user's, through a bundle."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import pytest

from convformer_monai.bundle import BUNDLES, Bundle
from convformer_monai.cli import main
from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom

SMALL = {"shape": (96, 104, 3), "spacing": (1.8, 1.8, 10.0)}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in which the user stands; the heart of the demo is a small one."""
    monkeypatch.setattr("convformer_monai.phantoms.cardiac_phantom", partial(cardiac_phantom, **SMALL))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dice_shown(out: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^  (\w+) +([\d.]+)$", out, re.MULTILINE)}


def test_generated_image(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    dice = dice_shown(out)
    assert list(dice) == ["RV", "MYO", "LV"] and dice["LV"] > 0.8
    assert out.splitlines()[-1] == str(Path("demo_output", "cardiac_phantom_preview.png"))
    assert (small / out.splitlines()[-1]).read_bytes().startswith(b"\x89PNG")
    names = {file.name for file in (small / "demo_output").iterdir()}
    assert {f"cardiac_phantom{end}.nii.gz" for end in ("", "_truth", "_seg")} < names
    assert main(["demo", "--quiet"]) == 0  # in the same folder


def test_the_command_shown_does_the_same(
    small: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert main(["demo"]) == 0
    command = next(line for line in caplog.messages if line.startswith("$ convformer-monai segment "))
    mask = small / "demo_output" / "cardiac_phantom_seg.nii.gz"
    before = mask.read_bytes()
    mask.unlink()
    (small / "demo_output" / "cardiac_phantom_preview.png").unlink()
    assert main(shlex.split(command)[2:]) == 0
    assert mask.read_bytes() == before
    assert (small / "demo_output" / "cardiac_phantom_preview.png").is_file()


def test_low_dice_ends_with_a_status(
    small: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = replace(Bundle("cardiac").task, phantom_dice=(("LV", 0.999),))
    monkeypatch.setattr(Bundle, "task", task)
    assert main(["demo", "cardiac"]) == 1
    assert "the Dice of LV is 0.9" in caplog.text and "expected at least 0.999" in caplog.text


def test_image_of_ones_own(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cardiac_phantom(**SMALL).save(small, "my scan#1")
    assert main(["demo", "my scan#1.nii.gz", "my results", "-q"]) == 0
    assert capsys.readouterr().out == f"{Path('my results', 'my scan#1_preview.png')}\n"
    assert nib.load(small / "my results" / "my scan#1_seg.nii.gz").shape == SMALL["shape"]


def test_a_photograph_by_the_bundle_that_the_refusal_names(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dermoscopy_phantom(size=(160, 120)).save(small, "lesion")
    assert main(["demo", "lesion.jpg", "-q"]) == 2
    assert "use -b dermoscopy" in capsys.readouterr().err
    assert main(["demo", "lesion.jpg", "-b", "dermoscopy", "-q"]) == 0
    assert main(["demo", "dermoscopy", "lesion.jpg", "out", "-q"]) == 0
    assert (small / "demo_output" / "lesion_seg.png").is_file() and (small / "out" / "lesion_seg.png").is_file()
    capsys.readouterr()
    assert main(["demo", "-b", "my_bundle"]) == 2
    assert "demo shows cardiac, dermoscopy, hemorrhage" in capsys.readouterr().err


def test_missing_image(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "dermoscopy", "nowhere.jpg"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[-1].startswith("error[FILE_NOT_FOUND]: nowhere.jpg")


@pytest.mark.slow
@pytest.mark.parametrize("bundle", BUNDLES)
def test_each_bundle(bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", bundle]) == 0
