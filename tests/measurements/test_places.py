"""Flags lead to the slices that they speak of."""

import numpy as np
import pytest

from convformer_monai.measurements.places import places_of
from convformer_monai.tasks.cardiac import CARDIAC
from convformer_monai.tasks.hemorrhage import HEMORRHAGE


def blob() -> np.ndarray:
    labels = np.zeros((2, 20, 20, 6), np.uint8)
    labels[:, 5:9, 5:9, 2:4] = 1
    return labels


def test_ends_of_the_stack_and_borders_of_the_slices() -> None:
    labels = blob()
    labels[1, 5, 5, 5] = 1
    labels[0, 0, 5, 3] = 1
    assert places_of("MASK_AT_LAST_SLICE", labels, 2, HEMORRHAGE, {}) == ((1, 5),)
    assert places_of("MASK_AT_BORDER", labels, 2, HEMORRHAGE, {}) == ((0, 3),)


def test_slices_along_another_axis() -> None:
    labels = np.moveaxis(blob(), -1, 1).copy()
    labels[0, 0, 5, 5] = 1
    assert places_of("MASK_AT_LAST_SLICE", labels, 0, HEMORRHAGE, {}) == ((0, 0),)


def test_small_parts() -> None:
    labels = blob()
    labels[0, 15, 15, 5] = labels[0, 15, 2, 0] = 1
    assert set(places_of("MANY_PARTS", labels, 2, CARDIAC, {})) == {(0, 5), (0, 0)}


def test_what_may_be_missed_is_where_it_is_most_probable() -> None:
    likely = np.zeros((1, 20, 20, 6), np.uint8)
    likely[0, 3, 4, 5], likely[0, 3, 4, 1] = 40, 30
    assert places_of("MAYBE_MISSED", likely * np.uint8(0), 2, HEMORRHAGE, {}, likely) == ((0, 5),)
    assert places_of("MAYBE_MISSED", likely * np.uint8(0), 2, HEMORRHAGE, {}) == ()


@pytest.mark.parametrize("code", ["EF_IMPLAUSIBLE", "ES_ABOVE_ED"])
def test_an_ejection_fraction_is_about_both_moments(code: str) -> None:
    labels = blob()
    labels[1, 4:12, 4:12, 3] = 3
    assert places_of(code, labels, 2, CARDIAC, {"ed": 1, "es": 0}) == ((1, 3), (0, 2))


def test_of_the_whole_image() -> None:
    labels = np.ones((2, 4, 4, 40), np.uint8)
    assert places_of("MASK_AT_BORDER", labels, 2, HEMORRHAGE, {}) == ()  # everywhere
    assert places_of("FLIP_DISAGREEMENT", labels, 2, HEMORRHAGE, {}) == ()
