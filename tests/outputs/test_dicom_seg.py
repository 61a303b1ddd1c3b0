"""DICOM SEG: every voxel on the slice it belongs to, as three other programs see it."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import pytest
from dicom_results import CASES, dciodvfy_errors, dcmqi_labels, some_labels
from monai.data import MetaTensor
from pydicom import Dataset, dcmread

from convformer_monai.errors import InputRefused
from convformer_monai.measurements.values import Measurement, Measurements
from convformer_monai.outputs.atomic import AtomicFiles
from convformer_monai.outputs.dicom_seg import dicom_seg, write_dicom_seg
from convformer_monai.outputs.dicom_sr import write_dicom_sr
from convformer_monai.outputs.rtstruct import write_rt_structure_set
from convformer_monai.phantoms.dicom import Identity, linear_series, save_dataset, save_series
from convformer_monai.phantoms.dicom_photo import photograph_dataset
from convformer_monai.readers import read_series
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.cardiac import CARDIAC
from convformer_monai.tasks.dermoscopy import DERMOSCOPY
from convformer_monai.tasks.hemorrhage import HEMORRHAGE
from convformer_monai.tasks.task import Label

# An SOP class of 2023, which the validator of 2022 does not know; it then applies the rules of the older class.
UNKNOWN_TO_DCIODVFY = ("Information Object Not found", "SegmentNumber not monotonically increasing")


class Written:
    """A case, read, with labels and its DICOM SEG."""

    def __init__(self, name: str, folder: Path) -> None:
        self.case = CASES[name]
        self.series = self.case.read(folder / "in")
        self.labels = some_labels(self.series)
        self.paths = write_dicom_seg(folder / "x_seg.dcm", self.labels, self.series, CARDIAC.labels)


@pytest.fixture(scope="module", params=CASES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return Written(request.param, tmp_path_factory.mktemp("seg"))


@pytest.fixture
def ct(tmp_path: Path) -> ImageSeries:
    return CASES["ct"].read(tmp_path / "in")


def check_frames(path: Path, labels: np.ndarray, series: ImageSeries, phase: int, count: int = 3) -> None:
    """Every stored frame names a source, lies where that lies, and holds its slice; no other slice has anything."""
    seg = highdicom.seg.segread(path)
    labelmap = seg.SegmentationType == "LABELMAP"
    shared = seg.SharedFunctionalGroupsSequence[0]
    pixels = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    by_source = {(frame.sop_instance_uid, frame.number): frame for frame in series.frames[phase]}
    stored = set()
    for image, group in zip(pixels, seg.PerFrameFunctionalGroupsSequence, strict=True):
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        frame = by_source[source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber")]
        assert source.ReferencedSOPClassUID == frame.sop_class_uid and source.SpatialLocationsPreserved == "YES"
        np.testing.assert_allclose(group.PlanePositionSequence[0].ImagePositionPatient, frame.position, atol=1e-6)
        mask = labels[:, :, round(frame.slice_index)].T
        if labelmap:
            np.testing.assert_array_equal(image, mask)
            stored |= {(number, frame) for number in range(1, count + 1) if (image == number).any()}
        else:
            identity = (group if "SegmentIdentificationSequence" in group else shared).SegmentIdentificationSequence
            number = identity[0].ReferencedSegmentNumber
            np.testing.assert_array_equal(image, mask == number)
            stored.add((number, frame))
    wanted = {
        (number, frame)
        for number in range(1, count + 1)
        for frame in series.frames[phase]
        if (labels[:, :, round(frame.slice_index)] == number).any()
    }
    assert stored == wanted
    header = dcmread(series.frames[0][0].path)
    assert seg.FrameOfReferenceUID == header.FrameOfReferenceUID
    axes = series.affine[:2, :2] @ np.diag(1 / np.linalg.norm(series.affine[:3, :2], axis=0))
    cosines = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).T
    np.testing.assert_allclose(cosines[:2], -axes, atol=1e-5)  # RAS to LPS
    spacing = np.linalg.norm(series.affine[:3, :2], axis=0)
    np.testing.assert_allclose(shared.PixelMeasuresSequence[0].PixelSpacing, spacing[::-1], rtol=1e-5)


def test_frames_lie_on_their_sources(written: Written) -> None:
    assert len(written.paths) == len(written.series.phases)
    for phase, path in enumerate(written.paths):
        check_frames(path, written.labels[phase], written.series, phase)


def test_source_instances_and_series(written: Written) -> None:
    for frames, path in zip(written.series.frames, written.paths, strict=True):
        seg = dcmread(path)
        headers = {uid: dcmread(path) for uid, path in {frame.sop_instance_uid: frame.path for frame in frames}.items()}
        assert {item.ReferencedSOPInstanceUID for item in seg.SourceImageSequence} == set(headers)
        listed = {
            instance.ReferencedSOPInstanceUID: series.SeriesInstanceUID
            for series in seg.ReferencedSeriesSequence
            for instance in series.ReferencedInstanceSequence
        }
        assert listed == {uid: header.SeriesInstanceUID for uid, header in headers.items()}


def test_no_error_by_dciodvfy(written: Written) -> None:
    for path in written.paths:
        assert dciodvfy_errors(path) == []


def test_dcmqi_reads_every_voxel(written: Written, tmp_path: Path) -> None:
    if not written.case.dcmqi:
        pytest.skip("dcmqi knows no uneven grid, and sheared ones only if they happen to fit")
    for phase, path in enumerate(written.paths):
        labels, affine = dcmqi_labels(path, tmp_path / str(phase))
        full = np.flatnonzero(written.labels[phase].any(axis=(0, 1)))
        expected = written.labels[phase][..., full[0] : full[-1] + 1]
        along_normal = np.linalg.det(written.series.affine) > 0  # dcmqi orders the slices so
        first = full[0] if along_normal else full[-1]
        np.testing.assert_array_equal(labels, expected if along_normal else expected[..., ::-1])
        place = written.series.affine @ (0, 0, first, 1)
        np.testing.assert_allclose(affine[:3, 3], place[:3], atol=1e-3)
        np.testing.assert_allclose(affine[:3, :2], written.series.affine[:3, :2], atol=1e-4)


@pytest.mark.parametrize("name", ["tilted", "enhanced", "cine", "one slice"])
def test_label_map(tmp_path: Path, name: str) -> None:
    series = CASES[name].read(tmp_path / "in")
    labels = some_labels(series)
    for phase, path in enumerate(write_dicom_seg(tmp_path / "x.dcm", labels, series, CARDIAC.labels, kind="LABELMAP")):
        assert dcmread(path).SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.7"
        check_frames(path, labels[phase], series, phase)
        voxels, _ = dcmqi_labels(path, tmp_path / f"dcmqi{phase}")
        np.testing.assert_array_equal(voxels, labels[phase] if name == "one slice" else labels[phase][..., 1:])
        errors = dciodvfy_errors(path)
        assert [error for error in errors if not any(known in error for known in UNKNOWN_TO_DCIODVFY)] == []


def test_phases_go_into_the_names(tmp_path: Path) -> None:
    series = CASES["cine"].read(tmp_path / "in")
    paths = write_dicom_seg(tmp_path / "x_seg.dcm", some_labels(series), series, CARDIAC.labels)
    assert [path.name for path in paths] == ["x_seg_phase00.dcm", "x_seg_phase01.dcm", "x_seg_phase02.dcm"]
    segs = [dcmread(path) for path in paths]
    assert [seg.InstanceNumber for seg in segs] == [1, 2, 3]
    assert len({seg.SeriesInstanceUID for seg in segs}) == 1 and len({seg.SOPInstanceUID for seg in segs}) == 3
    assert len({seg.SegmentSequence[0].TrackingUID for seg in segs}) == 1
    one = read_series(tmp_path / "in", phase=2)
    (path,) = write_dicom_seg(tmp_path / "one_seg.dcm", some_labels(one), one, CARDIAC.labels)
    assert path.name == "one_seg.dcm" and dcmread(path).InstanceNumber == 3
    check_frames(path, some_labels(one)[0], one, 0)


@pytest.mark.parametrize("table", [CARDIAC.labels, HEMORRHAGE.labels, DERMOSCOPY.labels])
def test_segments_are_the_table(ct: ImageSeries, table: tuple[Label, ...]) -> None:
    seg = dicom_seg(some_labels(ct, len(table)), ct, table, algorithm_name="bundle", algorithm_version="1.2.3")[0]
    for label, segment in zip(table, seg.SegmentSequence, strict=True):
        kind, category = segment.SegmentedPropertyTypeCodeSequence[0], segment.SegmentedPropertyCategoryCodeSequence[0]
        assert (segment.SegmentNumber, segment.SegmentLabel) == (label.index, label.long_name)
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == (label.type.value, "SCT")
        assert (category.CodeValue, category.CodeMeaning) == (label.category.value, label.category.meaning)
        region = segment.get("AnatomicRegionSequence", [None])[0]
        assert (region and region.CodeValue) == (label.region and label.region.value)
        colour = highdicom.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb()
        np.testing.assert_allclose(colour, label.colour, atol=2)
        algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("bundle", "1.2.3")


def test_a_class_that_is_not_predicted_keeps_its_segment(ct: ImageSeries, tmp_path: Path) -> None:
    labels = some_labels(ct)
    labels[labels == 2] = 0
    (path,) = write_dicom_seg(tmp_path / "x.dcm", labels, ct, CARDIAC.labels)
    assert [segment.SegmentNumber for segment in dcmread(path).SegmentSequence] == [1, 2, 3]
    check_frames(path, labels[0], ct, 0)
    assert dciodvfy_errors(path) == []
    np.testing.assert_array_equal(dcmqi_labels(path, tmp_path / "dcmqi")[0], labels[0, ..., 1:])


def test_labels_without_codes_get_private_ones(ct: ImageSeries) -> None:
    segment = dicom_seg(some_labels(ct, 1), ct, [Label(1, "thing", "the thing", (9, 9, 9))])[0].SegmentSequence[0]
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning) == ("thing", "99CONVFORMER", "the thing")


class TestEmpty:
    def test_nothing_is_written(self, ct: ImageSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            assert write_dicom_seg(tmp_path / "x.dcm", np.zeros_like(some_labels(ct)), ct, CARDIAC.labels) == []
        assert "nothing segmented, so no DICOM SEG" in caplog.text and not (tmp_path / "x.dcm").exists()

    def test_written_if_wanted(self, ct: ImageSeries, tmp_path: Path) -> None:
        labels = np.zeros_like(some_labels(ct))
        (path,) = write_dicom_seg(tmp_path / "x.dcm", labels, ct, CARDIAC.labels, write_empty=True)
        assert dciodvfy_errors(path) == []
        seg = highdicom.seg.segread(path)
        assert not seg.pixel_array.any() and seg.NumberOfFrames == 3 * labels.shape[-1]

    def test_phases_without_anything_are_left_out(self, tmp_path: Path) -> None:
        series = CASES["cine"].read(tmp_path / "in")
        labels = some_labels(series)
        labels[1] = 0
        paths = write_dicom_seg(tmp_path / "x.dcm", labels, series, CARDIAC.labels)
        assert [path.name for path in paths] == ["x_phase00.dcm", "x_phase02.dcm"]


class TestPhotographs:
    @pytest.mark.parametrize("spacing", [None, 0.05])
    @pytest.mark.parametrize("dermoscopic", [False, True])
    def test_pixel_for_pixel(self, tmp_path: Path, dermoscopic: bool, spacing: float | None) -> None:
        source = save_dataset(
            photograph_dataset(dermoscopic=dermoscopic, pixel_spacing=spacing), tmp_path / "photo.dcm"
        )
        series = read_series(source)
        labels = np.random.default_rng(0).integers(0, 2, series.image.shape[1:]).astype(np.uint8)  # (X, Y)
        (path,) = write_dicom_seg(tmp_path / "x.dcm", labels, series, DERMOSCOPY.labels)
        seg, header = highdicom.seg.segread(path), dcmread(source)
        np.testing.assert_array_equal(seg.pixel_array, labels.T)
        assert (seg.Rows, seg.Columns) == (header.Rows, header.Columns)
        (reference,) = seg.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == header.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == header.SOPClassUID
        assert dciodvfy_errors(path) == []


class TestSources:
    def test_headers_may_lack_what_is_optional(self, tmp_path: Path) -> None:
        datasets = linear_series()
        for dataset in datasets:
            for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
                del dataset[keyword]
            for keyword in ("StudyTime", "ReferringPhysicianName", "SliceThickness", "PositionReferenceIndicator"):
                del dataset[keyword]
        save_series(datasets, tmp_path / "in")
        series = read_series(tmp_path / "in")
        (path,) = write_dicom_seg(tmp_path / "x.dcm", some_labels(series), series, CARDIAC.labels)
        check_frames(path, some_labels(series)[0], series, 0)
        assert dciodvfy_errors(path) == []

    def test_values_that_no_standard_allows(self, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
        datasets = linear_series()
        for dataset in datasets:
            dataset.PatientSex, dataset.PatientBirthDate = "unknown", "1931"
            dataset.StudyDate, dataset.StudyTime, dataset.PatientName = "yesterday", "13:47:11", "PLANTED"
            dataset.PatientIdentityRemoved, dataset.AccessionNumber = "YES", "PLANTED" * 5
        recwarn.clear()
        save_series(datasets, tmp_path / "in")
        recwarn.clear()
        series = read_series(tmp_path / "in")
        (path,) = write_dicom_seg(tmp_path / "x.dcm", some_labels(series), series, CARDIAC.labels)
        assert not [one for one in recwarn if "PLANTED" in str(one.message)]
        assert not [error for error in dciodvfy_errors(path) if "AccessionNumber" not in error]
        seg = dcmread(path)
        assert seg.PatientName == "PLANTED" and not (seg.PatientSex or seg.PatientBirthDate or seg.StudyDate)

    @pytest.mark.parametrize(
        ("characters", "name", "procedure"),
        [
            ("ISO_IR 192", "Łódź^Ægir=山田^太郎", "胸部 CT"),
            ("ISO_IR 100", "Müller^Jürgen", "Schädel"),
            ("GB18030", "Wang^XiaoDong=王^小东", "头颅"),
            (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "胸部"),
            (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞", "흉부"),
            ("ISO_IR 6", "Doe^Jane", "Head"),
        ],
    )
    def test_names_in_any_character_set(
        self, characters: str | list[str], name: str, procedure: str, tmp_path: Path
    ) -> None:
        datasets = linear_series()
        for dataset in datasets:
            dataset.SpecificCharacterSet, dataset.PatientName = characters, name
            code = Dataset()
            code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99LOCAL", procedure
            dataset.ProcedureCodeSequence = [code]
        save_series(datasets, tmp_path / "in")
        series = read_series(tmp_path / "in")
        labels = some_labels(series)
        (path,) = write_dicom_seg(tmp_path / "x.dcm", labels, series, CARDIAC.labels)
        assert dcmread(path).PatientName == name
        assert dcmread(path).ProcedureCodeSequence[0].CodeMeaning == procedure
        assert dciodvfy_errors(path) == []
        (structures,) = write_rt_structure_set(tmp_path / "y.dcm", labels, series, CARDIAC.labels)
        assert dcmread(structures).PatientName == name
        measured = Measurements("x", "y", CARDIAC.labels, (Measurement("width", "Width", 3.5, "mm"),))
        report = write_dicom_sr(tmp_path / "z.dcm", measured, series, [path])
        assert dcmread(report).PatientName == name

    def test_orientation_may_differ_in_the_last_digits(self, tmp_path: Path) -> None:
        datasets = linear_series()
        for dataset, jitter in zip(datasets, np.linspace(-1e-5, 1e-5, len(datasets)), strict=True):
            dataset.ImageOrientationPatient = [1, round(float(jitter), 9), 0, 0, 1, 0]
        save_series(datasets, tmp_path / "in")
        series = read_series(tmp_path / "in")
        (path,) = write_dicom_seg(tmp_path / "x.dcm", some_labels(series), series, CARDIAC.labels)
        check_frames(path, some_labels(series)[0], series, 0)

    def test_identifiers_of_the_patient_but_none_in_the_log(
        self, ct: ImageSeries, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            (path,) = write_dicom_seg(tmp_path / "x.dcm", some_labels(ct), ct, CARDIAC.labels)
        seg, planted = dcmread(path), Identity().planted
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber"):
            assert str(seg[keyword].value) == planted[keyword]
        assert seg.StudyInstanceUID == dcmread(ct.frames[0][0].path).StudyInstanceUID
        assert not any(value in caplog.text for value in planted.values())

    def test_changed_files_are_refused(self, ct: ImageSeries, tmp_path: Path) -> None:
        labels = some_labels(ct)
        save_series(linear_series(identity=Identity(series=2)), tmp_path / "in")
        with pytest.raises(InputRefused, match="SOURCE_CHANGED"):
            dicom_seg(labels, ct, CARDIAC.labels)
        ct.frames[0][2].path.unlink()
        with pytest.raises(InputRefused):
            dicom_seg(labels, ct, CARDIAC.labels)

    def test_no_frame_of_reference(self, tmp_path: Path) -> None:
        datasets = linear_series()
        for dataset in datasets:
            del dataset.FrameOfReferenceUID
        save_series(datasets, tmp_path / "in")
        try:
            series = read_series(tmp_path / "in")
        except InputRefused:
            return  # refused even earlier
        with pytest.raises(InputRefused, match="NO_FRAME_OF_REFERENCE"):
            dicom_seg(some_labels(series), series, CARDIAC.labels)


class TestRefusals:
    def test_only_for_dicom(self, ct: ImageSeries) -> None:
        with pytest.raises(InputRefused, match="NOT_DICOM"):
            dicom_seg(some_labels(ct), replace(ct, format="nifti", frames=()), CARDIAC.labels)

    def test_without_highdicom(self, ct: ImageSeries, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "highdicom", None)
        with pytest.raises(InputRefused, match=r"pip install 'convformer_monai\[dicom\]'"):
            dicom_seg(some_labels(ct), ct, CARDIAC.labels)

    def test_wrong_arguments(self, ct: ImageSeries, tmp_path: Path) -> None:
        labels = some_labels(ct)
        for wrong in (labels[0], labels.astype(np.int16), labels.swapaxes(1, 2), np.full_like(labels, 4)):
            with pytest.raises(ValueError, match="labels must"):
                dicom_seg(wrong, ct, CARDIAC.labels)
        with pytest.raises(ValueError, match="label_table"):
            dicom_seg(labels, ct, CARDIAC.labels[1:])
        with pytest.raises(ValueError, match="kind must be BINARY or LABELMAP, got 'FRACTIONAL'"):
            dicom_seg(labels, ct, CARDIAC.labels, kind="FRACTIONAL")
        with pytest.raises(ValueError, match=r"path must end in \.dcm"):
            write_dicom_seg(tmp_path / "x.nii", labels, ct, CARDIAC.labels)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_an_affine_that_is_not_that_of_the_frames(self, ct: ImageSeries, axis: int) -> None:
        affine = ct.image.affine.clone()
        affine[axis, 3] += 1.5
        moved = replace(ct, image=MetaTensor(ct.image.as_tensor(), affine=affine))
        with pytest.raises(ValueError, match="1.50 mm off slice 0"):
            dicom_seg(some_labels(ct), moved, CARDIAC.labels)

    def test_all_phases_or_none(self, tmp_path: Path) -> None:
        series = CASES["cine"].read(tmp_path / "in")
        folder = tmp_path / "out"
        folder.mkdir()
        (folder / "x_phase01.dcm").write_bytes(b"old")
        with pytest.raises(InputRefused, match="EXISTS"):
            write_dicom_seg(folder / "x.dcm", some_labels(series), series, CARDIAC.labels)
        assert [path.name for path in folder.iterdir()] == ["x_phase01.dcm"]
        assert len(write_dicom_seg(folder / "x.dcm", some_labels(series), series, CARDIAC.labels, overwrite=True)) == 3
        assert len(list(folder.iterdir())) == 3

    def test_joins_a_transaction(self, ct: ImageSeries, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError), AtomicFiles() as files:
            write_dicom_seg(tmp_path / "x.dcm", some_labels(ct), ct, CARDIAC.labels, files=files)
            raise RuntimeError
        assert not list(tmp_path.glob("*.dcm")) and not list(tmp_path.glob(".*"))


def test_real_head_ct_with_tilt_and_uneven_slices(data_dir: Path, tmp_path: Path) -> None:
    series = read_series(data_dir / "dicom" / "head_ct_gantry_tilt", resample_uneven=True)
    labels = np.zeros(series.image.shape, np.uint8)
    labels[:, 150:300, 200:260, 5:-3] = 1
    (path,) = write_dicom_seg(tmp_path / "x.dcm", labels, series, HEMORRHAGE.labels)
    check_frames(path, labels[0], series, 0, count=1)
    assert dciodvfy_errors(path) == []
