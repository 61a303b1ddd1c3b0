"""The page of a case: what is in it, how large it is, and when it is refused."""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64decode
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from result_series import centred, volume_series

from convformer_monai.bundle import Bundle
from convformer_monai.cohort import segment_cases
from convformer_monai.errors import InputRefused
from convformer_monai.measurements.measure import measure
from convformer_monai.outputs.drawing.contours import upright
from convformer_monai.outputs.drawing.embedding import Stored, embedded, own_type, settings_of
from convformer_monai.outputs.page import case_view
from convformer_monai.outputs.writer import Options, Result
from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom
from convformer_monai.readers import read_series
from convformer_monai.view import assets
from convformer_monai.view.page import make_page


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something in the place of NiiVue, where it is not bundled."""
    if not assets.NIIVUE.is_file():
        stand_in = tmp_path / "niivue.js"
        stand_in.write_text("var niivue = {};")
        monkeypatch.setattr(assets, "NIIVUE", stand_in)


def blood(phases: int = 1) -> Result:
    shape = (phases, 40, 30, 6)
    affine = centred(np.diag([-1.0, -1.0, 1.0]) * (2, 2, 5), shape[1:])
    values = np.full(shape, -1000.0)
    values[:, 5:35, 5:25] = 30
    labels = np.zeros(shape, np.uint8)
    labels[:, 10:16, 8:14, 2:4] = 1
    series, bundle = volume_series(shape, affine, values), Bundle("hemorrhage")
    run = {"weights_sha256": "0" * 64, "device": "cpu", "seconds": {}, "notes": (), "evidence": {"expected_dice": 0.75}}
    measurements = measure(labels, series, bundle.task, case="x", bundle=bundle.name)
    return Result(series, labels, measurements, bundle, Options(), series, run, labels[None] * np.uint8(200))


def part(page: str, name: str) -> str:
    found = re.search(rf'<script type="[a-z/]+" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return found[1]


def test_segment_writes_a_page(bundled: None, tmp_path: Path) -> None:
    image, _ = cardiac_phantom(shape=(64, 64, 3), spacing=(2.4, 2.4, 12.0), num_phases=2).save(tmp_path, "x")
    out = tmp_path / "out"
    assert segment_cases(image, out, "cardiac", Options(report=True), device="cpu", quiet=True).exit_code == 0
    page = (out / "x_report.html").read_text(encoding="utf-8")
    found = nib.Nifti1Image.from_bytes(gzip.decompress(b64decode(part(page, "image-data"))))
    series = read_series(image, phase="all")
    values, _ = upright(series.image.as_tensor(), series.affine)
    assert np.array_equal(np.moveaxis(np.asarray(found.dataobj), -1, 0), values)
    assert found.get_data_dtype() == np.int16 and np.allclose(found.affine, np.diag([-2.4, -2.4, 12, 1]), atol=1e-4)
    mask = nib.Nifti1Image.from_bytes(gzip.decompress(b64decode(part(page, "mask-data"))))
    written = read_series(out / "x_seg.nii.gz", phase="all")
    maps, _ = upright(written.image.as_tensor(), written.affine)
    assert np.array_equal(np.moveaxis(np.asarray(mask.dataobj), -1, 0), maps)
    assert "doubt " in page  # of the bundle's probabilities, which are not written beside
    assert not list(out.glob("*_prob*"))
    assert "x_report.html" in json.loads((out / "x_report.json").read_text())["files"]
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)


def test_page_of_a_photograph_holds_no_niivue(bundled: None, tmp_path: Path) -> None:
    image, _ = dermoscopy_phantom(size=(160, 120)).save(tmp_path, "x")
    segment_cases(image, tmp_path / "out", "dermoscopy", Options(report=True), device="cpu", quiet=True)
    page = (tmp_path / "out" / "x_report.html").read_text(encoding="utf-8")
    assert 'id="niivue-data"' not in page and "data-contour" in page and len(page) < 150_000


def test_without_niivue_it_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "NIIVUE", tmp_path / "niivue.js")
    with pytest.raises(InputRefused, match="run scripts/viewer") as caught:
        Options(report=True).check()
    assert caught.value.code == "MISSING_PACKAGE"
    Options().check()


def test_flags_lead_to_slices_and_the_size_is_said(bundled: None) -> None:
    view = case_view("x", blood())
    page = make_page(view)
    assert [title for title, _ in view.figures] == ["Hemorrhage by slice"]
    assert page.count('data-slice="') == 2  # a bar for each slice with blood
    assert re.search(r"<td>\d+\.\d MiB, loads nothing from elsewhere</td>", page)
    assert view.numbers[0] == ("Hemorrhage volume", "1.44", "mL")
    assert [one.slice for one in view.pictures] == list(range(6))
    assert [one.doubt is None for one in view.pictures] == [True, True, False, False, True, True]


def test_names_cannot_break_the_page(bundled: None) -> None:
    page = make_page(case_view("</script><script>alert(1)</script>", blood()))
    assert "<script>alert" not in page


def test_an_image_that_is_too_large_is_shown_as_slices(bundled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convformer_monai.outputs.drawing.embedding.MOST_BYTES", 1000)
    view = case_view("x", blood())
    assert view.volume is None and len(view.pictures) == 6
    assert json.loads(part(make_page(view), "settings"))["volume"] is None


@pytest.mark.parametrize(
    ("values", "kind"), [([0, 255], "uint8"), ([-1024, 3000], "int16"), ([0, 60000], "uint16"), ([7, 7], "uint8")]
)
def test_whole_numbers_keep_their_values_in_the_smallest_type(values: list[float], kind: str) -> None:
    given = np.array(values, np.float32)
    found = own_type(given)
    assert found.voxels.dtype == kind and np.array_equal(found.voxels.astype(np.float32), given)
    assert (found.slope, found.intercept) == (1, 0)


@pytest.mark.parametrize("values", [[0.5, 1.25, 2.0], [-1e6, 3.0, 1e6], [0.1, 0.1]])
def test_fractions_lose_little(values: list[float]) -> None:
    given = np.array(values, np.float32).reshape(1, -1, 1, 1)
    stored = own_type(given)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(embedded(stored, np.ones(3))))
    assert image.get_data_dtype() == np.int16
    assert np.abs(image.get_fdata().ravel() - given.ravel()).max() <= np.ptp(given) / 4095 + 1e-6


def test_the_same_voxels_give_the_same_bytes() -> None:
    result = blood()
    first, again = (embedded(Stored(one), np.ones(3)) for one in (result.labels, result.labels.copy()))
    assert first == again


def test_large_images_are_shown_at_a_lower_resolution(bundled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    result = blood()
    monkeypatch.setattr("convformer_monai.outputs.drawing.embedding.SHOWN_BYTES", result.series.image.numel())
    page = make_page(case_view("x", result))  # two bytes a voxel
    mask = nib.Nifti1Image.from_bytes(gzip.decompress(b64decode(part(page, "mask-data"))))
    assert mask.shape[:3] == (20, 15, 6) and "1/2 of their resolution" in page
    middle = np.argwhere(np.asarray(mask.dataobj)[..., 0]).mean(axis=0) @ np.abs(mask.affine[:3, :3])
    truth = np.argwhere(result.labels[0]).mean(axis=0) * (2, 2, 5)  # stored upright
    assert np.linalg.norm(middle - truth) < 2.1  # mm: half a voxel in each direction


@pytest.mark.parametrize("backwards", [False, True])
def test_settings_lead_from_millimetres_to_slices(backwards: bool) -> None:
    result = blood()
    series, labels = result.series, result.labels
    if backwards:
        affine = series.affine @ np.diag([1.0, 1.0, -1.0, 1.0])
        series, labels = volume_series(labels.shape, affine, series.image.numpy()), labels[..., ::-1].copy()
    maps, affine = upright(labels, series.affine)
    settings = settings_of(series, maps, affine, (0, 80), {}, 10.0)
    centre = np.array(settings["centre"]) + 3 * np.array(settings["step"])
    assert np.dot(settings["row"], [*centre, 1]) == pytest.approx(3)
    assert settings["start"] == [0, 2] and settings["slices"] == 6
    begin = np.array(settings["centre"]) + settings["start"][1] * np.array(settings["step"])
    position = round(begin[2] / 5)
    assert maps[0, ..., position].any()
    assert settings["letters"] == ["R", "L", "A", "P"]
    assert settings["focus"]["centre"][:2] == [-25.0, -21.0] and settings["focus"]["zoom"] > 1.8
