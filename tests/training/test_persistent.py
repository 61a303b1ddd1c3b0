"""Prepared cases in files: the same batches as from memory, prepared once, in memory that does not grow with cases."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo import in_processes
from monai.data import MetaTensor
from monai.transforms import Transform

from convformer_monai.errors import InputRefused
from convformer_monai.training import SliceBatches, SliceDataset
from convformer_monai.training.persistent import PersistentArrays, stored_rows


class Prepare(Transform):
    """A case of so many rows as its file has bytes; counts how often it is asked."""

    calls: list[str] = []

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset
        self.random = np.random.RandomState(len(self.calls))  # which MONAI's Compose carries, too

    def __call__(self, case: dict[str, Any]) -> dict[str, torch.Tensor]:
        self.calls.append(Path(case["image"]).name)
        rows = len(Path(case["image"]).read_bytes())
        first = 100 * case["number"] + self.offset
        values = (torch.arange(rows)[:, None, None] + first).expand(rows, 2, 3)
        return {"images": values.half(), "found": values[:, 0, 0] % 2 == 0}


@pytest.fixture
def cases(tmp_path: Path) -> list[dict[str, Any]]:
    """Three cases of 4, 1 and 2 rows."""
    Prepare.calls.clear()
    for number, rows in enumerate((4, 1, 2)):
        (tmp_path / f"c{number}").write_bytes(b"x" * rows)
    return [{"image": str(tmp_path / f"c{number}"), "number": number} for number in range(3)]


def test_rows_are_those_of_a_tensor(cases: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = stored_rows(cases, Prepare(), str(tmp_path / "cache"))
    for name in ("images", "found"):
        whole = torch.cat([Prepare()(case)[name] for case in cases])
        assert len(rows[name]) == 7 and rows[name].shape == whole.shape and torch.equal(rows[name].whole(), whole)
        for index in (3, -1, torch.tensor([6, 0, 4, 4]), torch.tensor([[1, -2], [5, 3]]), torch.tensor([]).long()):
            assert torch.equal(rows[name][index], whole[index]), index
        with pytest.raises(IndexError, match="7 rows"):
            rows[name][torch.tensor([0, 7])]
    assert rows["images"].counts == [4, 1, 2]


class PrepareSeries(Prepare):
    """A case of a folder: a row for each byte of the one file in it."""

    def __call__(self, case: dict[str, Any]) -> dict[str, torch.Tensor]:
        return super().__call__({**case, "image": str(Path(case["image"]) / "1.dcm")})


def test_a_slice_that_is_rewritten_in_place_is_prepared_anew(tmp_path: Path) -> None:
    file = tmp_path / "series" / "1.dcm"
    file.parent.mkdir()
    for content in (b"x", b"xx"):
        file.write_bytes(content)
        rows = stored_rows([{"image": str(file.parent), "number": 0}], PrepareSeries(), str(tmp_path / "cache"))
        assert len(rows["images"]) == len(content)


def test_each_case_is_prepared_once_until_something_changes(cases: list[dict[str, Any]], tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def prepared(offset: int = 0) -> tuple[list[str], list[float]]:
        Prepare.calls.clear()
        rows = stored_rows(cases, Prepare(offset), str(cache))["images"]
        return list(Prepare.calls), rows.whole()[:, 0, 0].tolist()

    values = [0.0, 1, 2, 3, 100, 200, 201]
    assert prepared() == (["c0", "c1", "c2"], values)
    assert prepared() == ([], values)
    assert prepared(7) == (["c0", "c1", "c2"], [value + 7 for value in values])
    Path(cases[1]["image"]).write_bytes(b"xx")
    assert prepared() == (["c1"], [0, 1, 2, 3, 100, 101, 200, 201])
    for file in cache.rglob("images.npy"):
        os.truncate(file, file.stat().st_size - 1)
    assert len(prepared()[0]) == 3 and prepared()[0] == []
    assert not list(cache.glob(".part*"))


def prepare_together(cases: list[dict[str, Any]], cache: str) -> tuple[list[str], torch.Tensor]:
    Prepare.calls.clear()
    rows = stored_rows(cases, Prepare(), cache)["images"]
    return list(Prepare.calls), rows.whole()


@pytest.mark.slow
def test_processes_prepare_a_part_each_and_see_all(cases: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "processes").mkdir()
    first, second = in_processes(tmp_path / "processes", 2, prepare_together, cases, str(tmp_path / "cache"))
    assert (first[0], second[0]) == (["c0", "c2"], ["c1"])
    assert len(first[1]) == 7 and torch.equal(first[1], second[1])


def test_a_run_that_was_killed_leaves_whole_cases_only(cases: list[dict[str, Any]], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    Path(cases[1]["image"]).unlink()
    with pytest.raises(RuntimeError, match="Prepare"):
        stored_rows(cases, Prepare(), str(cache))
    assert len(list(cache.iterdir())) == 1
    Path(cases[1]["image"]).write_bytes(b"x")
    Prepare.calls.clear()
    assert len(stored_rows(cases, Prepare(), str(cache))["images"]) == 7
    assert Prepare.calls == ["c1", "c2"]


def test_a_folder_that_cannot_be_made_is_refused(cases: list[dict[str, Any]]) -> None:
    with pytest.raises(InputRefused, match="prepared cases cannot be kept in .*c0") as refused:
        PersistentArrays(cases, Prepare(), cases[0]["image"])
    assert refused.value.code == "CANNOT_WRITE"


def volume(case: dict[str, Any]) -> dict[str, Any]:
    """Noise that differs from slice to slice."""
    generator = torch.Generator().manual_seed(case["number"])
    label = torch.zeros(1, 20, 30, case["depth"]) + case["number"]
    return {"image": MetaTensor(torch.rand(1, 20, 30, case["depth"], generator=generator)), "label": label}


def test_batches_from_disk_are_those_from_memory(tmp_path: Path) -> None:
    cases = [{"number": number, "depth": 3 + number} for number in range(4)]
    made = [SliceDataset(cases, volume, (24, 24), cache_dir=cache) for cache in (None, str(tmp_path))]
    assert isinstance(made[0].images, torch.Tensor) and not isinstance(made[1].images, torch.Tensor)
    assert torch.equal(made[0][5]["image"], made[1][5]["image"])
    memory, disk = (SliceBatches(dataset, 4, seed=1) for dataset in made)
    for _ in range(2):
        epochs = [list(batches) for batches in (memory, disk)]
        assert [len(epoch) for epoch in epochs] == [4, 4]
        for one, other in zip(*epochs, strict=True):
            assert torch.equal(one["image"], other["image"]) and torch.equal(one["label"], other["label"])


def bytes_read() -> int:
    """What this process has read from files, proc(5)."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="reads /proc")
def test_a_batch_reads_its_own_slices_alone(tmp_path: Path) -> None:
    """Bytes read do not grow with the cases, nor with the slices of a case."""
    for count, depth in ((3, 5), (12, 40)):
        cases = [{"number": number, "depth": depth} for number in range(count)]
        slices = SliceDataset(cases, volume, (256, 256), cache_dir=str(tmp_path))
        before = bytes_read()
        assert slices[torch.arange(8)]["image"].shape == (8, 1, 256, 256)
        assert 0 <= bytes_read() - before - 8 * 256 * 256 * 3 < 2000


MEASURE = """
import re, sys, torch
from convformer_monai.training import SliceBatches, SliceDataset

def volume(case):
    shape = (1, 128, 128, 64)  # 2 MB of images, 1 MB of labels
    return {"image": torch.full(shape, float(case["number"])), "label": torch.ones(shape)}

def memory(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

def train(count, cache):
    dataset = SliceDataset([{"number": number} for number in range(count)], volume, (128, 128), cache_dir=cache)
    total = sum(float(batch["image"].float().mean()) for batch in SliceBatches(dataset, 8))
    assert abs(total / len(SliceBatches(dataset, 8)) - (count - 1) / 2) < 0.01

cache = sys.argv[2] if len(sys.argv) > 2 else None
train(4, cache and cache + "/warm")
before = memory("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak starts from here, proc(5)
train(int(sys.argv[1]), cache)
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_cases(tmp_path: Path) -> None:
    """Of 64 cases, 192 MB when prepared, what training on them adds to the peak of training on 4."""

    def growth(*cache: str) -> float:
        command = [sys.executable, "-W", "ignore", "-c", MEASURE, "64", *cache]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return float(done.stdout)

    assert growth() > 150, "in memory"
    assert growth(str(tmp_path)) < 16, "MB"
