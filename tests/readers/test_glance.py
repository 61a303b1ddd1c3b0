"""What names and headers tell before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dicom_series import write_volume
from PIL import Image

from convformer_monai.bundle import Bundle
from convformer_monai.errors import InputRefused
from convformer_monai.phantoms import cardiac_phantom
from convformer_monai.readers.glance import Glance, glance
from convformer_monai.tasks.task import PHOTOGRAPH, VOLUME


def test_volumes_and_photographs(tmp_path: Path) -> None:
    image, _ = cardiac_phantom(shape=(32, 32, 2), spacing=(4.0, 4.0, 10.0)).save(tmp_path, "x")
    assert glance(image) == Glance(VOLUME)
    Image.new("RGB", (8, 8)).save(tmp_path / "picture", format="PNG")
    assert glance(tmp_path / "picture") == Glance(PHOTOGRAPH, grey=True)
    Image.new("RGB", (8, 8), (200, 150, 120)).save(tmp_path / "skin.png")
    assert glance(tmp_path / "skin.png") == Glance(PHOTOGRAPH)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "RGB", "P"])
def test_grey_pictures(tmp_path: Path, mode: str) -> None:
    picture = Image.new(mode, (8, 8), 130) if mode == "I;16" else Image.new("L", (8, 8), 130).convert(mode)
    picture.save(tmp_path / "x.png")
    assert glance(tmp_path / "x.png").grey


def test_dicom(tmp_path: Path) -> None:
    import numpy as np

    series = write_volume(tmp_path / "series", np.zeros((8, 8, 3), np.int16), np.diag([-1.0, -1.0, 5.0, 1.0]))
    (series / "LICENSE").write_text("text")
    seen = glance(series)
    assert seen.image == VOLUME and len(seen.modalities) == 1


def test_no_image(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputRefused) as refused:
        glance(tmp_path / "notes.txt")
    assert refused.value.code == "NOT_AN_IMAGE"


@pytest.mark.parametrize(
    ("bundle", "seen", "code", "hint"),
    [
        ("cardiac", Glance(VOLUME, frozenset({"CT"})), "WRONG_MODALITY", "use -b hemorrhage, or --force-modality"),
        ("cardiac", Glance(VOLUME, frozenset({"PT"})), "WRONG_MODALITY", "use another bundle"),
        (
            "cardiac",
            Glance(VOLUME, frozenset({"CT"}), by="values (air at -1000)"),
            "WRONG_MODALITY",
            "holds CT by its values (air at -1000), and ",
        ),
        ("hemorrhage", Glance(PHOTOGRAPH), "WRONG_KIND", "use -b dermoscopy"),
        (
            "hemorrhage",
            Glance(PHOTOGRAPH, grey=True),
            "WRONG_KIND",
            "takes volumes; give the CT as NIfTI or DICOM, in Hounsfield units",
        ),
        ("cardiac", Glance(PHOTOGRAPH, grey=True), "WRONG_KIND", "takes volumes; give the MR as NIfTI or DICOM"),
        ("dermoscopy", Glance(VOLUME), "WRONG_KIND", "use -b cardiac or -b hemorrhage"),
    ],
)
def test_the_refusal_names_the_bundle_that_fits(bundle: str, seen: Glance, code: str, hint: str) -> None:
    with pytest.raises(InputRefused) as refused:
        Bundle(bundle).check_kind(Path("x"), seen)
    assert refused.value.code == code and hint in refused.value.message


def test_what_is_not_known_passes() -> None:
    for seen in (Glance(), Glance(VOLUME), Glance(VOLUME, frozenset({"MR", "CT"}))):
        Bundle("cardiac").check_kind(Path("x"), seen)
    Bundle("cardiac").check_kind(Path("x"), Glance(VOLUME, frozenset({"CT"})), force_modality=True)


def test_no_torch_for_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    code = (
        "import sys\nfrom convformer_monai.cli import main\n"
        "assert main(['segment', '-i', sys.argv[1], '-o', sys.argv[2]]) == 2\n"
        "assert not {'torch', 'monai'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "notes.txt"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stderr.startswith("error[NOT_AN_IMAGE]"), done.stderr
