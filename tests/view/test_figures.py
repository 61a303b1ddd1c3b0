"""Figures: numbers in the right places."""

import re
import xml.dom.minidom

import pytest

from convformer_monai.measurements.wall_thickness import NAMES
from convformer_monai.view.figures import bars, bulls_eye, volume_curve

RED = (220, 65, 65)


def centres(svg: str) -> dict[str, tuple[float, float]]:
    """Where each text stands."""
    found = re.findall(r'<text [^>]*?x="([\d.]+)" y="([\d.]+)"[^>]*>([^<]+)</text>', svg)
    return {text: (float(x), float(y)) for x, y, text in found}


def test_segments_are_where_the_heart_association_has_them() -> None:
    svg = bulls_eye([float(number) for number in range(1, 17)] + [None], NAMES, "Wall", 16.0)
    xml.dom.minidom.parseString(svg)
    at = centres(svg)
    middle_x, middle_y = at["\N{EN DASH}"]  # the apex
    assert at["1.0"][1] < at["7.0"][1] < at["13.0"][1] < middle_y < at["15.0"][1] < at["10.0"][1] < at["4.0"][1]
    assert at["2.0"][0] < middle_x and at["3.0"][0] < middle_x  # the septum at the left
    assert at["5.0"][0] > middle_x and at["6.0"][0] > middle_x
    assert at["2.0"][1] < middle_y < at["3.0"][1] and at["14.0"][0] < middle_x < at["16.0"][0]
    assert at["anterior"][1] < at["inferior"][1] and at["septal"][0] < at["lateral"][0]
    assert "basal anterior 1.0" in svg and "17 apex: not measured" in svg


def test_curve_marks_its_moments() -> None:
    svg = volume_curve([0, 400, 800], [150, 70, 149], [("ED", 0), ("ES", 1)], unit="ms", title="LV", colour=RED)
    xml.dom.minidom.parseString(svg)
    points = [tuple(map(float, one.split(","))) for one in re.search(r'points="([^"]+)"', svg)[1].split()]
    assert points[1][1] > points[2][1] > points[0][1]  # downwards is less
    assert "ED 150 mL" in svg and "ES 70 mL" in svg and 'aria-label="LV: ED 150.0 mL, ES 70.0 mL"' in svg


@pytest.mark.parametrize("volumes", [[0.0, 0.0], [5.0, 5.0]])
def test_flat_curves_can_be_drawn(volumes: list[float]) -> None:
    svg = volume_curve([0, 0], volumes, [("ED", 0), ("ES", 1)], unit="phase", title="<LV>", colour=RED)
    xml.dom.minidom.parseString(svg)
    assert "nan" not in svg


def test_bars_are_as_high_as_their_values() -> None:
    svg = bars([(4, 1.0), (5, 3.0), (9, 0.5)], title="Blood", unit="mL", colour=RED)
    xml.dom.minidom.parseString(svg)
    heights = [float(one) for one in re.findall(r'<rect [^>]*height="([\d.]+)"', svg)]
    assert heights[1] == pytest.approx(3 * heights[0], rel=0.01) and heights[0] == pytest.approx(
        2 * heights[2], rel=0.01
    )
    assert re.findall(r'data-slice="(\d+)"', svg) == ["3", "4", "8"]
    xml.dom.minidom.parseString(bars([(number, 1.0) for number in range(1, 200)], title="B", unit="mL", colour=RED))
