"""An experiment's data and packages in files that a GPU machine without network can be sent, one after another.

The folder holds ``part0001.bin`` and so on, none larger than asked for, their sums in ``SHA256SUMS``, and ``run.sh``,
which joins and unpacks them and starts an experiment. The repository itself is not in it: it goes by its own way.

Images are kept as they are, but integer volumes of few values, which become 8-bit: ACDC's take a third of the space,
and the bundles scale intensities by percentiles, so nothing else changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Image

from convformer_monai.bundle import Bundle
from convformer_monai.datalist import datalist_path, read_lists
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.atomic import write_text
from convformer_monai.readers.cases import NIFTI_SUFFIXES, refuse_no_file

__all__ = ["WHEELS", "pack_experiment"]

logger = logging.getLogger(__name__)

WHEELS = ("einops", "fire", "monai", "nibabel", "pydicom", "pytorch-ignite", "termcolor", "typer")
LISTS = ("train", "val")
FILES = ("image", "label", "shape")
SHAPES = "cq500_shapes"
LEVELS = 256
MIB = 2**20

RUN = """#!/usr/bin/env bash
# In the root of the repository, on a machine with CUDA and torch: bash PACK/run.sh table1 --jobs 6 --seeds 0,1,2 ...
# Unpacks once below ${CONVFORMER_PACK:-/tmp/convformer_pack}. Results go to $OUT, or to ./runs.
set -euo pipefail
pack=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
place=${CONVFORMER_PACK:-/tmp/convformer_pack}/$(sha256sum < "$pack/SHA256SUMS" | cut -c 1-16)
if [ ! -f "$place/done" ]; then
  (cd "$pack" && sha256sum --quiet --check SHA256SUMS)
  mkdir -p "$place"
  cat "$pack"/part*.bin | python3 -c 'import sys, tarfile
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|xz") as archive: archive.extractall(sys.argv[1])' "$place"
  python3 -m pip install --quiet --no-index --no-deps --target "$place/site" "$place"/wheels/*.whl
  touch "$place/done"
fi
export PYTHONPATH=$place/site:$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
experiment=$1
shift
exec python3 -m convformer_monai.cli experiment "$experiment" --task TASK --data "$place/data" \\
  --output-dir "${OUT:-runs}/$experiment/TASK" "$@"
"""


def pack_experiment(
    bundle: str | Path, dataset_dir: Path, output_dir: Path, part_mib: float = 44, wheels: bool = True
) -> list[Path]:
    """Packs what the experiments of a bundle need beside the repository.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`.
        dataset_dir: see :func:`convformer_monai.datalist.read_cases`; its lists ``train`` and ``val``, of hemorrhage
            all that ``train.json`` and the evaluation name.
        output_dir: an empty folder, or one that is made.
        part_mib: size of a part, 2^20 bytes.
        wheels: also download the packages :data:`WHEELS`, in the versions that are installed here.

    Returns:
        The files.

    Raises:
        InputRefused: if the data cannot be used, the folder holds files, or the packages cannot be had.
    """
    opened = Bundle(bundle)
    lists = read_lists(dataset_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise InputRefused(RefusalCode.EXISTS, f"{output_dir} is not an empty folder; give another --output-dir")
    output_dir.mkdir(parents=True, exist_ok=True)
    chosen = [name for name in _sections(opened) if name in lists]
    if not chosen:
        raise InputRefused(
            RefusalCode.DATALIST_SECTION,
            f"{datalist_path(dataset_dir)} has none of the lists {', '.join(_sections(opened))}",
        )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        _write_data(datalist_path(dataset_dir), {name: lists[name] for name in chosen}, place / "data")
        (place / "wheels").mkdir()
        if wheels:
            _download(place / "wheels")
        with tarfile.open(place / "all.tar.xz", "w:xz") as archive:
            for name in ("data", "wheels"):
                archive.add(place / name, name)
        parts = list(_split(place / "all.tar.xz", output_dir, int(part_mib * MIB)))
    sums = "".join(f"{hashlib.sha256(part.read_bytes()).hexdigest()}  {part.name}\n" for part in parts)
    write_text(output_dir / "SHA256SUMS", sums)
    write_text(output_dir / "run.sh", RUN.replace("TASK", opened.short_name or str(bundle)))
    for part in parts:
        logger.info("%s: %.1f MiB", part, part.stat().st_size / MIB)
    return [*parts, output_dir / "SHA256SUMS", output_dir / "run.sh"]


def _sections(bundle: Bundle) -> list[str]:
    """The lists that training and evaluation read."""
    named = [*bundle.read("train").get("sections", {}), *bundle.read("evaluate").get("scan_lists", ())]
    return list(dict.fromkeys([*LISTS, *named, *([SHAPES] if named else [])]))


def _write_data(datalist: Path, lists: Mapping[str, list[Any]], folder: Path) -> None:
    """Writes the lists and the files that they name."""
    folder.mkdir()
    packed: dict[str, list[Any]] = {}
    for section, entries in lists.items():
        packed[section] = [dict(entry) for entry in entries]
        for entry in packed[section]:
            for key in FILES:
                name = entry.get(key)
                if name:
                    entry[key] = name.removesuffix(".gz")  # all is compressed together, which is smaller
                    target = folder / entry[key]
                    if not target.resolve().is_relative_to(folder.resolve()):
                        what = f"{name!r} leads out of the folder of {datalist}"
                        raise InputRefused(RefusalCode.DATALIST_INVALID, what)
                    if not target.exists():
                        target.parent.mkdir(parents=True, exist_ok=True)
                        _copy(datalist.parent / name, target)
    write_text(folder / "datalist.json", json.dumps(packed))


def _copy(source: Path, target: Path) -> None:
    """Copies a file; of a NIfTI image with few integer values the values' numbers, 8-bit."""
    if not source.is_file():
        refuse_no_file(source, "the datalist names it")
    if not source.name.endswith(NIFTI_SUFFIXES):
        shutil.copyfile(source, target)
        return
    image = nib.load(source)
    assert isinstance(image, Nifti1Image)
    values = np.asanyarray(image.dataobj)
    steps = np.unique(values)
    even = len(steps) > 1 and np.issubdtype(steps.dtype, np.integer)
    step = int(np.gcd.reduce(np.diff(steps))) if even else 0
    few = even and steps[0] == 0 and int(steps[-1]) // step < LEVELS
    if few:
        header = image.header.copy()
        header.set_data_dtype(np.uint8)
        header.set_slope_inter(1, 0)
        nib.save(Nifti1Image((values // (step if steps[-1] >= LEVELS else 1)).astype(np.uint8), None, header), target)
    else:
        nib.save(image, target)


def _download(folder: Path) -> None:
    """Downloads the packages, for any Python."""
    from importlib.metadata import version

    wanted = [f"{name}=={version(name)}" for name in WHEELS]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(folder), *wanted], capture_output=True, text=True)
    if done.returncode:
        raise InputRefused(
            RefusalCode.MISSING_PACKAGE, f"pip cannot download {', '.join(wanted)}: {done.stderr.strip()[-300:]}"
        )


def _split(whole: Path, folder: Path, size: int) -> Iterator[Path]:
    """Cuts a file into parts of up to ``size`` bytes."""
    with open(whole, "rb") as file:
        number = 0
        while piece := file.read(size):
            number += 1
            part = folder / f"part{number:04d}.bin"
            part.write_bytes(piece)
            yield part
