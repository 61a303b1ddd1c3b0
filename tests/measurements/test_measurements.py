"""Measurements as JSON, CSV and text, and what is refused; the numbers themselves are tested bundle by bundle."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from result_series import photo_series, volume_series

from convformer_monai.errors import InputRefused
from convformer_monai.measurements.measure import measure
from convformer_monai.measurements.values import (
    CSV_COLUMNS,
    Flag,
    Measurement,
    Measurements,
    readable,
    to_csv,
)
from convformer_monai.outputs.atomic import write_text
from convformer_monai.tasks.cardiac import CARDIAC
from convformer_monai.tasks.dermoscopy import DERMOSCOPY
from convformer_monai.tasks.generic import generic_task
from convformer_monai.tasks.hemorrhage import HEMORRHAGE
from convformer_monai.tasks.task import Code, Task

AWKWARD = 'Müller, "Änne"; 心臓 = 1'
VOLUME = Code("SCT", "118565006", "Volume")
ITEMS = (
    Measurement("lv_ef", "Left ventricular ejection fraction", 61.23456789, "%", None, 3),
    Measurement("lv_edv", "LV volume, end-diastolic", 123456.789123, "mL", VOLUME, 3, 0),
    Measurement("undefined", "Undefined", None, "mL", VOLUME, 1),
    Measurement("not_finite", "Not finite", float("nan"), "mL", structure=2, phase=0),
    Measurement("infinite", "Infinite", -float("inf"), "mL"),
    Measurement("parts", "Number of parts", 3.0, "1", structure=1, phase=1),
)
DETAILS = {"unit": 1.0000000123, "deep": [{"a": (0.1234567891, 2, True, None, "text")}, float("inf")], "notes": ["a"]}
FLAGS = (Flag("MASK_EMPTY", "nothing: “ñ”"),)
MEASURED = Measurements(AWKWARD, CARDIAC.name, CARDIAC.labels, ITEMS, FLAGS, DETAILS)


def strict(text: str) -> dict:
    """What a strict JSON reader finds."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not a JSON")

    content: dict = json.loads(text, parse_constant=refuse)
    return content


def real() -> list[Measurements]:
    """One case of each bundle."""
    hearts = np.arange(2 * 60, dtype=np.uint8).reshape(2, 5, 4, 3) % 4
    blood = (np.arange(60, dtype=np.uint8) % 7 == 0).astype(np.uint8).reshape(1, 5, 4, 3)
    skin = (np.indices((9, 8)).sum(axis=0) < 6).astype(np.uint8)
    cine = volume_series(hearts.shape, phase_times_ms=(0.0, 31.123456789))
    return [
        measure(hearts, cine, CARDIAC, case="heart"),
        measure(blood, volume_series(blood.shape), HEMORRHAGE, case="head"),
        measure(skin, photo_series(skin.shape, known=False), DERMOSCOPY, case="skin"),
        measure(np.zeros_like(skin), photo_series(skin.shape), DERMOSCOPY, case="nothing"),
    ]


class TestJson:
    def test_keys(self) -> None:
        content = strict(MEASURED.to_json())
        assert list(content) == [
            "schema",
            "schema_version",
            "case",
            "bundle",
            "measurements",
            "flags",
            "structures",
            "details",
        ]
        assert (content["schema"], content["schema_version"]) == ("convformer_monai.measurements", 1)
        assert (content["case"], content["bundle"]) == (AWKWARD, CARDIAC.name)
        assert content["measurements"][1] == {
            "name": "lv_edv",
            "title": "LV volume, end-diastolic",
            "value": 123456.8,
            "unit": "mL",
            "code": {"scheme": "SCT", "value": "118565006", "meaning": "Volume"},
            "structure": "LV",
            "phase": 0,
        }
        assert content["measurements"][0]["code"] is None and content["measurements"][0]["phase"] is None
        assert content["flags"] == [{"code": "MASK_EMPTY", "message": "nothing: “ñ”"}]
        assert content["structures"][0] == {"index": 1, "name": "RV", "title": "right ventricle cavity"}
        assert len(content["structures"]) == 3

    def test_numbers_have_seven_digits_and_are_finite(self) -> None:
        content = strict(MEASURED.to_json())
        assert [item["value"] for item in content["measurements"]] == [61.23457, 123456.8, None, None, None, 3.0]
        assert content["details"] == {
            "unit": 1.0,
            "deep": [{"a": [0.1234568, 2, True, None, "text"]}, None],
            "notes": ["a"],
        }

    def test_of_each_bundle(self) -> None:
        for measurements in real():
            content = strict(measurements.to_json())
            assert [one["value"] for one in content["measurements"]] == [
                None if item.value is None else pytest.approx(item.value, rel=1e-6) for item in measurements.items
            ]
            names = {one["name"] for one in content["structures"]}
            assert {one["structure"] for one in content["measurements"]} <= names
            assert all(len(str(phase["time_ms"])) < 9 for phase in content["details"].get("phases", ()))


class TestCsv:
    def test_reads_back(self) -> None:
        rows = list(csv.DictReader(io.StringIO(to_csv([MEASURED]))))
        assert (
            tuple(rows[0]) == CSV_COLUMNS == ("case", "name", "title", "value", "unit", "phase", "structure", "flags")
        )
        assert {row["case"] for row in rows} == {AWKWARD} and len(rows) == len(ITEMS)
        assert list(rows[1].values()) == [
            AWKWARD,
            "lv_edv",
            "LV volume, end-diastolic",
            "123456.8",
            "mL",
            "0",
            "LV",
            "MASK_EMPTY",
        ]
        assert [row["value"] for row in rows] == ["61.23457", "123456.8", "", "", "", "3.0"]
        assert [row["phase"] for row in rows] == ["", "0", "", "0", "", "1"]
        twice = replace(MEASURED, flags=(Flag("READER_WARNING", "a"), Flag("READER_WARNING", "b"), *FLAGS))
        assert all(row["flags"] == "READER_WARNING MASK_EMPTY" for row in twice.rows())
        assert [row["structure"] for row in rows] == ["LV", "LV", "RV", "MYO", "", "RV"]

    def test_many_cases_in_one_file_written_bit_by_bit(self) -> None:
        cases = real()
        whole = to_csv(cases)
        assert whole == to_csv(cases[:1]) + "".join(to_csv([case], header=False) for case in cases[1:])
        rows = list(csv.DictReader(io.StringIO(whole)))
        assert len(rows) == sum(len(case.items) for case in cases) and len({len(row) for row in rows}) == 1
        assert "nan" not in whole and "inf" not in whole

    def test_case_name_of_two_lines(self) -> None:
        (row, *_) = csv.DictReader(io.StringIO(to_csv([replace(MEASURED, case='a\nb,"c"')])))
        assert row["case"] == 'a\nb,"c"'


class TestFiles:
    def test_text_is_utf_8(self, tmp_path: Path) -> None:
        write_text(tmp_path / "x.json", MEASURED.to_json())
        assert AWKWARD.encode() not in (tmp_path / "x.json").read_bytes()  # the quotes are escaped
        assert strict((tmp_path / "x.json").read_text(encoding="utf-8"))["case"] == AWKWARD
        with pytest.raises(InputRefused, match="EXISTS"):
            write_text(tmp_path / "x.json", "{}")
        write_text(tmp_path / "x.json", "{}", overwrite=True)
        assert (tmp_path / "x.json").read_bytes() == b"{}"

    def test_file_names_that_are_no_utf_8(self, tmp_path: Path) -> None:
        odd = replace(MEASURED, case=b"case\xff".decode("utf-8", "surrogateescape"))
        write_text(tmp_path / "x.json", odd.to_json())
        write_text(tmp_path / "x.csv", to_csv([odd]))
        assert strict((tmp_path / "x.json").read_text(encoding="utf-8"))["case"] == odd.case
        assert "case\\udcff" in (tmp_path / "x.csv").read_text(encoding="utf-8")


class TestText:
    def test_table(self) -> None:
        items = (*ITEMS[:3], ITEMS[5])
        text = replace(MEASURED, items=items).to_text()
        assert text == (
            f"{AWKWARD}\n"
            "  Left ventricular ejection fraction       61.2 %\n"
            "  LV volume, end-diastolic (phase 0)   123456.8 mL\n"
            "  Undefined                           undefined\n"
            "  Number of parts (phase 1)                   3\n"
            "  note: a\n"
            "  MASK_EMPTY: nothing: “ñ”\n"
        )

    def test_of_a_cine_tells_the_main_numbers_only(self) -> None:
        text = real()[0].to_text()
        assert "and 6 measurements of single phases, which JSON and CSV hold" in text
        assert "Volume of" not in text and "ejection fraction" in text
        assert max(map(len, text.splitlines())) < 120

    @pytest.mark.parametrize(
        ("value", "unit", "text"),
        [
            (61.26, "%", "61.3 %"),
            (123.44, "mL", "123.4 mL"),
            (3.14159, "mL", "3.14 mL"),
            (0.012345, "mL", "0.0123 mL"),
            (0.0, "mL", "0.0 mL"),
            (-2.345, "%", "-2.35 %"),
            (-200.0, "%", "-200.0 %"),
            (12.0, "1", "12"),
            (7.25, "mm2", "7.25 mm²"),
            (1234.6, "{pixel}", "1235 pixels"),
            (34.56, "{pixel}", "34.6 pixels"),
            (None, "%", "undefined"),
        ],
    )
    def test_numbers_for_people(self, value: float | None, unit: str, text: str) -> None:
        assert readable(Measurement("x", "X", value, unit)) == text

    def test_a_number_that_is_not_finite_is_undefined(self) -> None:
        assert readable(ITEMS[3]) == readable(ITEMS[4]) == "undefined"


class TestMeasure:
    def test_get_and_structure_name(self) -> None:
        assert MEASURED.get("lv_ef") is ITEMS[0] and MEASURED.get("nothing") is None
        assert [MEASURED.structure_name(item) for item in ITEMS[:3]] == ["LV", "LV", "RV"]
        assert MEASURED.structure_name(ITEMS[4]) is None

    def test_a_generic_task_measures_each_structure(self) -> None:
        labels = np.zeros((2, 4, 4, 2), dtype=np.uint8)
        labels[0, :2, 0, 0], labels[1, :3, 1, 0] = 1, 2
        series = volume_series(labels.shape, np.diag([1.0, 2.0, 5.0, 1.0]), phases=(3, 8))
        found = measure(labels, series, generic_task({1: "liver", 2: "spleen"}, photograph=False), case="x")
        rows = {(item.name, item.phase): item.value for item in found.items}
        assert rows == pytest.approx(
            {
                ("liver_volume", 3): 0.02,
                ("spleen_volume", 3): 0,
                ("liver_volume", 8): 0,
                ("spleen_volume", 8): 0.03,
            }
        )
        assert [item.title for item in found.items][:2] == ["Volume of liver", "Volume of spleen"]
        assert strict(found.to_json())["measurements"][0]["structure"] == "liver"

    @pytest.mark.parametrize(("known", "unit", "size"), [(True, "mm2", 0.25), (False, "{pixel}", 1.0)])
    def test_a_generic_task_of_photographs(self, known: bool, unit: str, size: float) -> None:
        labels = np.zeros((6, 5), dtype=np.uint8)
        labels[:2, :3] = 1
        task = generic_task({1: "nail"}, photograph=True)
        (item,) = measure(labels, photo_series((6, 5), (0.5, 0.5), known), task, case="x").items
        assert (item.name, item.value, item.unit) == ("nail_area", 6 * size, unit)

    def test_a_task_without_structures_and_an_empty_mask(self) -> None:
        labels = np.zeros((1, 4, 4, 2), dtype=np.uint8)
        found = measure(labels, volume_series(labels.shape), generic_task({}, photograph=False), case="x")
        assert found.items == () and strict(found.to_json())["measurements"] == []
        assert found.to_text().startswith("x\n") and to_csv([found]).count("\n") == 1
        assert [flag.code for flag in found.flags] == ["MASK_EMPTY"]
        assert found.flags[0].message == "nothing was found"

    @pytest.mark.parametrize("task", [CARDIAC, HEMORRHAGE])
    def test_photographs_are_no_volumes(self, task: Task) -> None:
        with pytest.raises(InputRefused, match=r"photo\.jpg is a photograph.*--bundle") as refused:
            measure(np.zeros((6, 5), np.uint8), photo_series((6, 5)), task, case="x")
        assert refused.value.code == "WRONG_KIND"

    def test_volumes_are_no_photographs(self) -> None:
        with pytest.raises(InputRefused, match="is not a photograph") as refused:
            measure(np.zeros((1, 4, 4, 2), np.uint8), volume_series((1, 4, 4, 2)), DERMOSCOPY, case="x")
        assert refused.value.code == "WRONG_KIND"

    @pytest.mark.parametrize("options", [{"ed": 0}, {"es": 0}])
    def test_heads_and_skin_have_no_heart_beat(self, options: dict[str, int]) -> None:
        with pytest.raises(InputRefused, match="--ed and --es") as refused:
            measure(np.zeros((1, 4, 4, 2), np.uint8), volume_series((1, 4, 4, 2)), HEMORRHAGE, case="x", **options)
        assert refused.value.code == "OPTION"

    def test_labels_that_do_not_fit(self) -> None:
        series = volume_series((1, 4, 5, 2))
        with pytest.raises(ValueError, match=r"shape of the series, \(1, 4, 5, 2\), got \(1, 5, 4, 2\)"):
            measure(np.zeros((1, 5, 4, 2), np.uint8), series, HEMORRHAGE, case="x")
        with pytest.raises(ValueError, match=r"0 or one of \[1\], got \[2, 255\]"):
            measure(np.array([0, 1, 2, 255] * 10, np.uint8).reshape(1, 4, 5, 2), series, HEMORRHAGE, case="x")
        with pytest.raises(ValueError, match=r"\(6, 5\), got \(1, 6, 5\)"):
            measure(np.zeros((1, 6, 5), np.uint8), photo_series((6, 5)), DERMOSCOPY, case="x")

    def test_labels_of_the_structures_are_in_the_result(self) -> None:
        found = real()
        assert found[0].labels == CARDIAC.labels and found[2].labels == DERMOSCOPY.labels
        assert [case.case for case in found] == ["heart", "head", "skin", "nothing"]


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum", "\t=1", "\r=1", "x\r=1"])
def test_names_are_no_formulas_in_a_spreadsheet(name: str) -> None:
    named = replace(MEASURED, case=name, items=(Measurement("shift", "Shift", -2.5, "mm"),))
    row = next(csv.DictReader(io.StringIO(to_csv([named]), newline="")))
    assert row["case"] == ("" if name[0] == "x" else "'") + name.replace("\r", "\\r") and row["value"] == "-2.5"
    assert json.loads(named.to_json())["case"] == name
