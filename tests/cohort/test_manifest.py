"""A manifest is checked whole, and every problem is named before any work."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pytest

from convformer_monai.cohort.manifest import Entry, read_entries, shard_of
from convformer_monai.errors import InputRefused


def problems(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> tuple[list[str], str]:
    (tmp_path / "list.csv").write_text(text)
    with caplog.at_level(logging.ERROR), pytest.raises(InputRefused) as refusal:
        read_entries(str(tmp_path / "list.csv"), str(tmp_path / "out"))
    assert refusal.value.code == "MANIFEST"
    return caplog.messages, refusal.value.message


def test_csv_and_parquet_are_read_alike(tmp_path: Path) -> None:
    rows = {"case": ["a", "ward/b"], "path": ["x.nii.gz", "s3://bucket/y"], "phase": ["ED", None]}
    pd.DataFrame(rows).to_csv(tmp_path / "list.csv", index=False)
    pd.DataFrame(rows).to_parquet(tmp_path / "list.parquet")
    expected = [Entry("a", str(tmp_path / "x.nii.gz"), phase="ed"), Entry("ward/b", "s3://bucket/y")]
    for name in ("list.csv", "list.parquet"):
        assert read_entries(str(tmp_path / name), str(tmp_path / "out")) == expected


@pytest.mark.parametrize("phases", ["Int64", float, "category", "string", object])
def test_types_of_parquet(tmp_path: Path, phases: str) -> None:
    rows = {"case": pd.Series([7, 8], dtype="int32"), "path": pd.Series(["x.nii", "x.nii"], dtype="category")}
    values = [3, None] if phases in ("Int64", float) else ["3", None]
    pd.DataFrame({**rows, "phase": pd.Series(values, dtype=phases)}).to_parquet(tmp_path / "list.parquet")
    expected = [Entry("7", str(tmp_path / "x.nii"), phase="3"), Entry("8", str(tmp_path / "x.nii"))]
    assert read_entries(str(tmp_path / "list.parquet"), str(tmp_path / "out")) == expected


def test_names_that_pandas_would_take_for_missing_stay(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("case,path\nNA,x.nii\n007,y.nii\n")
    assert [entry.case for entry in read_entries(str(tmp_path / "list.csv"), "out")] == ["NA", "007"]


def test_every_problem_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "case,path,phase\na,x,\n,y,\nb,,late\n../c,z,\na,w,3\n.d,v,\ne/,u,\n"
    said, line = problems(text, tmp_path, caplog)
    assert said == [
        "row 2: case is empty",
        "row 3: path is empty",
        "row 3: phase 'late' must be all, ed, es or a number from 0",
        "row 4: case '../c' cannot be the name of results below the output folder",
        "row 6: case '.d' cannot be the name of results below the output folder",
        "row 7: case 'e/' cannot be the name of results below the output folder",
        "case 'a' is that of 2 rows",
    ]
    assert "has 7 problems; correct it" in line


def test_the_first_twenty_problems_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    said, line = problems("case,path\n" + ",x\n" * 30, tmp_path, caplog)
    assert len(said) == 20 and "30 problems, 20 of them above" in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("case,file\na,b\n", ["the column path is missing", "the column 'file' is unknown: case, path, "]),
        ("case,path\n", ["it has no rows"]),
    ],
)
def test_columns(text: str, said: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found, _ = problems(text, tmp_path, caplog)
    assert len(found) == len(said) and all(part in line for line, part in zip(found, said, strict=True))


@pytest.mark.parametrize("name", ["list.txt", "list.parquet", "none.csv"])
def test_what_is_no_manifest(name: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a,b")
    (tmp_path / "list.parquet").write_text("a,b")
    with pytest.raises(InputRefused):
        read_entries(str(tmp_path / name), "out")


def test_a_folder_with_two_images_of_one_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.nii.gz", "a.png", "b.png"):
        (tmp_path / name).touch()
    with pytest.raises(InputRefused) as refusal:
        read_entries(str(tmp_path), str(tmp_path / "out"))
    assert refusal.value.code == "MANIFEST" and "case 'a' is that of 2 images" in caplog.messages


def test_shards_part_the_cases_by_name_alone() -> None:
    entries = [Entry(f"case{number}", "x") for number in range(200)]
    shards = [shard_of(entries, f"{index}/4") for index in range(1, 5)]
    assert sorted(entry.case for shard in shards for entry in shard) == sorted(entry.case for entry in entries)
    assert all(20 < len(shard) < 80 for shard in shards)
    assert shard_of(entries[50:], "2/4") == [entry for entry in shards[1] if entry in entries[50:]]
    assert shard_of(entries, None) == entries


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4"])
def test_shards_that_cannot_be(shard: str) -> None:
    with pytest.raises(InputRefused) as refusal:
        shard_of([], shard)
    assert refusal.value.code == "OPTION"
