"""What can be refused is refused before the network runs."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_series import write_volume
from PIL import Image
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from convformer_monai.cohort import segment_cases
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs import writer
from convformer_monai.outputs.atomic import AtomicFiles, write_text
from convformer_monai.outputs.case import measure_mask
from convformer_monai.outputs.dicom_seg import write_dicom_seg
from convformer_monai.outputs.nifti import write_mask
from convformer_monai.outputs.writer import Options, Result, Writer, path_for, register_writer
from convformer_monai.phantoms.dicom import SliceStack, classic_series, save_series
from convformer_monai.readers import read_series
from convformer_monai.segmenter import Segmenter
from convformer_monai.tasks import get_task

DICOM = Options(formats=("nifti", "dicom-seg", "dicom-sr"))


@pytest.fixture
def series(tmp_path: Path) -> Path:
    volume = np.random.default_rng(0).integers(0, 900, (40, 36, 3)).astype(np.int16)
    return write_volume(tmp_path / "series", volume, np.diag([-1.5, -1.5, 8.0, 1.0]))


def refused(source: Path, out: Path, options: Options, monkeypatch: pytest.MonkeyPatch) -> InputRefused:
    def run(*_: object) -> None:
        raise AssertionError("the network ran")

    monkeypatch.setattr(Segmenter, "run", run)
    with pytest.raises(InputRefused) as refusal:
        segment_cases(source, out, "cardiac", options, device="cpu", quiet=True)
    return refusal.value


def change(series: Path, change: Callable[[Dataset], object]) -> None:
    for file in series.iterdir():
        dataset = dcmread(file)
        change(dataset)
        dataset.save_as(file)


def test_without_highdicom_before_torch_is_imported(tmp_path: Path) -> None:
    arguments = ["segment", "-i", str(tmp_path), "-o", str(tmp_path / "out"), "--format", "dicom-sr"]
    code = "import sys\nsys.modules.update(dict.fromkeys(('highdicom', 'torch', 'monai')))\n"
    code += f"from convformer_monai.cli import main\nsys.exit(main({arguments!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error[MISSING_PACKAGE]: "), done.stderr


@pytest.mark.parametrize(
    ("keyword", "code"),
    [
        ("FrameOfReferenceUID", RefusalCode.NO_FRAME_OF_REFERENCE),
        ("SOPInstanceUID", RefusalCode.NO_SOP_UIDS),
        ("SOPClassUID", RefusalCode.NO_SOP_UIDS),
    ],
)
def test_identifiers(series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keyword: str, code: str) -> None:
    change(series, lambda dataset: delattr(dataset, keyword))
    assert refused(series, tmp_path / "out", DICOM, monkeypatch).code == code


def test_not_dicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nifti_files import save

    path = save(tmp_path / "x.nii.gz", np.zeros((8, 8, 3), np.int16))
    assert refused(path, tmp_path / "out", DICOM, monkeypatch).code == RefusalCode.NOT_DICOM


@pytest.mark.parametrize("suffix", ["_seg.dcm", "_seg_phase00.dcm", "_sr.dcm", "_measurements.csv", "_seg.label"])
def test_results_that_exist(series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"series{suffix}").touch()
    assert refused(series, tmp_path / "out", DICOM, monkeypatch).code == RefusalCode.EXISTS


@pytest.mark.parametrize("options", [{"phase": "ed"}, {"es": 3}, {"phase": "es", "ed": 0}])
def test_phases_that_are_not_there(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict
) -> None:
    found = refused(series, tmp_path / "out", Options(**options), monkeypatch)
    assert found.code == RefusalCode.PHASE_NOT_FOUND


def test_a_format_of_ones_own(series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counts(Writer):
        name, suffixes, on_request = "counts", ("_counts.txt",), True

        def write(self, base: Path, result: Result, files: AtomicFiles) -> list[Path]:
            path = path_for(base, self.suffixes[0])
            write_text(path, f"{result.bundle.name}: {int(result.labels.astype(bool).sum())}", files=files)
            return [path]

    monkeypatch.setattr(writer, "_WRITERS", dict(writer._WRITERS))
    register_writer(Counts())
    segment_cases(series, tmp_path / "out", "cardiac", Options(formats=("counts",)), device="cpu", quiet=True)
    assert (tmp_path / "out" / "series_counts.txt").read_text().startswith("Cardiac MRI")
    assert not (tmp_path / "out" / "series_seg.nii.gz").exists()
    report = json.loads((tmp_path / "out" / "series_report.json").read_text())
    assert "series_counts.txt" in report["files"]
    assert refused(series, tmp_path / "out", Options(formats=("counts",)), monkeypatch).code == RefusalCode.EXISTS


def test_what_an_earlier_run_left_is_named(series: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for preview in (True, False):
        caplog.clear()
        options = Options(preview=preview, overwrite=not preview)
        segment_cases(series, tmp_path / "out", "cardiac", options, device="cpu", quiet=True)
        said = [record.getMessage() for record in caplog.records if "earlier run" in record.getMessage()]
        assert [line.split()[0] for line in said] == ([] if preview else [f"{tmp_path}/out/series_preview.png"])


def test_a_folder_in_which_nothing_can_be_written(
    series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").touch()
    assert refused(series, tmp_path / "out", Options(), monkeypatch).code == RefusalCode.CANNOT_WRITE


def test_the_order_of_formats_makes_no_other_results() -> None:
    one, other = (Options(formats=formats) for formats in (("dicom-seg", "nifti", "nifti"), ("nifti", "dicom-seg")))
    assert one.recorded() == other.recorded() and other.recorded()["formats"] == ["nifti", "dicom-seg"]


@pytest.mark.parametrize(
    "keyword", ["SpecificCharacterSet", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality"]
)
def test_values_of_tags_stay_off_the_terminal(series: Path, tmp_path: Path, keyword: str) -> None:
    def plant(dataset: Dataset) -> None:
        tag = Tag(keyword)
        text = f"PLANTED{int(dataset.InstanceNumber) if keyword == 'SOPInstanceUID' else ''}".encode()
        dataset[tag] = RawDataElement(tag, dictionary_VR(tag), len(text), text, 0, False, True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change(series, plant)
    arguments = f"{Path(series)!s}", f"{tmp_path / 'out'}"
    code = "import sys\nfrom pathlib import Path\nfrom convformer_monai.cohort import segment_cases\n"
    code += "from convformer_monai.outputs.writer import Options\n"
    code += (
        "segment_cases(*map(Path, sys.argv[1:]), 'cardiac', Options(('nifti', 'dicom-seg', 'dicom-sr')), device='cpu')"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert not any(word in said for word in ("PLANTED", "Invalid value", "nvImageCodec", "Warning:")), said
    assert done.returncode == 0 or ("error[WRONG_MODALITY]" in said and "another modality" in said), said


def picture(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("top", [255, 1])
def test_masks_of_photographs_are_measured(tmp_path: Path, top: int) -> None:
    mask = np.zeros((40, 30), np.uint8)
    mask[10:20, 5:15] = top
    for pixels in (mask, np.repeat(mask[..., None], 3, axis=2)):
        measured = measure_mask(picture(tmp_path / "x_seg.png", pixels), "dermoscopy")
        assert measured.items[0].value == 100
        assert not measured.flags


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])
@pytest.mark.parametrize(
    "pixels",
    [
        np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8),
        np.arange(1200, dtype=np.uint8).reshape(40, 30),
        np.repeat(np.uint8([[[255, 0, 0], [0, 0, 0]]]), 16, axis=0),
        np.uint8([[0, 1], [255, 1]]),
    ],
    ids=["photograph", "grey", "two colours", "three levels"],
)
def test_other_pictures_are_no_masks(tmp_path: Path, name: str, pixels: np.ndarray) -> None:
    with pytest.raises(InputRefused, match=name) as refusal:
        measure_mask(picture(tmp_path / name, pixels), "dermoscopy")
    assert refusal.value.code == "NOT_A_MASK"


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.5, 0.625), (0.5, 0.5, 5.0)])
def test_a_mask_measures_the_same_as_dicom_seg(tmp_path: Path, spacing: tuple[float, float, float]) -> None:
    stack = SliceStack.regular(shape=(40, 36, 20), spacing=spacing)
    save_series(classic_series(np.full(stack.shape, -1000), stack, modality="CT"), tmp_path / "ct")
    series = read_series(tmp_path / "ct")
    labels = np.zeros(series.grid, np.uint8)
    labels[0, 10:34, 12:24, 5:9] = 1
    write_mask(tmp_path / "x.nii.gz", labels, series)
    write_dicom_seg(tmp_path / "x.dcm", labels, series, get_task("ct_hemorrhage").labels)
    one, other = (measure_mask(tmp_path / name, "hemorrhage") for name in ("x.nii.gz", "x.dcm"))
    assert [item.value for item in other.items] == pytest.approx([item.value for item in one.items])
    assert [part["c_mm"] for part in other.details["parts"]] == pytest.approx([4 * spacing[2]])
    assert len(other.details["slices"]) == len(one.details["slices"]) == 4
