"""Names that are hard: each gets its results under that very name, or one line that refuses it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from convformer_monai.phantoms import cardiac_phantom

NAMES = {
    "formula": "=1+1",
    "formula with plus": "+1",
    "option": "-rf",
    "formula with at": "@SUM(A1)",
    "escape": "a\x1b[2Jb",
    "new line": "a\nb",
    "carriage return": "a\rb",
    "tabulator": "a\tb",
    "blank": " ",
    "blanks": " a  b ",
    "quotes": "a'b\"c",
    "comma": "a,b;c",
    "pattern": "[a]*?",
    "percent": "%s%n%d",
    "config": "$@#a",
    "shell": "$(touch x)`a`|&",
    "backslash": "a\\b",
    "dots": "a..",
    "brackets": "{a}{0}",
    "decomposed": "e\u0301",
    "right to left": "a\u202eb",
    "heart": "\u2764\ufe0f",
    "no text": "a\udcff",  # a byte that is no UTF-8
    "long": "x" * 230,
}
TOO_LONG = {"a byte too long": "x" * 238, "longest": "x" * 248, "longest in bytes": "\u00e9" * 124}


@dataclass(frozen=True)
class Done:
    """What one run of the command made of a folder of all these names."""

    out: Path
    stderr: str


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("names")
    image = cardiac_phantom(shape=(32, 32, 2), spacing=(4.0, 4.0, 10.0)).save(folder, "x")[0]
    (folder / "in").mkdir()
    for name in (*NAMES.values(), *TOO_LONG.values()):
        (folder / "in" / f"{name}.nii.gz").write_bytes(image.read_bytes())
    command = [sys.executable, "-m", "convformer_monai.cli", "segment", "-i", str(folder / "in"), "-o"]
    ended = subprocess.run([*command, str(folder / "out")], capture_output=True, text=True, check=False)
    assert ended.returncode == 2, ended.stderr
    return Done(folder / "out", ended.stderr)


@pytest.mark.parametrize("what", NAMES)
def test_results_have_the_name(what: str, done: Done) -> None:
    name = NAMES[what]
    endings = ("_seg.nii.gz", "_seg.ctbl", "_seg.label", "_measurements.json", "_measurements.csv", "_report.json")
    assert all((done.out / f"{name}{ending}").is_file() for ending in endings)
    json.loads((done.out / f"{name}_report.json").read_text())
    with open(done.out / f"{name}_measurements.csv", encoding="utf-8", newline="") as file:
        assert not any(row["case"].startswith(tuple("=+-@\t\r")) for row in csv.DictReader(file))


@pytest.mark.parametrize("what", TOO_LONG)
def test_a_name_too_long_is_refused(what: str, done: Done) -> None:
    name = TOO_LONG[what]
    assert f"{name}: error[NAME_TOO_LONG]: {name}: the name has " in done.stderr
    assert not any(path.name.startswith(f"{name}_") for path in done.out.iterdir())


def test_nothing_of_a_name_is_obeyed_by_the_terminal(done: Done) -> None:
    assert all(one.isprintable() or one == "\n" for one in done.stderr)
    assert not any(path.name.startswith(".") for path in done.out.iterdir())
