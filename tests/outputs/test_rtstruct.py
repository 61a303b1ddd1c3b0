"""RT Structure Sets: contours where the mask is, as scikit-image, plastimatch and dciodvfy see them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_results import CASES, dciodvfy_errors, some_labels
from pydicom import dcmread
from result_series import photo_series
from skimage.draw import polygon2mask

from convformer_monai.cohort import segment_cases
from convformer_monai.errors import InputRefused
from convformer_monai.outputs import dicom_sc, dicom_seg, dicom_sr, rtstruct
from convformer_monai.outputs.polygons import outlines
from convformer_monai.outputs.rtstruct import RtStructWriter, rt_structure_set, write_rt_structure_set
from convformer_monai.outputs.writer import Options
from convformer_monai.readers.cases import find_cases
from convformer_monai.readers.series import ImageSeries
from convformer_monai.tasks.cardiac import CARDIAC
from convformer_monai.tasks.hemorrhage import HEMORRHAGE


def heart(series: ImageSeries) -> np.ndarray:
    """A ring with a cavity in each slice but the first, and a second part beside it."""
    labels = np.zeros(series.image.shape, np.uint8)
    x, y = np.indices(series.image.shape[1:3])
    radius = np.hypot(x - 16, y - 15)
    labels[:, radius < 11] = 2
    labels[:, radius < 6] = 3
    labels[:, 29:33, 3:9] = 1
    if labels.shape[-1] > 1:
        labels[..., 0] = 0
    return labels


def filled(path: Path, series: ImageSeries, phase: int) -> np.ndarray:
    """The mask (X, Y, Z) that the contours of a file enclose, by their coordinates alone."""
    dataset, affine = dcmread(path), series.affine
    to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)  # LPS mm to voxels
    slices = {(one.sop_instance_uid, one.number): one for one in series.frames[phase]}
    mask = np.zeros(series.image.shape[1:], np.uint8)
    for region in dataset.ROIContourSequence:
        for contour in region.get("ContourSequence", ()):
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            points = np.reshape(np.array(contour.ContourData, float), (-1, 3))
            assert len(points) == contour.NumberOfContourPoints
            (source,) = contour.ContourImageSequence
            frame = slices[source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber")]
            assert source.ReferencedSOPClassUID == frame.sop_class_uid
            index = np.c_[points, np.ones(len(points))] @ to_index[:3].T
            np.testing.assert_allclose(index[:, 2], frame.slice_index, atol=0.02)  # on its slice
            inside = polygon2mask(mask.shape[:2], index[:, :2])
            mask[..., round(frame.slice_index)][inside] = region.ReferencedROINumber
    return mask


@pytest.mark.parametrize("name", CASES)
def test_contours_enclose_the_mask_and_pass_dciodvfy(name: str, tmp_path: Path) -> None:
    series = CASES[name].read(tmp_path / "in")
    labels = heart(series)
    paths = write_rt_structure_set(tmp_path / "x_rtstruct.dcm", labels, series, CARDIAC.labels)
    assert len(paths) == len(series.phases)
    for phase, path in enumerate(paths):
        expected = np.zeros_like(labels[phase])
        for frame in series.frames[phase]:  # a resampled volume has slices between those that were scanned
            expected[..., round(frame.slice_index)] = labels[phase, ..., round(frame.slice_index)]
        np.testing.assert_array_equal(filled(path, series, phase), expected)
        assert dciodvfy_errors(path) == []


def test_masks_without_any_shape_survive(tmp_path: Path) -> None:
    series = CASES["oblique"].read(tmp_path / "in")
    labels = some_labels(series)
    (path,) = write_rt_structure_set(tmp_path / "x.dcm", labels, series, CARDIAC.labels)
    np.testing.assert_array_equal(filled(path, series, 0), labels[0])


def test_what_it_refers_to(tmp_path: Path) -> None:
    series = CASES["cine by level"].read(tmp_path / "in")
    paths = write_rt_structure_set(tmp_path / "x.dcm", heart(series), series, CARDIAC.labels)
    for phase, path in enumerate(paths):
        dataset = dcmread(path)
        headers = {frame.sop_instance_uid: dcmread(frame.path) for frame in series.frames[phase]}
        first = next(iter(headers.values()))
        assert dataset.StudyInstanceUID == first.StudyInstanceUID and dataset.PatientID == first.PatientID
        (reference,) = dataset.ReferencedFrameOfReferenceSequence
        assert reference.FrameOfReferenceUID == first.FrameOfReferenceUID
        (study,) = reference.RTReferencedStudySequence
        assert study.ReferencedSOPInstanceUID == first.StudyInstanceUID
        listed = {
            image.ReferencedSOPInstanceUID: one.SeriesInstanceUID
            for one in study.RTReferencedSeriesSequence
            for image in one.ContourImageSequence
        }
        assert listed == {uid: header.SeriesInstanceUID for uid, header in headers.items()}
        names = [(region.ROINumber, region.ROIName) for region in dataset.StructureSetROISequence]
        assert names == [(1, "RV"), (2, "MYO"), (3, "LV")]
        codes = [one.RTROIIdentificationCodeSequence[0].CodeValue for one in dataset.RTROIObservationsSequence]
        assert codes == [label.snomed for label in CARDIAC.labels]
        assert list(dataset.ROIContourSequence[2].ROIDisplayColor) == list(CARDIAC.labels[2].colour)
    series_uids = {dcmread(path).SeriesInstanceUID for path in paths}
    assert len(series_uids) == 1 and len({dcmread(path).SOPInstanceUID for path in paths}) == len(paths)


def test_the_same_mask_gives_the_same_bytes_and_another_one_other_identifiers(tmp_path: Path) -> None:
    series = CASES["ct"].read(tmp_path / "in")
    labels = heart(series)
    (first,) = write_rt_structure_set(tmp_path / "a.dcm", labels, series, CARDIAC.labels)
    (again,) = write_rt_structure_set(tmp_path / "b.dcm", labels.copy(), series, CARDIAC.labels)
    assert first.read_bytes() == again.read_bytes()
    labels[0, 16, 15, 2] = 0
    (other,) = write_rt_structure_set(tmp_path / "c.dcm", labels, series, CARDIAC.labels)
    assert dcmread(other).SOPInstanceUID != dcmread(first).SOPInstanceUID


def test_long_contours_keep_their_kind(tmp_path: Path) -> None:
    series = CASES["one slice"].read(tmp_path / "in")
    labels = np.zeros(series.image.shape, np.uint8)
    labels[0, ::2, :, 0] = 1
    labels[0, :, ::31, 0] = 1  # a comb: one contour of many points
    (path,) = write_rt_structure_set(tmp_path / "x.dcm", labels, series, HEMORRHAGE.labels)
    (contour,) = dcmread(path).ROIContourSequence[0].ContourSequence
    assert contour["ContourData"].VR == "DS"
    np.testing.assert_array_equal(filled(path, series, 0), labels[0])


def test_nothing_found_is_no_file(tmp_path: Path) -> None:
    series = CASES["ct"].read(tmp_path / "in")
    labels = np.zeros(series.image.shape, np.uint8)
    assert write_rt_structure_set(tmp_path / "x.dcm", labels, series, CARDIAC.labels) == []
    labels[0, 3:6, 3:6, 2] = 3
    (path,) = write_rt_structure_set(tmp_path / "x.dcm", labels, series, CARDIAC.labels)
    assert ["ContourSequence" in one for one in dcmread(path).ROIContourSequence] == [False, False, True]
    assert dciodvfy_errors(path) == []


def test_what_is_refused(tmp_path: Path) -> None:
    photo = photo_series((20, 10))
    with pytest.raises(InputRefused) as caught:
        RtStructWriter().check_image(photo)
    assert caught.value.code == "WRONG_KIND"
    series = CASES["ct"].read(tmp_path / "in")
    for path in (tmp_path / "in").iterdir():
        path.unlink()
    with pytest.raises(InputRefused):
        rt_structure_set(heart(series), series, CARDIAC.labels)


def test_each_kind_of_result_is_a_series_with_a_number_of_its_own() -> None:
    kinds = (dicom_seg, dicom_sr, dicom_sc, rtstruct)
    assert len({kind.SERIES_NUMBER for kind in kinds}) == len(kinds)


def test_segment_writes_it_and_never_takes_it_for_an_image(tmp_path: Path) -> None:
    CASES["ct"].read(tmp_path / "in")
    options = Options(formats=("nifti", "dicom-rtstruct", "dicom-sr"))
    summary = segment_cases(tmp_path / "in", tmp_path / "out", "cardiac", options, device="cpu", force_modality=True)
    assert summary.exit_code == 0
    mask = np.asarray(nib.load(tmp_path / "out" / "in_seg.nii.gz").dataobj)
    assert (tmp_path / "out" / "in_rtstruct.dcm").is_file() == bool(mask.any())
    (tmp_path / "out" / "in_rtstruct.dcm").touch()
    with pytest.raises(InputRefused, match="holds no image"):
        find_cases(tmp_path / "out")


@pytest.mark.parametrize("name", ["ct", "downwards"])
def test_plastimatch_reads_the_same_mask(name: str, tmp_path: Path) -> None:
    if shutil.which("plastimatch") is None:
        pytest.skip("needs plastimatch: apt-get install plastimatch")
    series = CASES[name].read(tmp_path / "in")
    labels = heart(series)
    (path,) = write_rt_structure_set(tmp_path / "x.dcm", labels, series, CARDIAC.labels)
    command = ["plastimatch", "convert", "--input", path, "--referenced-ct", tmp_path / "in"]
    command += ["--output-prefix", tmp_path / "masks", "--prefix-format", "nii.gz"]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    for label in CARDIAC.labels:
        image = nib.load(tmp_path / "masks" / f"{label.name}.nii.gz")
        to_voxel = np.linalg.inv(image.affine) @ series.affine  # its slices may be in the other order
        places = np.round(np.argwhere(labels[0] == label.index) @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(int)
        found = np.asarray(image.dataobj) > 0
        shared = found[tuple(places.T)].sum()
        assert 2 * shared / (found.sum() + len(places)) >= 0.98


@pytest.mark.parametrize("sigma", [0.0, 0.7, 2.0])
def test_outlines_enclose_exactly_the_pixels_of_a_mask(sigma: float) -> None:
    from scipy import ndimage

    noise = np.random.default_rng(3).normal(size=(20, 40, 37))
    for plane in noise:
        mask = ndimage.gaussian_filter(plane, sigma) > 0.02
        found = np.zeros_like(mask)
        for line in outlines(mask):
            assert not (found & polygon2mask(mask.shape, line)).any()  # no part lies in two polygons
            found |= polygon2mask(mask.shape, line)
        np.testing.assert_array_equal(found, mask)


def test_an_island_in_a_hole_is_a_part_of_its_own() -> None:
    mask = np.zeros((11, 11), bool)
    mask[1:10, 1:10] = True
    mask[3:8, 3:8] = False
    mask[5, 5] = True
    lines = outlines(mask)
    assert sorted(len(line) for line in lines)[0] == 4 and len(lines) == 2
