"""All or nothing: full disks, read-only folders, races and programs that are stopped in the middle."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from convformer_monai import locks
from convformer_monai.errors import InputRefused
from convformer_monai.outputs import journal
from convformer_monai.outputs.atomic import AtomicFiles, CannotWrite, transaction, write_atomically

# A program that writes a mask that is too large for where it goes; its exit code is what the user's shell sees.
WRITES_A_MASK = """
import sys
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from convformer_monai.errors import report_refusals
from convformer_monai.readers.series import ImageSeries
from convformer_monai.outputs.nifti import write_mask

report_refusals()
if sys.argv[2:]:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
labels = np.random.default_rng(0).integers(0, 4, (1, 80, 80, 80)).astype(np.uint8)
series = ImageSeries(MetaTensor(torch.zeros(labels.shape)), format="dicom", path=Path("x"))
write_mask(Path(sys.argv[1]), labels, series)
"""


def put(files: AtomicFiles, path: Path, content: bytes = b"new") -> None:
    files.write(path, lambda file: file.write_bytes(content), lambda file: file.read_bytes() == content)


def put_one(path: Path, content: bytes = b"new", overwrite: bool = False) -> None:
    write_atomically(
        path, lambda file: file.write_bytes(content), lambda file: file.read_bytes() == content, overwrite=overwrite
    )


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def mounted(folder: Path, *options: str) -> Path:
    """A small file system of its own, if we may mount one."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs (root)")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = mounted(tmp_path / "small disk", "-o", "size=64k")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    folder = mounted(tmp_path / "read only", "-o", "ro,size=64k")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestOneFile:
    @pytest.mark.parametrize("name", ["x.nii.gz", "a b.c d.png", "心臓 $@%#.dcm", "n" * 251 + ".dcm"])
    def test_any_name(self, tmp_path: Path, name: str) -> None:
        put_one(tmp_path / name)
        assert names(tmp_path) == [name] and (tmp_path / name).read_bytes() == b"new"

    def test_the_temporary_name(self, tmp_path: Path) -> None:
        seen: list[Path] = []
        for name in ("x.nii.gz", "x.y.png"):
            write_atomically(tmp_path / name, lambda file: (seen.append(file), file.touch()), Path.is_file)
        assert [path.parent for path in seen] == [tmp_path, tmp_path] and len(set(seen)) == 2
        assert all(path.name.startswith(".") for path in seen)
        assert seen[0].name.endswith(".nii.gz") and seen[1].suffix == ".png"

    def test_is_not_there_before_it_is_complete(self, tmp_path: Path) -> None:
        path = tmp_path / "x"

        def write(file: Path) -> None:
            assert not path.exists()
            file.write_bytes(b"new")
            assert not path.exists()

        write_atomically(path, write, lambda file: not path.exists())
        assert path.exists()

    def test_exists(self, tmp_path: Path) -> None:
        path = tmp_path / "x"
        path.write_bytes(b"old")
        with pytest.raises(InputRefused, match=r"^error\[EXISTS\]: .*x exists already; give --overwrite"):
            put_one(path)
        assert path.read_bytes() == b"old"
        put_one(path, overwrite=True)
        assert path.read_bytes() == b"new" and names(tmp_path) == ["x"]

    def test_a_link_to_nowhere_is_in_the_way_too(self, tmp_path: Path) -> None:
        (tmp_path / "x").symlink_to(tmp_path / "nowhere")
        with pytest.raises(InputRefused, match="EXISTS"):
            put_one(tmp_path / "x")

    def test_overwriting_a_link_leaves_its_target(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").write_bytes(b"old")
        (tmp_path / "x").symlink_to(tmp_path / "elsewhere")
        put_one(tmp_path / "x", overwrite=True)
        assert (tmp_path / "elsewhere").read_bytes() == b"old" and (tmp_path / "x").read_bytes() == b"new"

    def test_a_race_has_one_winner(self, tmp_path: Path) -> None:
        path, outcomes, barrier = tmp_path / "x", [], threading.Barrier(8)

        def run(content: bytes) -> None:
            def check(file: Path) -> bool:
                barrier.wait(timeout=60)  # all have written, none has renamed
                return True

            try:
                write_atomically(path, lambda file: file.write_bytes(content), check)
                outcomes.append(content)
            except InputRefused as error:
                assert error.code == "EXISTS"

        threads = [threading.Thread(target=run, args=(bytes([n]),)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 1 and path.read_bytes() == outcomes[0] and names(tmp_path) == ["x"]

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_where_no_hard_links_are(self, tmp_path: Path, overwrite: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_links(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_links)
        with AtomicFiles(overwrite=overwrite) as files:
            put(files, tmp_path / "x")
            put(files, tmp_path / "y")
        assert names(tmp_path) == ["x", "y"] and (tmp_path / "y").read_bytes() == b"new"
        with AtomicFiles(overwrite=True) as files:
            put(files, tmp_path / "x", b"newer")
            put(files, tmp_path / "y", b"newer")
        assert names(tmp_path) == ["x", "y"] and (tmp_path / "x").read_bytes() == b"newer"
        with pytest.raises(InputRefused, match="EXISTS"):
            put_one(tmp_path / "x")

    def test_a_name_that_was_reserved_in_vain_is_free_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(code: int) -> Callable[..., None]:
            return lambda *_, **__: (_ for _ in ()).throw(OSError(code, os.strerror(code)))

        monkeypatch.setattr(os, "link", fail(errno.EPERM))
        monkeypatch.setattr(os, "replace", fail(errno.EIO))
        with pytest.raises(CannotWrite):
            put_one(tmp_path / "x")
        assert names(tmp_path) == []

    def test_a_planted_journal_reaches_no_other_folder(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        victim = tmp_path / "victim"
        for planted in ("../victim", str(victim)):
            victim.write_bytes(b"kept")
            lines = [
                {"target": "x", "temporary": planted},
                {"target": planted, "backup": "y"},
                {"commit": True, "new": True},
            ]
            path = tmp_path / "out" / f".0{journal.SUFFIX}"
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            journal.tidy_up(tmp_path / "out")
            assert victim.read_bytes() == b"kept" and not path.exists()

    def test_a_journal_that_another_run_tidied_up_is_made_anew(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        others = [journal.tidy_up]

        def late(file: BinaryIO) -> bool | None:
            if others:
                others.pop()(tmp_path)
            return locks.try_lock(file)

        monkeypatch.setattr(journal, "try_lock", late)
        with AtomicFiles() as files:
            put(files, tmp_path / "x")
            assert sum(name.endswith(journal.SUFFIX) for name in names(tmp_path)) == 1


class TestFailures:
    @pytest.mark.parametrize("step", ["write", "fsync", "check", "wrong content", "link"])
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
    def test_nothing_is_left(self, tmp_path: Path, step: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(code, os.strerror(code))

        def write(file: Path) -> None:
            file.write_bytes(b"half")
            if step == "write":
                fail()

        def check(file: Path) -> bool:
            if step == "check":
                fail()
            return step != "wrong content"

        if step in ("fsync", "link"):
            monkeypatch.setattr(os, step, fail)
        with pytest.raises(CannotWrite) as error:
            write_atomically(tmp_path / "x.nii", write, check)
        assert names(tmp_path) == []
        assert isinstance(error.value, OSError) and isinstance(error.value, InputRefused)
        assert str(error.value).startswith(f"error[CANNOT_WRITE]: {tmp_path / 'x.nii'} ")
        assert "\n" not in str(error.value)
        if step in ("write", "fsync", "link"):
            assert os.strerror(code).lower() in str(error.value) and error.value.errno == code

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(CannotWrite, match="no such file or directory"):
            put_one(tmp_path / "missing" / "x")

    def test_a_folder_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "x").mkdir()
        with pytest.raises(CannotWrite, match="is a directory"):
            put_one(tmp_path / "x", overwrite=True)
        assert names(tmp_path) == ["x"]

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
    def test_other_exceptions_pass_and_leave_nothing(self, tmp_path: Path, kind: type[BaseException]) -> None:
        def write(file: Path) -> None:
            file.write_bytes(b"half")
            raise kind

        with pytest.raises(kind):
            write_atomically(tmp_path / "x", write, Path.is_file)
        assert names(tmp_path) == []


class TestSeveralFiles:
    def test_appear_together(self, tmp_path: Path) -> None:
        with AtomicFiles() as files:
            put(files, tmp_path / "x")
            put(files, tmp_path / "y", b"other")
            assert not (tmp_path / "x").exists()
            assert files.where(tmp_path / "y").read_bytes() == b"other"
            assert files.where(tmp_path / "z") == tmp_path / "z"
        assert names(tmp_path) == ["x", "y"]

    def test_none_if_the_block_fails(self, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError), AtomicFiles() as files:
            put(files, tmp_path / "x")
            raise RuntimeError
        assert names(tmp_path) == []

    def test_none_if_one_is_taken_meanwhile(self, tmp_path: Path) -> None:
        with pytest.raises(InputRefused, match="y exists already"), AtomicFiles() as files:
            put(files, tmp_path / "x")
            put(files, tmp_path / "y")
            (tmp_path / "y").write_bytes(b"theirs")
        assert names(tmp_path) == ["y"] and (tmp_path / "y").read_bytes() == b"theirs"

    @pytest.mark.parametrize("links", [True, False])
    def test_the_old_ones_are_back_if_one_cannot_be_renamed(
        self, tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("x", "y"):
            (tmp_path / name).write_bytes(b"old")
        (tmp_path / "z").mkdir()  # no file can replace it
        (tmp_path / "z" / "inside").touch()
        if not links:
            monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "no links")))
        with pytest.raises(CannotWrite), AtomicFiles(overwrite=True) as files:
            for name in ("x", "new", "y", "z"):
                put(files, tmp_path / name)
        assert names(tmp_path) == ["x", "y", "z"]
        assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes() == b"old"
        assert names(tmp_path / "z") == ["inside"]

    def test_the_same_name_twice(self, tmp_path: Path) -> None:
        with pytest.raises(InputRefused, match="EXISTS"), AtomicFiles() as files:
            put(files, tmp_path / "x")
            put(files, tmp_path / "x")
        assert names(tmp_path) == []

    def test_writers_join(self, tmp_path: Path) -> None:
        with AtomicFiles() as outer:
            with transaction(outer, overwrite=False) as files:
                put(files, tmp_path / "x")
            assert names(tmp_path) != ["x"]
        with transaction(None, overwrite=True) as files:
            put(files, tmp_path / "x", b"newer")
        assert (tmp_path / "x").read_bytes() == b"newer"


class TestRealDisks:
    """Whole programs against file systems that really refuse."""

    def run(self, path: Path, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", WRITES_A_MASK, str(path), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 2, done.stderr
        line = done.stderr.splitlines()[-1]
        assert line.startswith(f"error[CANNOT_WRITE]: {path} cannot be written: ") and "Traceback" not in done.stderr
        assert names(path.parent) == []
        return line

    @pytest.mark.slow
    def test_disk_full(self, small_disk: Path) -> None:
        assert "no space left on device" in self.run(small_disk / "x_seg.nii.gz")

    @pytest.mark.slow
    def test_file_size_limit(self, tmp_path: Path) -> None:
        pytest.importorskip("resource", reason="needs POSIX resource limits")
        folder = tmp_path / "out"
        folder.mkdir()
        assert "file too large" in self.run(folder / "x_seg.nii.gz", "65536")

    def test_read_only_folder(self, read_only_disk: Path) -> None:
        with pytest.raises(CannotWrite, match="read-only file system"):
            put_one(read_only_disk / "x")
        assert names(read_only_disk) == []

    def test_disk_full_at_the_second_file(self, small_disk: Path) -> None:
        with pytest.raises(CannotWrite, match="y cannot be written: no space"), AtomicFiles() as files:
            put(files, small_disk / "x", bytes(30_000))
            put(files, small_disk / "y", bytes(60_000))
        assert names(small_disk) == []
