"""Area, diameter, perimeter and asymmetry of lesions whose size is known from formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from result_series import ellipse, photo_series

from convformer_monai.measurements.measure import measure
from convformer_monai.measurements.values import Measurements
from convformer_monai.readers import read_series
from convformer_monai.tasks.dermoscopy import DERMOSCOPY


def measured(mask: NDArray[np.bool_], spacing: tuple[float, float] = (1.0, 1.0), known: bool = True) -> Measurements:
    series = photo_series(mask.shape, spacing, known)
    return measure(mask.astype(np.uint8), series, DERMOSCOPY, case="x")


def values(measurements: Measurements) -> dict[str, float | None]:
    return {item.name: item.value for item in measurements.items}


def circumference(a: float, b: float) -> float:
    """Ramanujan's second approximation of an ellipse's."""
    h = ((a - b) / (a + b)) ** 2
    return float(np.pi * (a + b) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h))))


def half_disc(radius: float, degrees: float) -> NDArray[np.bool_]:
    x, y = np.indices((2 * int(radius) + 9,) * 2) - radius - 4.0
    turn = np.radians(degrees)
    return np.asarray((x**2 + y**2 <= radius**2) & (y * np.cos(turn) >= x * np.sin(turn)))


def half_disc_asymmetry() -> float:
    """Of the mirror image at the line through the centroid along the straight side; the other axis is one of symmetry.

    The width of the half disc of radius 1 falls with the height above the straight side. So what overlaps its mirror
    image is twice the part from the height of the centroid, 4 / (3 pi), to twice that height.
    """
    centroid = 4 / (3 * np.pi)
    heights = centroid * (1 + (np.arange(100_000) + 0.5) / 100_000)
    overlap = 2 * np.mean(2 * np.sqrt(1 - heights**2)) * centroid
    return float(100 * (1 - overlap / (np.pi / 2)) / 2)


@pytest.mark.parametrize("degrees", [0, 17, 45, 60, 90])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.04, 0.04), (1.0, 0.5), (0.1, 0.3)])
@pytest.mark.parametrize(("a", "b"), [(60, 60), (75, 45), (80, 24)])
def test_ellipses(a: int, b: int, spacing: tuple[float, float], degrees: int) -> None:
    unit = max(spacing)  # the longer side of a pixel
    shape = tuple(int(2 * a * unit / one) + 7 for one in spacing)
    found = values(measured(ellipse(shape, a * unit, b * unit, degrees, spacing), spacing))
    assert found["area"] == pytest.approx(np.pi * a * b * unit**2, rel=0.02)
    assert found["diameter"] == pytest.approx(2 * a * unit, rel=0.02)
    assert found["perimeter"] == pytest.approx(circumference(a, b) * unit, rel=0.02)
    assert 0 <= found["asymmetry"] < 1.5


class TestAsymmetry:
    @pytest.mark.parametrize("degrees", [0, 30, 45, 110])
    def test_half_disc(self, degrees: float) -> None:
        assert half_disc_asymmetry() == pytest.approx(9.27, abs=0.01)
        assert values(measured(half_disc(150, degrees)))["asymmetry"] == pytest.approx(half_disc_asymmetry(), abs=0.5)

    @pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 0.25)])
    def test_slender_triangle(self, spacing: tuple[float, float]) -> None:
        # the mirror image at a third of the height overlaps in two thirds: (0 + 1/3) / 2
        across, along = np.indices((90, int(240 / spacing[1])))
        triangle = np.abs(across - 44.5) <= 40 * (1 - along * spacing[1] / 230)
        assert values(measured(triangle, spacing))["asymmetry"] == pytest.approx(100 / 6, abs=0.5)

    def test_does_not_depend_on_the_size_of_a_large_photograph(self, monkeypatch: pytest.MonkeyPatch) -> None:
        disc = half_disc(90, 20)
        whole = values(measured(disc))["asymmetry"]
        monkeypatch.setattr("convformer_monai.measurements.lesion.SAMPLES", 2000)
        assert values(measured(disc))["asymmetry"] == pytest.approx(whole, abs=1)


class TestSpacing:
    @pytest.mark.parametrize(
        ("known", "units"), [(True, ["mm2", "mm", "mm", "%"]), (False, ["{pixel}", "{pixel}", "{pixel}", "%"])]
    )
    def test_units(self, known: bool, units: list[str]) -> None:
        found = measured(ellipse((120, 100), 40, 25), (0.05, 0.05), known)
        unit = 0.05 if known else 1.0
        assert [(item.name, item.unit) for item in found.items] == list(
            zip(("area", "diameter", "perimeter", "asymmetry"), units, strict=True)
        )
        assert found.get("area").value == pytest.approx(np.pi * 1000 * unit**2, rel=0.02)
        assert found.get("diameter").value == pytest.approx(80 * unit, rel=0.02)
        assert [item.title.endswith(", in pixels") for item in found.items] == [not known] * 3 + [False]
        assert found.details["pixel_spacing_mm"] == ([0.05, 0.05] if known else None)
        assert [("pixels" in note) for note in found.details["notes"]] == ([] if known else [True])

    def test_of_a_file_that_has_none(self, tmp_path: Path) -> None:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3)).astype(np.uint8)).save(
            tmp_path / "x.png"
        )
        series = read_series(tmp_path / "x.png")
        found = measure(np.ones((90, 60), np.uint8), series, DERMOSCOPY, case="x")
        assert found.get("area").value == 90 * 60 and found.get("area").unit == "{pixel}"


class TestMasks:
    def test_several_parts_are_measured_together(self) -> None:
        mask = np.zeros((200, 100), dtype=bool)
        mask[10:51, 20:61], mask[150:191, 20:61], mask[191, 61] = True, True, True  # the last touches by a corner
        found = measured(mask)
        assert found.details["components"] == 2
        assert found.get("area").value == 2 * 41**2 + 1
        assert found.get("diameter").value == pytest.approx(np.hypot(182, 42), rel=0.01)
        assert found.get("perimeter").value == pytest.approx(2 * 4 * 41, rel=0.03)

    def test_hole_counts_in_the_perimeter(self) -> None:
        ring = ellipse((200, 200), 90, 90) & ~ellipse((200, 200), 45, 45)
        assert values(measured(ring))["perimeter"] == pytest.approx(2 * np.pi * 135, rel=0.02)

    def test_empty(self) -> None:
        found = measured(np.zeros((40, 30), dtype=bool), (0.1, 0.1))
        assert values(found) == {"area": 0, "diameter": 0, "perimeter": 0, "asymmetry": None}
        assert found.details["components"] == 0 and found.details["image_share_percent"] == 0

    @pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 0.25)])
    def test_whole_image(self, spacing: tuple[float, float]) -> None:
        width, height = 300 * spacing[0], 200 * spacing[1]
        found = measured(np.ones((300, 200), dtype=bool), spacing)
        assert values(found) == {
            "area": pytest.approx(width * height),
            "diameter": pytest.approx(np.hypot(width, height), rel=0.01),
            "perimeter": pytest.approx(2 * (width + height), rel=0.02),
            "asymmetry": pytest.approx(0, abs=1e-6),
        }
        assert found.details["image_share_percent"] == 100

    def test_one_pixel_and_one_line(self) -> None:
        mask = np.zeros((40, 30), dtype=bool)
        mask[7, 9] = True
        assert values(measured(mask, (0.2, 0.2)))["diameter"] == pytest.approx(0.2)
        assert values(measured(mask, (0.2, 0.2)))["asymmetry"] == 0
        mask[7, 4:24] = True
        found = values(measured(mask, (0.5, 0.25)))
        assert found["diameter"] == pytest.approx(20 * 0.25, rel=0.02) and found["asymmetry"] == pytest.approx(0)
        assert measured(mask).details["image_share_percent"] == pytest.approx(100 * 20 / 1200)
