"""Links and lists that lead in circles, or out of the folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convformer_monai.datalist import read_cases
from convformer_monai.errors import InputRefused
from convformer_monai.phantoms import cardiac_phantom
from convformer_monai.readers import find_cases


def image(folder: Path, name: str) -> Path:
    return cardiac_phantom(shape=(32, 32, 2), spacing=(4.0, 4.0, 10.0)).save(folder, name)[0]


def test_each_real_folder_is_searched_once(tmp_path: Path) -> None:
    image(tmp_path / "in" / "a", "x")
    (tmp_path / "in" / "self").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "a" / "up").symlink_to("..")
    (tmp_path / "in" / "b").symlink_to("a")
    assert [case.name for case in find_cases(tmp_path / "in")] == ["a/x"]


def test_the_output_folder_is_left_out_behind_a_link_too(tmp_path: Path) -> None:
    image(tmp_path / "in", "x")
    image(tmp_path / "in" / "out", "y")
    (tmp_path / "in" / "link").symlink_to("out")
    assert [case.name for case in find_cases(tmp_path / "in", leave_out=tmp_path / "in" / "link")] == ["x"]


@pytest.mark.parametrize("how", ["../x.nii.gz", "a/../../x.nii.gz", "absolute"])
def test_lists_stay_in_their_folder(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = image(tmp_path, "x")
    folder = tmp_path / "data"
    (folder / "a").mkdir(parents=True)
    name = str(outside) if how == "absolute" else how
    (folder / "datalist.json").write_text(json.dumps({"val": [{"image": name, "label": name}]}))
    with pytest.raises(InputRefused, match="leads out of the folder") as refused:
        read_cases(folder)
    assert refused.value.code == "DATALIST_INVALID"
    monkeypatch.setenv("CONVFORMER_OUTSIDE", "1")
    assert len(read_cases(folder)) == 1
