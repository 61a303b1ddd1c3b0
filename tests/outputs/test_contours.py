"""Outlines and letters, as previews and overlays draw them."""

from __future__ import annotations

import numpy as np

from convformer_monai.outputs.drawing.contours import covered, font, legible, outline


def test_thick_parts_are_lined_inside_and_thin_ones_ringed_outside() -> None:
    mask = np.zeros((30, 30), dtype=bool)
    mask[2:14, 2:14], mask[20, 20] = True, True
    line = outline(mask, 2)
    assert not line[4:12, 4:12].any() and line[2:14, 2:14].sum() == 144 - 64
    assert not line[20, 20] and line[20, [18, 19, 21, 22]].all() and line.sum() == 144 - 64 + 12


def test_covered_reaches_each_pixel_with_a_part_of_the_mask() -> None:
    mask = np.zeros((100, 60), dtype=bool)
    mask[37, 11] = True
    smaller, larger = covered(mask, (10, 6)), covered(mask, (200, 120))
    assert smaller.shape == (6, 10) and np.argwhere(smaller).tolist() == [[1, 3]]
    assert np.argwhere(larger).tolist() == [[22, 74], [22, 75], [23, 74], [23, 75]]


def test_all_letters_of_ascii_have_a_shape() -> None:
    missing = font().getmask("\N{SUPERSCRIPT TWO}")
    for letter in map(chr, range(33, 127)):
        assert font().getmask(letter).getbbox() and bytes(font().getmask(letter)) != bytes(missing), letter


def test_other_letters_are_spelt_with_those() -> None:
    assert legible("3.2 mm² Übersicht ﬁ") == "3.2 mm2 Ubersicht fi"
    assert legible("心臓\udcff") == "???" and legible("Größe") == "Gro?e"
