"""Label files, read as the viewers read them."""

from __future__ import annotations

import re

import pytest

from convformer_monai.outputs.label_files import itksnap_labels, slicer_colours
from convformer_monai.tasks.cardiac import CARDIAC
from convformer_monai.tasks.dermoscopy import DERMOSCOPY
from convformer_monai.tasks.hemorrhage import HEMORRHAGE
from convformer_monai.tasks.task import ABNORMAL, ANATOMICAL, Label

TABLES = {task.name: task.labels for task in (CARDIAC, DERMOSCOPY, HEMORRHAGE)}


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
class TestFormats:
    def test_slicer(self, table: tuple[Label, ...]) -> None:
        lines = slicer_colours(table).splitlines()
        assert lines[0].startswith("# Color table file")  # how 3D Slicer knows it
        rows = [line.split(" ") for line in lines if not line.startswith("#")]
        assert rows[0] == ["0", "background", "0", "0", "0", "0"]
        for label, (index, name, *colour) in zip(table, rows[1:], strict=True):
            assert int(index) == label.index and name.replace("_", " ") == label.long_name
            assert tuple(map(int, colour)) == (*label.colour, 255)

    def test_itksnap(self, table: tuple[Label, ...]) -> None:
        lines = [line for line in itksnap_labels(table).splitlines() if not line.startswith("#")]
        row = re.compile(r'^\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+)\s+([01])\s+([01])\s+"([^"]*)"$')
        rows = [match.groups() for match in map(row.match, lines) if match]
        assert len(rows) == len(lines) and rows[0] == ("0", "0", "0", "0", "0", "0", "0", "Clear Label")
        for label, (index, red, green, blue, *shown, name) in zip(table, rows[1:], strict=True):
            assert (int(index), name) == (label.index, label.long_name)
            assert (int(red), int(green), int(blue)) == label.colour and shown == ["1", "1", "1"]


class TestTables:
    @pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
    def test_complete_for_dicom(self, table: tuple[Label, ...]) -> None:
        assert [label.index for label in table] == list(range(1, len(table) + 1))
        assert len({label.colour for label in table}) == len({label.name for label in table}) == len(table)
        for label in table:
            assert label.type and label.category in (ANATOMICAL, ABNORMAL)
            assert label.type.scheme == "SCT" and label.snomed == label.type.value
            assert (label.region is not None) == (label.category == ABNORMAL)

    def test_codes_are_those_of_the_dictionary(self) -> None:
        """Against pydicom's copy of PS3.16; it lacks the myocardium, and says 91723000 where we keep 123037004."""
        from pydicom.sr.codedict import codes

        known = {
            code.value
            for code in (
                codes.SCT.LeftVentricularStructure,
                codes.SCT.RightVentricularStructure,
                codes.SCT.Hemorrhage,
                codes.SCT.SkinLesion,
                codes.SCT.BrainStructure,
                codes.SCT.SkinStructure,
                codes.SCT.MorphologicallyAbnormalStructure,
            )
        }
        used = {
            code.value
            for table in TABLES.values()
            for label in table
            for code in (label.type, label.category, label.region)
            if code is not None
        }
        assert used - known == {"74281007", "123037004"}
