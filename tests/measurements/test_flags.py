"""Every flag is raised in a smallest case, and not in the case beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from result_series import centred, photo_series, tilted, volume_series

from convformer_monai.measurements.flags import disagreement_flags, intensity_flags, mask_flags
from convformer_monai.measurements.measure import measure
from convformer_monai.measurements.values import Flag, Measurement
from convformer_monai.measurements.ventricles import ventricle_flags
from convformer_monai.readers.series import Frame, ImageSeries
from convformer_monai.tasks.cardiac import CARDIAC
from convformer_monai.tasks.dermoscopy import DERMOSCOPY
from convformer_monai.tasks.generic import generic_task
from convformer_monai.tasks.hemorrhage import HEMORRHAGE
from convformer_monai.tasks.task import Task

OTHER = generic_task({1: "it"}, photograph=False)
SLICES = np.diag([-1.0, -1.0, 5.0, 1.0])  # thick along the third axis


def codes(flags: Sequence[Flag]) -> list[str]:
    for flag in flags:  # one line for people, whatever was raised
        assert flag.message and "\n" not in flag.message and flag.message == flag.message.strip()
        assert flag.code == flag.code.upper() and len(flag.message) < 160 and "  " not in flag.message
    return [flag.code for flag in flags]


def heart(phases: int = 1) -> NDArray[np.uint8]:
    """Labels with all structures, far from every border."""
    labels = np.zeros((phases, 16, 16, 5), dtype=np.uint8)
    labels[:, 4:12, 4:12, 1:4] = 2
    labels[:, 5:8, 5:11, 1:4], labels[:, 8:11, 5:11, 1:4] = 1, 3
    return labels


def of_mask(labels: NDArray[np.uint8], affine: NDArray[np.float64] = SLICES, max_parts: int | None = 2) -> list[Flag]:
    task = replace(CARDIAC, max_parts=max_parts, within_stack=True)
    return mask_flags(labels, volume_series(labels.shape, affine), task)


def of_values(*spread: float, modality: str = "CT") -> list[str]:
    values = np.resize(np.array(spread, dtype=float), (1, 4, 4, 4))
    return codes(intensity_flags(volume_series((1, 4, 4, 4), values=values), modality))


def frames(*places: float) -> tuple[tuple[Frame, ...], ...]:
    return (tuple(Frame(Path("x"), "1.2", "1.3", None, (0.0, 0.0, place), place) for place in places),)


class TestMask:
    def test_a_good_mask_has_none(self) -> None:
        assert of_mask(heart()) == of_mask(heart(3)) == []

    def test_empty(self) -> None:
        (flag,) = of_mask(np.zeros((2, 16, 16, 5), np.uint8))
        assert flag.code == "MASK_EMPTY"
        assert flag.message == "nothing was found"
        one_voxel = np.zeros((2, 16, 16, 5), np.uint8)
        one_voxel[0, 8, 8, 2] = 3
        assert "MASK_EMPTY" not in codes(of_mask(one_voxel))

    def test_structure_missing(self) -> None:
        labels = heart(3)
        labels[labels == 1] = 2
        (flag,) = of_mask(labels)
        assert (flag.code, flag.message) == ("STRUCTURE_MISSING", "no right ventricle cavity was found")
        labels = heart(3)
        labels[1][labels[1] == 3] = 2
        (flag,) = of_mask(labels)
        assert flag.message == "no left ventricle cavity was found (phase 1)"
        labels[2][labels[2] == 3] = 2
        assert of_mask(labels)[0].message == "no left ventricle cavity was found (phases 1, 2)"
        labels[2, 9, 9, 2] = 3
        assert of_mask(labels)[0].message.endswith("(phase 1)")

    def test_phases_are_numbered_as_in_the_source(self) -> None:
        labels = heart(2)
        labels[1][labels[1] == 3] = 2
        series = volume_series(labels.shape, SLICES, phases=(4, 11))
        assert mask_flags(labels, series, CARDIAC)[0].message.endswith("(phase 11)")

    @pytest.mark.parametrize("place", [(0, 8), (15, 8), (8, 0), (8, 15)])
    def test_at_the_border(self, place: tuple[int, int]) -> None:
        labels = heart()
        labels[0, place[0], place[1], 2] = 2
        (flag,) = of_mask(labels)
        assert flag.code == "MASK_AT_BORDER"
        assert flag.message == ("left ventricular myocardium touches the border of the image and may be cut off")
        beside = heart()
        beside[0, min(max(place[0], 1), 14), min(max(place[1], 1), 14), 2] = 2
        assert of_mask(beside) == []

    @pytest.mark.parametrize("level", [0, 4])
    def test_at_the_last_slice(self, level: int) -> None:
        labels = heart()
        labels[0, 9, 9, level] = 3
        (flag,) = of_mask(labels)
        assert flag.code == "MASK_AT_LAST_SLICE" and "left ventricle cavity reaches the first or last" in flag.message

    def test_a_heart_may_end_at_its_base(self) -> None:
        labels = heart()
        labels[0, 9, 9, 0] = 3
        assert mask_flags(labels, volume_series(labels.shape, SLICES), CARDIAC) == []

    def test_several_structures_give_one_line(self) -> None:
        labels = heart(2)
        labels[1, 9, 0, 2], labels[0, 9, 15, 2] = 3, 1
        (flag,) = of_mask(labels)
        assert flag.message == "RV and LV touch the border of the image and may be cut off"

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_slices_are_found_in_any_storage_order(self, axis: int) -> None:
        order = np.roll([0, 1, 2], axis + 1)  # the slices end up along this axis
        matrix = tilted((1.0, 1.0, 5.0))[:, order]
        labels = heart()
        labels[0, 9, 9, 0] = 3
        stored = labels.transpose(0, *(1 + order))
        assert codes(of_mask(stored, centred(matrix, stored.shape[1:]))) == ["MASK_AT_LAST_SLICE"]
        labels = heart()
        labels[0, 0, 9, 2] = 3
        stored = labels.transpose(0, *(1 + order))
        assert codes(of_mask(stored, centred(matrix, stored.shape[1:]))) == ["MASK_AT_BORDER"]

    def test_many_parts(self) -> None:
        labels = heart(2)
        labels[0, 2, 2, 2] = 3
        assert of_mask(labels) == []
        labels[0, 13, 13, 2] = 3
        (flag,) = of_mask(labels)
        message = "left ventricle cavity is in more separate parts than is usual (phase 0)"
        assert (flag.code, flag.message) == ("MANY_PARTS", message)
        assert of_mask(labels, max_parts=None) == [] and of_mask(labels, max_parts=3) == []

    def test_parts_that_touch_by_a_corner_are_one(self) -> None:
        labels = heart()
        labels[0, 2, 2, 2] = labels[0, 13, 13, 1] = labels[0, 14, 14, 2] = 1
        assert codes(of_mask(labels)) == ["MANY_PARTS"]

    def test_a_single_slice_is_noted(self) -> None:
        labels = heart()[..., 2:3]
        found = measure(labels, volume_series(labels.shape, SLICES), CARDIAC, case="x")
        assert of_mask(labels) == [] and "one slice only" in found.details["notes"][-1]

    @pytest.mark.parametrize(
        ("task", "most"), [(CARDIAC, 2), (HEMORRHAGE, 10), (DERMOSCOPY, 3)], ids=["heart", "head", "skin"]
    )
    def test_parts_that_each_bundle_bears(self, task: Task, most: int) -> None:
        for parts in (most, most + 1):
            plane = np.zeros((40, 9), dtype=np.uint8)
            plane[2 : 2 + 3 * parts : 3, 4] = 1
            if task == DERMOSCOPY:
                found = measure(plane, photo_series(plane.shape), task, case="x")
            else:
                labels = np.stack([0 * plane, plane, 0 * plane], axis=-1)[None]
                found = measure(labels, volume_series(labels.shape, SLICES), task, case="x")
            assert ("MANY_PARTS" in codes(found.flags)) == (parts > most)

    def test_photographs_have_borders_but_no_slices(self) -> None:
        mask = np.zeros((12, 10), dtype=np.uint8)
        mask[4:8, 3:7] = 1
        series = photo_series((12, 10))
        assert mask_flags(mask, series, DERMOSCOPY) == []
        mask[11, 5] = 1
        assert codes(mask_flags(mask, series, DERMOSCOPY)) == ["MASK_AT_BORDER"]
        assert mask_flags(0 * mask, series, DERMOSCOPY)[0].message == "no skin lesion was found"


class TestIntensity:
    def test_ct_needs_air(self) -> None:
        assert of_values(-500.0, 100.0) == [] and of_values(-499.0, 100.0) == ["INTENSITY"]

    def test_ct_of_more_than_16_bits(self) -> None:
        assert of_values(-1000.0, 32767.0) == [] and of_values(-1000.0, 32768.0) == ["INTENSITY"]

    def test_mr_is_not_negative(self) -> None:
        assert of_values(0.0, 900.0, modality="MR") == []
        assert of_values(-0.5, 900.0, modality="MR") == ["INTENSITY"]

    @pytest.mark.parametrize("modality", ["CT", "MR", "photo", "PT", ""])
    def test_one_value_everywhere(self, modality: str) -> None:
        assert of_values(7.0, modality=modality) == ["INTENSITY"]
        assert of_values(7.0, 7.5, modality="PT") == []

    @pytest.mark.parametrize(
        ("values", "what"),
        [
            ((14, 10, 18), "nearly black"),
            ((16, 10, 22), None),
            ((239, 230, 248), None),
            ((242, 230, 254), "nearly white"),
            ((120, 118, 122), "nearly one colour"),
            ((120, 114, 126), None),
        ],
    )
    def test_photographs(self, values: tuple[int, int, int], what: str | None) -> None:
        _, low, high = values
        series = photo_series((6, 4), values=np.resize(np.array([low, high]), (3, 6, 4)))
        flags = intensity_flags(series, "photo")
        assert codes(flags) == (["INTENSITY"] if what else [])
        assert not what or what in flags[0].message

    @pytest.mark.parametrize(
        ("task", "values", "raised"),
        [
            (CARDIAC, (-1.0, 500.0), True),
            (CARDIAC, (0.0, 500.0), False),
            (HEMORRHAGE, (0.0, 80.0), True),
            (HEMORRHAGE, (-1000.0, 1500.0), False),
            (OTHER, (-5.0, 500.0), False),
        ],
    )
    def test_each_bundle_asks_for_its_modality(self, task: Task, values: tuple[float, ...], raised: bool) -> None:
        labels = heart() == 1
        series = volume_series(labels.shape, SLICES, np.resize(np.array(values), labels.shape))
        found = measure(labels.astype(np.uint8), series, task, case="x")
        assert ("INTENSITY" in codes(found.flags)) == raised
        of_mask_itself = measure(labels.astype(np.uint8), series, task, case="x", of_image=False)
        assert "INTENSITY" not in codes(of_mask_itself.flags)


class TestValues:
    @staticmethod
    def of(**values: float | None) -> list[Flag]:
        return ventricle_flags([Measurement(name, name, value, "mL") for name, value in values.items()], {})

    def test_end_systole_above_end_diastole(self) -> None:
        assert self.of(lv_edv=100.0, lv_esv=100.0) == []
        (flag,) = self.of(lv_edv=100.0, lv_esv=100.5)
        assert flag.code == "ES_ABOVE_ED" and "(100.5 mL)" in flag.message and "(100.0 mL)" in flag.message
        (flag,) = self.of(lv_edv=100.0, lv_esv=40.0, rv_edv=90.0, rv_esv=91.0)
        assert "right ventricle" in flag.message

    def test_impossible(self) -> None:
        assert codes(self.of(lv_ef=-0.1)) == codes(self.of(rv_ef=100.1)) == ["EF_IMPOSSIBLE"]
        assert codes(self.of(lv_ef=0.0)) == codes(self.of(lv_ef=100.0)) == ["EF_IMPLAUSIBLE"]

    def test_implausible(self) -> None:
        assert self.of(lv_ef=10.0) == self.of(rv_ef=85.0) == self.of(lv_ef=55.0) == []
        assert codes(self.of(lv_ef=9.9)) == codes(self.of(rv_ef=85.1)) == ["EF_IMPLAUSIBLE"]
        assert "right ejection fraction is 85.1%" in self.of(rv_ef=85.1)[0].message

    def test_undefined(self) -> None:
        assert self.of(lv_ef=None, lv_edv=None, lv_esv=3.0) == self.of() == []

    def test_of_a_real_case(self) -> None:
        labels = heart(2)
        labels[1][labels[1] == 3] = 2
        labels[1, 9, 9, 2] = 3  # 1 of 54 voxels
        found = measure(labels, volume_series(labels.shape, SLICES), CARDIAC, case="x")
        assert codes(found.flags) == ["EF_IMPLAUSIBLE", "EF_IMPLAUSIBLE"]  # and the right one does not beat
        swapped = measure(labels, volume_series(labels.shape, SLICES), CARDIAC, case="x", ed=1, es=0)
        assert codes(swapped.flags) == ["ES_ABOVE_ED", "EF_IMPOSSIBLE", "EF_IMPLAUSIBLE"]


class TestDisagreement:
    def test_limit(self) -> None:
        assert disagreement_flags(0.1) == disagreement_flags(0.0) == []
        (flag,) = disagreement_flags(0.101)
        assert flag.code == "FLIP_DISAGREEMENT" and "1 - Dice" in flag.message
        assert disagreement_flags(0.3, limit=0.3) == [] and codes(disagreement_flags(0.31, limit=0.3))

    @pytest.mark.parametrize("wrong", [-0.01, 1.01, float("nan")])
    def test_wrong(self, wrong: float) -> None:
        with pytest.raises(ValueError, match=f"between 0 and 1, got {wrong}"):
            disagreement_flags(wrong)

    def test_of_a_case(self) -> None:
        def raised(**options: Any) -> bool:
            found = measure(heart(), volume_series(heart().shape, SLICES), CARDIAC, case="x", **options)
            return "FLIP_DISAGREEMENT" in codes(found.flags)

        assert not raised() and not raised(disagreement=0.1) and raised(disagreement=0.11)
        assert not raised(disagreement=0.11, disagreement_threshold=0.2)
        assert raised(disagreement=0.01, disagreement_threshold=0.0)


class TestExpectedDice:
    @staticmethod
    def raised(promised: float | None, threshold: float | None) -> bool:
        evidence = {} if promised is None else {"expected_dice": promised}
        options: dict[str, Any] = {"evidence": evidence, "expected_dice_threshold": threshold}
        found = measure(heart(), volume_series(heart().shape, SLICES), CARDIAC, case="x", **options)
        return "LOW_EXPECTED_DICE" in codes(found.flags)

    def test_threshold(self) -> None:
        assert self.raised(0.79, 0.8) and not self.raised(0.8, 0.8)
        assert not self.raised(None, 0.8) and not self.raised(0.1, None)


class TestReading:
    @staticmethod
    def of(series: ImageSeries, labels: NDArray[np.uint8] | None = None) -> list[Flag]:
        labels = (heart() == 1).astype(np.uint8) if labels is None else labels
        return list(measure(labels, series, OTHER, case="x").flags)

    def test_warnings_of_the_reader(self) -> None:
        series = volume_series(heart().shape, SLICES, warnings=("slices are 10 mm thick", "times are unknown"))
        assert codes(self.of(series)) == ["READER_WARNING"] * 2
        assert self.of(series)[0].message == "slices are 10 mm thick"
        assert self.of(volume_series(heart().shape, SLICES)) == []

    def test_resampled(self) -> None:
        even = volume_series(heart().shape, SLICES, frames=frames(0, 1, 2.0000001, 3, 4), format="dicom")
        uneven = volume_series(heart().shape, SLICES, frames=frames(0, 1, 2.25, 3, 4), format="dicom")
        assert self.of(even) == [] and codes(self.of(uneven)) == ["RESAMPLED"]


def test_order_and_codes_are_stable() -> None:
    """The codes are part of what programs read: a new name is a new version of the schema."""
    labels = np.zeros((1, 16, 16, 1), dtype=np.uint8)
    labels[0, ::3, 0, 0] = 1
    series = volume_series(labels.shape, SLICES, np.full(labels.shape, 3.0), warnings=("a",), frames=frames(0.5))
    found = measure(labels, series, CARDIAC, case="x", disagreement=0.5)
    assert codes(found.flags) == [
        "READER_WARNING",
        "RESAMPLED",
        "INTENSITY",
        "MASK_AT_BORDER",
        "STRUCTURE_MISSING",
        "MANY_PARTS",
        "FLIP_DISAGREEMENT",
    ]


def test_messages_hold_no_names_of_files_or_cases() -> None:
    labels = np.zeros((1, 16, 16, 1), dtype=np.uint8)
    labels[0, ::3, 0, 0] = 1
    where = Path("/home/DOE_JANE/DOE_JANE.nii.gz")
    series = volume_series(labels.shape, SLICES, np.full(labels.shape, 3.0), path=where, frames=frames(0.5))
    found = measure(labels, series, HEMORRHAGE, case="DOE_JANE", disagreement=0.5)
    assert len(found.flags) >= 4 and not any("DOE" in flag.message for flag in found.flags)


def test_what_is_no_ct_may_be_mr() -> None:
    values = np.resize(np.arange(900.0), (1, 16, 16, 5))
    (flag,) = intensity_flags(volume_series(values.shape, values=values), "CT")
    assert flag.message.endswith("no Hounsfield units of a whole head; for MR use -b cardiac")
    (flag,) = intensity_flags(volume_series(values.shape, values=values - 100), "CT")
    assert flag.message.endswith("of a whole head")


def test_no_blood_found_is_no_clean_result() -> None:
    labels = np.zeros((1, 16, 16, 5), dtype=np.uint8)
    (flag,) = mask_flags(labels, volume_series(labels.shape, SLICES), HEMORRHAGE)
    assert flag.message == (
        "no intracranial hemorrhage was found; this does not rule one out: see the limitations in the model card"
    )
