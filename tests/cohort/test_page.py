"""The page and the tables of an output folder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_cohort import job_for, write_study

from convformer_monai.cohort.manifest import Entry
from convformer_monai.cohort.outliers import find_outliers, once_a_case, picture_of
from convformer_monai.cohort.page import make_page
from convformer_monai.cohort.status import Status
from convformer_monai.cohort.storage import place_of
from convformer_monai.cohort.tables import write_tables
from convformer_monai.cohort.worker import do_case


def table_of(values: list[float], name: str = "volume", unit: str = "mL") -> pd.DataFrame:
    rows = [
        {"case": f"c{number}", "name": name, "title": name.title(), "value": value, "unit": unit, "phase": pd.NA}
        for number, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_outliers_are_those_far_from_the_median_in_robust_deviations() -> None:
    values = [100.0, 101, 99, 102, 98, 100.5, 99.5, 101.5, 98.5, 160, 40]
    both = pd.concat([table_of(values), table_of([*values[:9], 300, 100], "mass")])
    found = find_outliers(both, 10)
    assert [(one.case, one.title, one.value) for one in found] == [("c9", "Mass", 300), ("c10", "Volume", 40)]
    spread = 1.4826 * np.median(np.abs(np.array(values) - np.median(values)))
    assert found[1].score == pytest.approx((100 - 40) / spread) and found[1].median == 100
    assert [one.case for one in find_outliers(both, 1)] == ["c9"]


@pytest.mark.parametrize("values", [[1.0, 2, 3, 900], [5.0] * 20 + [9], [float("nan")] * 12])
def test_no_outliers_of_few_or_equal_values(values: list[float]) -> None:
    assert find_outliers(table_of(values), 10) == []


def test_measurements_of_single_phases_are_left_out_beside_others() -> None:
    phases = pd.concat([table_of([1.0, 2, 3], "phase_volume")] * 4)
    names = [name for name, _ in once_a_case(pd.concat([phases, table_of([1.0, 2, 3])]))]
    assert names == ["volume"]
    assert [name for name, _ in once_a_case(phases)] == ["phase_volume"]


def test_the_page_says_what_there_is_and_loads_nothing() -> None:
    statuses = [
        Status(f"c{number}", "x", "done", seconds=2.0, flags=("MASK_EMPTY",) * (number < 3)) for number in range(20)
    ]
    message = "a <script>alert(1)</script> & more"
    statuses += [Status(f"r{number}", "x", "refused", code="NOT_NIFTI", message=message) for number in range(4)]
    statuses += [Status("q", "x", "quarantined", code="FAULT", message="died")]
    picture = "data:image/jpeg;base64,AAAA"
    page = make_page(statuses, table_of([*np.linspace(90, 110, 19), 500.0]), lambda status: picture, "2026-01-01 00:00")
    numbers = dict(re.findall(r"<div><b>([^<]+)</b>([^<]+)</div>", page))
    tiles = {name: number for number, name in re.findall(r"<div><b>([^<]+)</b>([^<]+)</div>", page)}
    assert numbers and tiles["cases"] == "25" and tiles["done"] == "20" and tiles["refused"] == "4"
    assert tiles["quarantined"] == "1" and tiles["flagged"] == "3" and tiles["s a case, median"] == "2.0"
    assert "<script" not in page and "&lt;script&gt;" in page and "NOT_NIFTI" in page
    assert "15.0%" in page and "MASK_EMPTY" in page
    assert page.count("<svg") == 1 and f'src="{picture}"' in page and "<b>c19</b>" in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]+\"", page.replace("xlink:href", "href"))
    assert not re.search(r"url\((?!#)|@import|<link|<iframe", page)


def test_a_page_of_nothing() -> None:
    page = make_page([], table_of([]).reindex(columns=["case", "name", "value"]), lambda status: None, "now")
    assert "<b>0</b>cases" in page and "<h2>" not in page


def test_pictures_are_drawn_from_image_and_mask(bundle: Path, studies: Path, out: Path) -> None:
    job, entry = job_for(bundle, out), Entry("s0", str(studies / "s0.nii.gz"))
    status = do_case(entry, job).status
    assert status is not None
    drawn = picture_of(status, place_of(str(out)), list(job.bundles.values()))
    assert drawn is not None and drawn.startswith("data:image/jpeg;base64,")
    (studies / "s0.nii.gz").unlink()
    assert picture_of(status, place_of(str(out)), list(job.bundles.values())) is None


def test_the_tables_are_those_of_the_whole_folder(bundle: Path, studies: Path, out: Path) -> None:
    for run, name in (("r1", "s0"), ("r2", "s1"), ("r3", "bad")):
        job = job_for(bundle, out, run)
        do_case(Entry(name, str(studies / f"{name}.nii.gz")), job)
    write_study(studies / "=1+1.nii.gz", 3).write_bytes(b"no")
    do_case(Entry("=1+1", str(studies / "=1+1.nii.gz")), job)
    write_tables(place_of(str(out)), job, quiet=True)
    assert set(pd.read_parquet(out / "measurements.parquet")["case"]) == {"s0", "s1"}
    refused = pd.read_csv(out / "refused.csv")
    assert list(refused["case"]) == ["'=1+1", "bad"] and set(refused["state"]) == {"refused"}
