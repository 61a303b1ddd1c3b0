"""Photographs in every form become the same upright RGB, and nothing else of the file survives."""

from __future__ import annotations

import io
import logging
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

from convformer_monai.errors import InputRefused
from convformer_monai.phantoms.dicom import save_dataset
from convformer_monai.phantoms.dicom_photo import colour_chart, photograph_dataset
from convformer_monai.readers import read_series
from convformer_monai.readers.dicom.parsing import silent_pydicom
from convformer_monai.readers.photo import read_photo

CHART = colour_chart((48, 32))  # (Y, X, 3)
RGB = Image.fromarray(CHART)
GREY = np.asarray(RGB.convert("L"))
LOSSY = 14  # on patches of one colour, away from their edges
ORIENTATION, GPS, ARTIST = 0x0112, 0x8825, 0x013B
TURNED = {  # how a picture must be stored so that a tag makes it upright
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def refusal(path: Path) -> str:
    with pytest.raises(InputRefused) as caught:
        read_photo(path)
    assert "\n" not in str(caught.value) and str(path) in caught.value.message
    return caught.value.code


def picture(path: Path) -> np.ndarray:
    """What is read, as (Y, X, 3)."""
    series = read_photo(path)
    assert series.is_photo and str(series.image.dtype) == "torch.uint8"
    return series.image.numpy().transpose(2, 1, 0)


def saved(path: Path, image: Image.Image = RGB, **options: object) -> Path:
    image.save(path, **options)
    return path


def assert_close(found: np.ndarray, expected: np.ndarray = CHART, tolerance: int = LOSSY) -> None:
    """Compares the middles of the patches."""
    assert found.shape == expected.shape
    rows, columns = (8, 24), (8, 24, 40)
    middles = np.ix_(rows, columns)
    np.testing.assert_allclose(found[middles].astype(int), expected[middles].astype(int), atol=tolerance)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.bmp", "x.webp", "ünï cödé.PNG"])
def test_lossless_formats_are_exact(tmp_path: Path, name: str) -> None:
    options = {"lossless": True} if name.endswith("webp") else {}
    np.testing.assert_array_equal(picture(saved(tmp_path / name, **options)), CHART)


@pytest.mark.parametrize("name", ["x.jpg", "x.webp"])
def test_lossy_formats(tmp_path: Path, name: str) -> None:
    assert_close(picture(saved(tmp_path / name, quality=95)))


def test_geometry(tmp_path: Path) -> None:
    series = read_photo(saved(tmp_path / "x.png", dpi=(300, 300)))
    assert series.image.shape == (3, 48, 32) and not series.spacing_known and series.modality is None
    np.testing.assert_array_equal(series.affine, np.diag([-1, -1, 1, 1]))
    np.testing.assert_array_equal(series.image.numpy()[:, 40, 8], CHART[8, 40])


@pytest.mark.parametrize("phase", [None, 0, "all"])
def test_a_photograph_has_one_phase(tmp_path: Path, phase: int | str | None) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    assert read_series(tmp_path / "a.png", phase=phase).phases == (0,)


def test_another_phase_of_a_photograph_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    save_dataset(photograph_dataset(), tmp_path / "a.dcm")
    for path in tmp_path.iterdir():
        with pytest.raises(InputRefused, match="has no phase 7") as refusal:
            read_series(path, phase=7)
        assert refusal.value.code == "PHASE_NOT_FOUND"
        with pytest.raises(ValueError, match="phase must be"):
            read_series(path, phase="ed")


def test_the_users_pixel_size_does_not_replace_the_headers(tmp_path: Path) -> None:
    path = save_dataset(photograph_dataset(pixel_spacing=0.05), tmp_path / "a.dcm")
    series = read_photo(path)
    with pytest.raises(InputRefused, match=r"a\.dcm, whose header tells 0\.05 x 0\.05 mm; leave it out") as refusal:
        series.with_pixel_size(0.02)
    assert refusal.value.code == "OPTION"
    np.testing.assert_allclose(series.with_pixel_size(0.05).affine, series.affine)
    oblong = photograph_dataset()
    oblong.PixelSpacing = [0.05, 0.1]  # between rows, between columns
    with pytest.raises(InputRefused, match=r"0\.1 x 0\.05"):
        read_photo(save_dataset(oblong, tmp_path / "b.dcm")).with_pixel_size(0.05)


def test_a_dicom_file_read_meanwhile_leaves_warnings_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun by another thread while the photograph is read, and ended after it."""
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    loggers = [logging.getLogger(name) for name in ("PIL", "pydicom")]

    def state() -> tuple[object, ...]:
        return list(warnings.filters), warnings.showwarning, [(logger.level, logger.propagate) for logger in loggers]

    before, opened = state(), Image.open
    monkeypatch.setattr(Image, "open", lambda *a, **k: silent_pydicom.__enter__() or opened(*a, **k))
    read_photo(tmp_path / "a.png")
    silent_pydicom.__exit__()
    assert state() == before


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    np.testing.assert_array_equal(picture(saved(tmp_path / "x.jpg", format="PNG")), CHART)
    np.testing.assert_array_equal(picture(saved(tmp_path / "no_ending", format="BMP")), CHART)


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_exif_left_behind(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION], exif[ARTIST] = orientation, "DOE^JANE"
    exif.get_ifd(GPS)[2] = (48.0, 51.0, 29.0)
    stored = Image.fromarray(np.ascontiguousarray(TURNED[orientation](CHART)))
    path = saved(tmp_path / name, stored, exif=exif, quality=95)
    assert_close(picture(path))
    series = read_photo(path)
    assert set(series.image.meta) <= {"affine", "space"} and "DOE" not in repr(series)


@pytest.mark.parametrize("mode", ["P", "RGBA", "PA", "CMYK", "YCbCr"])
def test_colour_modes(tmp_path: Path, mode: str) -> None:
    name = "x.tif" if mode in ("CMYK", "YCbCr") else "x.png"
    palette = RGB.quantize(6)
    image = {"P": palette, "PA": palette.convert("PA")}.get(mode) or RGB.convert(mode)
    path = saved(tmp_path / ("x.tif" if mode == "PA" else name), image)
    assert_close(picture(path), tolerance=3)


def test_cmyk_jpeg(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.jpg", RGB.convert("CMYK"), quality=95)
    assert_close(picture(path))
    assert "CMYK" in read_photo(path).warnings[0]


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_grey(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "x.png", RGB.convert(mode))
    np.testing.assert_array_equal(picture(path), np.repeat(GREY[..., None], 3, 2))
    assert read_photo(path).warnings == ("the photograph is grey, not coloured",)


def test_transparency_is_dropped_with_a_warning(tmp_path: Path) -> None:
    opaque = RGB.convert("RGBA")
    assert read_photo(saved(tmp_path / "x.png", opaque)).warnings == ()
    opaque.putalpha(Image.new("L", RGB.size, 100))
    path = saved(tmp_path / "y.png", opaque)
    np.testing.assert_array_equal(picture(path), CHART)
    assert "transparent" in read_photo(path).warnings[0]
    assert "transparent" in read_photo(saved(tmp_path / "z.png", RGB.quantize(6), transparency=0)).warnings[0]


def test_colour_profile(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert read_photo(saved(tmp_path / "x.png", icc_profile=srgb)).warnings == ()
    series = read_photo(saved(tmp_path / "y.png", icc_profile=srgb.replace("sRGB".encode("utf-16-be"), bytes(8))))
    assert "profile" in series.warnings[0] and "icc" not in repr(series.image.meta)


def test_sixteen_bits(tmp_path: Path) -> None:
    assert refusal(saved(tmp_path / "x.png", Image.fromarray(GREY.astype(np.uint16) * 257))) == "DATA_TYPE"
    assert refusal(saved(tmp_path / "x.tif", Image.fromarray(GREY.astype(np.float32)))) == "DATA_TYPE"
    assert refusal(saved(tmp_path / "y.png", RGB.convert("1"))) == "DATA_TYPE"


@pytest.mark.parametrize("name", ["x.tif", "x.png", "x.webp"])
def test_refuses_several_images(tmp_path: Path, name: str) -> None:
    other = Image.fromarray(255 - CHART)
    assert refusal(saved(tmp_path / name, save_all=True, append_images=[other], duration=99)) == "SEVERAL_IMAGES"


def test_the_first_of_a_multi_picture_jpeg_is_the_photograph(tmp_path: Path) -> None:
    preview = Image.fromarray(255 - CHART)
    assert_close(picture(saved(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[preview], quality=95)))


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.bmp", "x.webp"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_refuses_truncated_files(tmp_path: Path, name: str, part: float, capfd: pytest.CaptureFixture[str]) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    path = saved(tmp_path / name, noise)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    assert refusal(path) in ("PHOTO_UNREADABLE", "NOT_PHOTO")
    assert capfd.readouterr() == ("", "")


def test_size_is_checked_before_decoding(tmp_path: Path) -> None:
    for side, name in ((10_001, "x.png"), (30_000, "y.png")):
        image = io.BytesIO()
        Image.new("1", (8, 8)).save(image, "PNG")
        content = bytearray(image.getvalue())
        content[16:24] = side.to_bytes(4, "big") * 2
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        (tmp_path / name).write_bytes(content)
        assert refusal(tmp_path / name) == "TOO_LARGE"


def test_refuses_files_that_are_none(tmp_path: Path) -> None:
    assert refusal(tmp_path / "missing.png") == "FILE_NOT_FOUND"
    assert refusal(tmp_path) == "FILE_NOT_FOUND"
    for content in (b"", b"text" * 99):
        (tmp_path / "x.png").write_bytes(content)
        assert refusal(tmp_path / "x.png") == "NOT_PHOTO"
    assert refusal(saved(tmp_path / "x.gif")) == "NOT_PHOTO"


class TestDicom:
    @staticmethod
    def saved(path: Path, dataset: Dataset, transfer_syntax: str = ExplicitVRLittleEndian) -> Path:
        if dataset.file_meta.get("TransferSyntaxUID", "") and dataset["PixelData"].is_undefined_length:
            transfer_syntax = dataset.file_meta.TransferSyntaxUID
        save_dataset(dataset, path, transfer_syntax=transfer_syntax)
        return path

    @pytest.mark.parametrize("dermoscopic", [False, True])
    @pytest.mark.parametrize(
        ("photometric", "jpeg"),
        [("RGB", None), ("YBR_FULL", None), ("PALETTE COLOR", None), ("YBR_FULL_422", "ybr"), ("RGB", "ybr")]
        + [("RGB", "rgb"), ("YBR_FULL_422", "rgb")],
    )
    def test_colours(self, tmp_path: Path, photometric: str, jpeg: str | None, dermoscopic: bool) -> None:
        dataset = photograph_dataset(CHART, photometric=photometric, jpeg=jpeg, dermoscopic=dermoscopic)
        path = self.saved(tmp_path / "x.dcm", dataset)
        assert_close(picture(path), tolerance=LOSSY if jpeg else 2)
        assert read_photo(path).modality == ("DMS" if dermoscopic else "XC")

    @pytest.mark.parametrize("transform", [0, 1])
    def test_adobe_marker_decides(self, tmp_path: Path, transform: int) -> None:
        stream = io.BytesIO()
        RGB.save(stream, "JPEG", quality=95, subsampling="4:4:4", keep_rgb=transform == 0)
        content = stream.getvalue()
        if transform:  # in the place of JFIF's marker
            end = 4 + int.from_bytes(content[4:6], "big")
            marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
            content = content[:2] + marker + content[end:]
        dataset = photograph_dataset(CHART, photometric="RGB", jpeg="ybr")
        dataset.PixelData = encapsulate([content])
        assert_close(picture(self.saved(tmp_path / "x.dcm", dataset)))

    def test_without_markers_the_header_decides(self, tmp_path: Path) -> None:
        stream = io.BytesIO()
        Image.fromarray(CHART).convert("RGB").save(stream, "JPEG", quality=95, subsampling="4:4:4")
        content = stream.getvalue()
        bare = content[:2] + content[4 + int.from_bytes(content[4:6], "big") :]
        dataset = photograph_dataset(CHART, photometric="YBR_FULL", jpeg="ybr")
        dataset.PixelData = encapsulate([bare])
        assert_close(picture(self.saved(tmp_path / "x.dcm", dataset)))
        dataset.PhotometricInterpretation = "RGB"
        ycbcr = np.asarray(RGB.convert("YCbCr"))
        assert_close(picture(self.saved(tmp_path / "y.dcm", dataset)), ycbcr)

    def test_rle(self, tmp_path: Path) -> None:
        dataset = photograph_dataset(CHART)
        np.testing.assert_array_equal(picture(self.saved(tmp_path / "x.dcm", dataset, RLELossless)), CHART)

    def test_grey(self, tmp_path: Path) -> None:
        dataset = photograph_dataset(CHART, photometric="RGB")
        dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME2", 1
        del dataset.PlanarConfiguration
        dataset.PixelData = GREY.tobytes()
        np.testing.assert_array_equal(
            picture(self.saved(tmp_path / "x.dcm", dataset)), np.repeat(GREY[..., None], 3, 2)
        )

    def test_spacing_and_frame(self, tmp_path: Path) -> None:
        dataset = photograph_dataset(CHART, dermoscopic=True)
        series = read_photo(self.saved(tmp_path / "x.dcm", dataset))
        assert not series.spacing_known
        dataset.PixelSpacing = [0.02, 0.03]  # rows, columns
        series = read_photo(self.saved(tmp_path / "x.dcm", dataset))
        assert series.spacing_known
        np.testing.assert_allclose(series.affine, np.diag([-0.03, -0.02, 1, 1]))
        ((frame,),) = series.frames
        assert (frame.sop_instance_uid, frame.sop_class_uid) == (dataset.SOPInstanceUID, dataset.SOPClassUID)
        assert (frame.path, frame.number, frame.slice_index) == (tmp_path / "x.dcm", None, 0)

    @pytest.mark.parametrize(
        ("code", "changes"),
        [
            ("SEVERAL_IMAGES", {"NumberOfFrames": 2}),
            ("TOO_LARGE", {"Rows": 40000, "Columns": 40000}),
            ("DIMENSIONS", {"Rows": 0}),
            ("DATA_TYPE", {"BitsAllocated": 16}),
            ("DATA_TYPE", {"SamplesPerPixel": 1}),
            ("DATA_TYPE", {"PhotometricInterpretation": "MONOCHROME1", "SamplesPerPixel": 1}),
            ("SPACING", {"PixelSpacing": [0, 1]}),
            ("SPACING", {"PixelSpacing": [-1, -1]}),
            ("TRUNCATED", {"Rows": 64}),
            ("NOT_PHOTO", {"SOPClassUID": CTImageStorage}),
        ],
    )
    def test_refusals(self, tmp_path: Path, code: str, changes: dict[str, object]) -> None:
        dataset = photograph_dataset(CHART)
        for keyword, value in changes.items():
            setattr(dataset, keyword, value)
        assert refusal(self.saved(tmp_path / "x.dcm", dataset)) == code

    def test_codestream_of_another_size(self, tmp_path: Path) -> None:
        dataset = photograph_dataset(CHART, photometric="YBR_FULL_422", jpeg="ybr")
        dataset.Rows = 16
        assert refusal(self.saved(tmp_path / "x.dcm", dataset)) == "DICOM_UNREADABLE"

    def test_truncated_codestream(self, tmp_path: Path) -> None:
        dataset = photograph_dataset(CHART, photometric="YBR_FULL_422", jpeg="ybr")
        dataset.PixelData = encapsulate([next(generate_frames(dataset.PixelData, number_of_frames=1))[:-200]])
        assert refusal(self.saved(tmp_path / "x.dcm", dataset)) == "TRUNCATED"

    def test_no_personal_data(self, tmp_path: Path) -> None:
        dataset = photograph_dataset(CHART)
        dataset.PatientName = "DOE^JANE"
        dataset.BitsAllocated = 16
        path = self.saved(tmp_path / "x.dcm", dataset)
        with pytest.raises(InputRefused) as caught:
            read_photo(path)
        assert "DOE" not in str(caught.value)
