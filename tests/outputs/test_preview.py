"""Previews: what is where, to scale and on the right side, for series of all kinds, and nothing personal."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from result_series import TURNED, centred, ellipse, photo_series, volume_series
from scipy import ndimage

from convformer_monai.errors import InputRefused
from convformer_monai.measurements.measure import measure
from convformer_monai.measurements.values import Flag, Measurements
from convformer_monai.outputs.drawing.contours import font
from convformer_monai.outputs.drawing.preview import draw_preview, write_preview
from convformer_monai.readers.series import Frame, ImageSeries
from convformer_monai.tasks.cardiac import CARDIAC
from convformer_monai.tasks.dermoscopy import DERMOSCOPY
from convformer_monai.tasks.hemorrhage import HEMORRHAGE
from convformer_monai.tasks.task import Label, Task

RV, MYO, LV = (label.colour for label in CARDIAC.labels)
RED, YELLOW = HEMORRHAGE.labels[0].colour, DERMOSCOPY.labels[0].colour
BLACK, AMBER = (0, 0, 0), (255, 190, 80)
AXIAL, CORONAL, SAGITTAL = "LP", "LI", "PI"  # where X and Y of an upright slice point
DIRECTIONS = {"L": (-1, 0, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1), "A": (0, 1, 0)}
OPPOSITE = {"L": "R", "P": "A", "I": "S"}


def drawn(labels: NDArray[np.uint8], series: ImageSeries, task: Task, **options: Any) -> NDArray[np.uint8]:
    measurements = measure(labels, series, task, case="x", of_image=False, **options)
    return np.asarray(draw_preview(series, labels, task, measurements))


def coloured(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray((picture == colour).all(axis=-1))


def inside(box: tuple[slice, slice], other: tuple[slice, slice]) -> bool:
    return box != other and all(a.start >= b.start and a.stop <= b.stop for a, b in zip(box, other, strict=True))


def panels(picture: NDArray[np.uint8]) -> list[tuple[slice, slice]]:
    """Where the black panels are, from the top, and from left to right; the picture's own background is not black."""
    numbered, _ = ndimage.label(coloured(picture, BLACK))
    boxes = [box for box in ndimage.find_objects(numbered) if (box[0].stop - box[0].start) > 40]
    boxes = [box for box in boxes if not any(inside(box, other) for other in boxes)]
    return sorted(boxes, key=lambda box: (box[0].start // 10, box[1].start))


def shows(picture: NDArray[np.uint8], text: str) -> bool:
    """Tells whether a text is written somewhere, letter by letter, white or amber, on dark."""
    canvas = Image.new("L", (int(font().getlength(text)) + 8, 24), 20)
    ImageDraw.Draw(canvas).text((2, 2), text, fill=255, font=font())
    wanted = np.asarray(canvas) > 150
    rows, columns = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
    wanted = wanted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    found = picture[..., 0] > 150
    if any(have < need for have, need in zip(found.shape, wanted.shape, strict=True)):
        return False
    windows = np.lib.stride_tricks.sliding_window_view(found, wanted.shape)
    candidates = np.argwhere(windows[:, :, :, 0].sum(axis=2) == wanted[:, 0].sum())
    return any(np.array_equal(windows[tuple(place)], wanted) for place in candidates)


def marked(plane: str = AXIAL) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64]]:
    """An upright volume, (X, Y, Z), with a bright, labelled block right of the middle, and far up; and its matrix."""
    values, labels = np.zeros((64, 80, 5), np.float32), np.zeros((64, 80, 5), np.uint8)
    values[44:56, 8:18], labels[44:56, 8:18, 1:4] = 1000, 1
    x, y = (np.array(DIRECTIONS[letter]) for letter in plane)
    along = np.abs(np.cross(x, y)) * ([1, 1, 1] if plane != SAGITTAL else [-1, 1, 1]) * [1, -1, 1]
    return values, labels, np.stack([x * 2.0, y * 2.0, along * 8.0], axis=1)


def blob(shape: tuple[int, ...] = (2, 40, 40, 8)) -> NDArray[np.uint8]:
    labels = np.zeros(shape, dtype=np.uint8)
    labels[:, 10:30, 10:30, 1:7] = 2
    labels[:, 14:26, 14:26, 1:7] = 3
    return labels


HEART = np.diag([-2.0, -2.0, 8.0, 1.0])


class TestUpright:
    @pytest.mark.parametrize("plane", [AXIAL, CORONAL, SAGITTAL])
    def test_in_any_storage_order(self, plane: str) -> None:
        values, labels, matrix = marked(plane)
        pictures = []
        for order, flips in product(permutations(range(3)), ((1, 1, 1), (-1, 1, -1), (1, -1, 1))):
            steps = tuple(slice(None, None, flip) for flip in flips)
            stored, mask = (one.transpose(order)[steps] for one in (values, labels))
            series = volume_series((1, *stored.shape), centred(matrix[:, order] * flips, stored.shape), stored[None])
            picture = drawn(mask[None].copy(), series, HEMORRHAGE)
            boxes = panels(picture)
            assert len(boxes) == 6  # three slices, without and with the outlines
            pictures.append(np.stack([picture[box] for box in boxes]))
        assert all(np.array_equal(one, pictures[0]) for one in pictures[1:])
        plain, outlined = pictures[0][0], pictures[0][3]
        assert plain.shape == (260, 208, 3)
        bright, outlines = np.argwhere(plain[..., 0] > 128), np.argwhere(coloured(outlined, RED))
        for found in (bright, outlines):  # with a few pixels of letters
            assert np.median(found, axis=0) == pytest.approx(np.array([13.0, 50.0]) * 3.25, abs=2)
        right, down = plane
        edges = {
            right: plain[110:150, 185:],
            OPPOSITE[right]: plain[110:150, :23],
            down: plain[-22:, 90:118],
            OPPOSITE[down]: plain[:22, 90:118],
        }
        assert {letter: shows(edge, letter) for letter, edge in edges.items()} == dict.fromkeys(edges, True)
        assert not shows(edges[right], OPPOSITE[right]) and not shows(edges[down], OPPOSITE[down])

    def test_oblique_slices_have_two_letters(self) -> None:
        values, labels, matrix = marked()
        turn = np.radians(30)
        about_x = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
        series = volume_series((1, *values.shape), centred(about_x @ matrix, values.shape), values[None])
        panel = drawn(labels[None], series, HEMORRHAGE)[panels(drawn(labels[None], series, HEMORRHAGE))[0]]
        top, bottom = shows(panel[:22, 80:128], "AS"), shows(panel[-22:, 80:128], "PI")
        assert top and bottom and shows(panel[110:150, 185:], "L")

    @pytest.mark.parametrize("flip", [False, True])
    def test_slices_are_numbered_as_in_the_series(self, flip: bool) -> None:
        values, labels, matrix = marked()
        labels[..., 1:3] = 0  # only slice 4 of 5, from below
        matrix = matrix * ([1, 1, -1] if flip else [1, 1, 1])
        stored, mask = (one[..., ::-1] if flip else one for one in (values, labels))
        series = volume_series((1, *values.shape), centred(matrix, values.shape), stored[None].copy())
        picture = drawn(mask[None].copy(), series, HEMORRHAGE)
        number = int(np.flatnonzero(mask.any(axis=(0, 1)))[0]) + 1
        assert number == (2 if flip else 4)
        assert shows(picture, f"slice {number} of 5") and not shows(picture, f"slice {6 - number} of 5")


class TestOutlines:
    @pytest.mark.parametrize(
        ("size", "spacing"),
        [((130, 130), (2.0, 2.0)), ((512, 512), (0.5, 0.5)), ((300, 100), (0.7, 2.1)), ((48, 40), (5.0, 5.0))],
    )
    def test_of_a_volume_lie_on_the_border(self, size: tuple[int, int], spacing: tuple[float, float]) -> None:
        extent = np.array(size) * spacing
        mask = ellipse(size, 0.3 * extent.min(), 0.2 * extent.min(), 30, spacing)
        labels = np.repeat(mask[None, :, :, None], 3, axis=3).astype(np.uint8)
        matrix = np.diag([-spacing[0], -spacing[1], 5.0 * max(spacing)])
        picture = drawn(
            labels, volume_series(labels.shape, centred(matrix, labels.shape[1:]), 0.0 * labels), HEMORRHAGE
        )
        panel = picture[panels(picture)[3]]
        scale = 260 / extent.max()  # pixels per mm
        assert panel.shape[:2] == tuple(np.round(extent[::-1] * scale))
        self.check(coloured(panel, RED), scale, extent, (0.3 * extent.min(), 0.2 * extent.min()), max(spacing))

    @pytest.mark.parametrize("size", [(256, 192), (1500, 1000), (480, 480)])
    def test_of_a_photograph_lie_on_the_border(self, size: tuple[int, int]) -> None:
        mask = ellipse(size, 0.3 * min(size), 0.2 * min(size), 30)
        picture = drawn(mask.astype(np.uint8), photo_series(size, values=np.zeros((3, *size))), DERMOSCOPY)
        (box,) = panels(picture)
        scale = min(max(max(size), 480), 1000) / max(size)
        extent = np.array(size, dtype=float)
        assert picture[box].shape[:2] == tuple(np.round(extent[::-1] * scale))
        self.check(coloured(picture[box], YELLOW), scale, extent, (0.3 * min(size), 0.2 * min(size)), 1.0)

    @staticmethod
    def check(
        line: NDArray[np.bool_], scale: float, extent: NDArray[np.float64], axes: tuple[float, float], voxel: float
    ) -> None:
        """The line is as far from the ellipse as two pixels, and half the diagonal of a voxel, and goes around it."""
        angles = np.linspace(0, 2 * np.pi, 2000)
        x, y = axes[0] * np.cos(angles), axes[1] * np.sin(angles)
        turned = np.stack(
            [y * np.cos(np.pi / 6) + x * np.sin(np.pi / 6), x * np.cos(np.pi / 6) - y * np.sin(np.pi / 6)]
        )
        border = (turned.T + extent[::-1] / 2) * scale - 0.5  # (row, column)
        points = np.argwhere(line)
        distances = np.linalg.norm(points[:, None] - border[None, ::4], axis=-1)
        allowed = 2 + 0.71 * voxel * scale
        assert len(points) and distances.min(axis=1).max() <= allowed and distances.min(axis=0).max() <= allowed

    def test_single_voxels_of_a_large_matrix_are_seen(self) -> None:
        for place in range(200, 206):
            labels = np.zeros((1, 512, 512, 3), np.uint8)
            labels[0, place, 300, 1] = 1
            series = volume_series(labels.shape, centred(np.diag([-0.5, -0.5, 5.0]), labels.shape[1:]), 0.0 * labels)
            picture = drawn(labels, series, HEMORRHAGE)
            assert coloured(picture[panels(picture)[1]], RED).sum() >= 8


class TestRows:
    def test_of_a_cine_are_end_diastole_and_end_systole_as_measured(self) -> None:
        labels = np.concatenate([blob(), blob()])[:3]
        labels[0][labels[0] == 3] = 2  # the smallest LV comes first
        labels[0, 18:22, 18:22, 1:7] = 3
        labels[2, 12:28, 12:28, 1:7] = 3
        series = volume_series(labels.shape, HEART, 0.0 * labels, phases=(3, 7, 12))
        picture = drawn(labels, series, CARDIAC)
        boxes = panels(picture)
        assert len(boxes) == 12 and shows(picture[: boxes[0][0].start], "ED, end diastole: phase 12, found")
        assert shows(picture[boxes[0][0].stop : boxes[6][0].start], "ES, end systole: phase 3, found")
        widths = [np.ptp(np.argwhere(coloured(picture[box], LV))[:, 1]) + 1 for box in (boxes[0], boxes[6])]
        assert widths[0] == pytest.approx(4 * widths[1], rel=0.05)
        chosen = drawn(labels, series, CARDIAC, ed=3, es=7)
        assert shows(chosen, "ED, end diastole: phase 3, chosen by the user") and not shows(chosen, "phase 12")

    def test_of_one_phase_that_was_kept_of_a_cine(self) -> None:
        labels = blob((3, 40, 40, 8))
        measurements = measure(labels, volume_series(labels.shape, HEART, 0.0 * labels), CARDIAC, case="x")
        kept = volume_series((1, *labels.shape[1:]), HEART, 0.0 * labels[:1], phases=(1,))
        picture = np.asarray(draw_preview(kept, labels[1:2], CARDIAC, measurements))
        boxes = panels(picture)
        assert len(boxes) == 12 and shows(picture, "ES, end systole: phase 1, found")
        assert not coloured(picture[boxes[0]], LV).any() and coloured(picture[boxes[6]], LV).any()

    def test_start_at_the_base_of_the_heart(self) -> None:
        labels = blob((1, 40, 40, 8))
        labels[..., 1:3][labels[..., 1:3] == 2] = 0  # narrow where the index is small
        picture = drawn(labels, volume_series(labels.shape, HEART, 0.0 * labels), CARDIAC)
        first, last = panels(picture)[6], panels(picture)[11]
        assert coloured(picture[first], MYO).any() and not coloured(picture[last], MYO).any()
        assert shows(picture[:, first[1]], "slice 7 of 8") and shows(picture[:, last[1]], "slice 2 of 8")

    def test_of_an_empty_mask_are_the_slices_alone(self) -> None:
        labels = np.zeros((1, 40, 40, 8), np.uint8)
        picture = drawn(labels, volume_series(labels.shape, HEART, 0.0 * labels), CARDIAC)
        boxes = panels(picture)
        assert len(boxes) == 6 and shows(picture, "Nothing was found: the mask is empty.")
        assert not any(coloured(picture[: boxes[-1][0].stop], colour).any() for colour in (RV, MYO, LV))
        photo = drawn(np.zeros((90, 70), np.uint8), photo_series((90, 70)), DERMOSCOPY)
        assert shows(photo, "Nothing was found: the mask is empty.")
        head = drawn(labels, volume_series(labels.shape, HEART, 0.0 * labels), HEMORRHAGE)
        assert shows(head, "Nothing was found: the mask is empty; this does not rule one out")

    def test_of_one_slice(self) -> None:
        labels = blob()[:1, ..., 3:4]
        picture = drawn(labels, volume_series(labels.shape, HEART, 0.0 * labels), CARDIAC)
        assert len(panels(picture)) == 2 and shows(picture, "slice 1 of 1")


class TestWords:
    def test_numbers_flags_and_colours(self) -> None:
        labels = blob()
        labels[1, 14:18, 14:26, 1:7] = 2
        labels[:, 5:10, 10:30, 1:7] = 1
        labels[:, 0, 10, 3] = 1
        picture = drawn(labels, volume_series(labels.shape, HEART, 0.0 * labels), CARDIAC)
        top = picture[: panels(picture)[0][0].start]
        assert shows(top, CARDIAC.name) and shows(top, "Left ventricular ejection fraction 33.3 %")
        assert shows(top, "Left ventricular end-diastolic volume 27.6 mL")
        assert shows(top, "MASK_AT_BORDER: right ventricle cavity touches the border of the image")
        legend = picture[panels(picture)[-1][0].stop :]
        places = [np.argwhere(coloured(legend, colour))[:, 1] for colour in (RV, MYO, LV)]
        assert all(len(place) > 20 for place in places)
        assert places[0].max() < places[1].min() and places[1].max() < places[2].min()

    @pytest.mark.parametrize("message", ["many short words " * 30, "one" * 200, "a " + "long" * 60 + " b"])
    def test_are_wrapped(self, message: str) -> None:
        labels = np.ones((30, 30), np.uint8)
        found = measure(labels, photo_series((30, 30)), DERMOSCOPY, case="x")
        flagged = replace(found, flags=(Flag("READER_WARNING", message.strip()),))
        pictures = [
            np.asarray(draw_preview(photo_series((30, 30)), labels, DERMOSCOPY, one))
            for one in (replace(found, flags=()), flagged)
        ]
        assert pictures[1].shape[0] >= pictures[0].shape[0] + 3 * 20
        head = pictures[1][: -pictures[0].shape[0] + 100]
        assert (head[:, -5:] == 20).all() and shows(head, "READER_WARNING:")

    def test_are_in_the_letters_that_the_font_has(self) -> None:
        labels = ellipse((60, 60), 20, 15).astype(np.uint8)
        picture = drawn(labels, photo_series((60, 60), (0.1, 0.1), warnings=("Größe 心",)), DERMOSCOPY)
        assert shows(picture, "mm2") and shows(picture, "READER_WARNING: Gro?e ?")
        table = (Label(1, "läsion", "Läsion", (240, 200, 60)),)
        series = photo_series((60, 60))
        draw_preview(series, labels, Task("läsion", table), Measurements("x", "Bündel \udcff", table, ()))


class TestScaleBar:
    @pytest.mark.parametrize("spacing", [0.013, 0.1, 0.5, 1.37, 30.0])
    def test_of_volumes(self, spacing: float) -> None:
        labels = np.zeros((1, 90, 80, 3), np.uint8)
        labels[0, 20:60, 20:60] = 1
        series = volume_series(labels.shape, np.diag([-spacing, -spacing, 5 * spacing, 1]), 0.0 * labels)
        self.check(drawn(labels, series, HEMORRHAGE), 260 / (90 * spacing), 260)

    @pytest.mark.parametrize("spacing", [(0.01, 0.01), (0.2, 0.1)])
    def test_of_photographs(self, spacing: tuple[float, float]) -> None:
        size = (200, 300)
        mask = ellipse(size, 50, 50).astype(np.uint8)
        picture = drawn(mask, photo_series(size, spacing, values=np.zeros((3, *size))), DERMOSCOPY)
        extent = np.array(size) * spacing
        longest = min(max((extent / min(spacing)).max(), 480), 1000)
        assert picture[panels(picture)[0]].shape[:2] == tuple(np.round(extent[::-1] * longest / extent.max()))
        self.check(picture, longest / extent.max(), longest)

    @staticmethod
    def check(picture: NDArray[np.uint8], pixels_per_mm: float, panel: float) -> None:
        bottom = coloured(picture[-26:], (255, 255, 255))
        row = bottom[bottom.sum(axis=1).argmax()]
        numbered, _ = ndimage.label(row)
        bar = max(part.stop - part.start for (part,) in ndimage.find_objects(numbered)) - 2  # its ends are wide
        for length in (step * 10.0**power for power in range(-4, 5) for step in (1, 2, 5)):
            if abs(length * pixels_per_mm - bar) <= 1:
                assert 0.15 * panel <= bar <= 0.4 * panel + 2 and shows(picture[-26:], f"{length:g} mm")
                return
        raise AssertionError(f"the bar of {bar / pixels_per_mm} mm is not a round length")

    def test_none_without_spacing(self) -> None:
        picture = drawn(np.ones((60, 60), np.uint8), photo_series((60, 60), known=False), DERMOSCOPY)
        assert not coloured(picture[-26:], (255, 255, 255)).any()


class TestOddSizes:
    @pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 5), (2, 1, 3), (1, 300, 2), (3, 2, 400)])
    @pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.1, 20.0, 5.0), (0.3, 0.3, 60.0)])
    @pytest.mark.parametrize("empty", [False, True])
    def test_volumes(self, shape: tuple[int, ...], spacing: tuple[float, ...], empty: bool) -> None:
        labels = np.full((1, *shape), 0 if empty else 1, np.uint8)
        for bundle in (HEMORRHAGE, CARDIAC):
            picture = drawn(labels, volume_series(labels.shape, centred(TURNED * spacing, shape)), bundle)
            assert 560 <= picture.shape[1] <= 1700 and picture.shape[0] < 1000

    @pytest.mark.parametrize("shape", [(1, 1), (2, 3), (3000, 20), (5, 2000)])
    def test_photographs(self, shape: tuple[int, int]) -> None:
        picture = drawn(np.ones(shape, np.uint8), photo_series(shape, values=np.full((3, *shape), 90)), DERMOSCOPY)
        assert max(picture.shape[0] - 300, picture.shape[1] - 20) <= 1000

    def test_colours_of_a_photograph_are_kept(self) -> None:
        values = np.zeros((3, 500, 400))
        values[:, :250] = np.array([200, 100, 50])[:, None, None]
        picture = drawn(np.zeros((500, 400), np.uint8), photo_series((500, 400), values=values), DERMOSCOPY)
        assert (coloured(picture, (200, 100, 50)).sum(), coloured(picture, BLACK).sum()) == (100000, 100000)


class TestWindow:
    def test_of_a_head_is_the_brain_s(self) -> None:
        values = np.full((1, 60, 60, 4), -1000.0)
        values[:, 20:40, 20:40], values[:, 25:35, 25:35] = 40.0, 1500.0
        labels = np.zeros(values.shape, np.uint8)
        picture = drawn(labels, volume_series(values.shape, HEART, values), HEMORRHAGE)
        assert coloured(picture, (127, 127, 127)).sum() > 1000 and coloured(picture, (255, 255, 255)).sum() > 1000

    def test_of_an_image_of_one_value(self) -> None:
        drawn(blob(), volume_series(blob().shape, HEART, np.full(blob().shape, 7.0)), CARDIAC)


class TestPrivacy:
    def test_no_name_of_the_series_is_drawn_or_stored(self, tmp_path: Path) -> None:
        labels = blob()
        frame = Frame(Path("/DOE_JANE/1.dcm"), "1.2.3", "1.2", None, (0.0, 0.0, 0.0), 0.0)
        plain = volume_series(labels.shape, HEART, phase_times_ms=(0.0, 30.0))
        named = replace(plain, path=Path("/DOE_JANE/19700101"), frames=((frame,) * 8,) * 2, modality="MR")
        pictures = []
        for case, series in (("x", plain), ("DOE^JANE 19700101", named)):
            measurements = measure(labels, series, CARDIAC, case=case, of_image=False)
            write_preview(tmp_path / "x.png", series, labels, CARDIAC, measurements, overwrite=True)
            pictures.append((tmp_path / "x.png").read_bytes())
        assert pictures[0] == pictures[1] and b"DOE" not in pictures[1]
        with Image.open(tmp_path / "x.png") as picture:
            assert picture.mode == "RGB" and not picture.info


class TestFiles:
    @staticmethod
    def write(path: Path, **options: bool) -> None:
        measurements = measure(blob(), volume_series(blob().shape, HEART), CARDIAC, case="x")
        series = volume_series(blob().shape, HEART)
        write_preview(path, series, blob(), CARDIAC, measurements, **options)

    def test_needs_no_screen_and_no_matplotlib(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DISPLAY", raising=False)
        monkeypatch.setenv("MPLBACKEND", "no such backend")
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        self.write(tmp_path / "x.png")
        with Image.open(tmp_path / "x.png") as picture:
            assert picture.size[0] > 560

    def test_names_with_spaces_and_unicode(self, tmp_path: Path) -> None:
        self.write(tmp_path / "Übung 心臓 $1.PNG")
        assert [path.name for path in tmp_path.iterdir()] == ["Übung 心臓 $1.PNG"]

    def test_exists(self, tmp_path: Path) -> None:
        (tmp_path / "x.png").write_bytes(b"before")
        with pytest.raises(InputRefused, match="EXISTS"):
            self.write(tmp_path / "x.png")
        assert (tmp_path / "x.png").read_bytes() == b"before"
        self.write(tmp_path / "x.png", overwrite=True)
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")

    def test_wrong_arguments(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"end in \.png, got 'x\.jpg'"):
            self.write(tmp_path / "x.jpg")
        series = volume_series(blob().shape, HEART)
        measurements = measure(blob(), series, CARDIAC, case="x")
        with pytest.raises(ValueError, match=r"shape of the series, \(2, 40, 40, 8\), got \(1, 40, 40, 8\)"):
            draw_preview(series, blob()[:1], CARDIAC, measurements)
        with pytest.raises(ValueError, match=r"shape of the series, \(6, 5\), got \(5, 6\)"):
            draw_preview(photo_series((6, 5)), np.zeros((5, 6), np.uint8), DERMOSCOPY, measurements)
        assert not list(tmp_path.iterdir())
