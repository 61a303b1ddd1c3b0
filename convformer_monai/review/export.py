"""What was reviewed as a data set for fine-tuning: images, masks and ``datalist.json``."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.atomic import CannotWrite, write_text
from convformer_monai.readers.cases import DICOM_SUFFIXES, IMAGE_SUFFIXES, find_cases
from convformer_monai.review.cases import ReviewCase
from convformer_monai.review.corrections import corrected_mask
from convformer_monai.review.store import ACCEPTED, CORRECTED, Decision

__all__ = ["export_datalist"]

DATALIST = "datalist.json"
EVERY = 5  # one case of so many is kept apart to validate on


def export_datalist(
    cases: Sequence[ReviewCase], decisions: Mapping[str, Decision], images: Path, folder: Path
) -> dict[str, int]:
    """Writes a data set of the cases that are accepted or corrected.

    Images are linked, not copied, where the file system can do it; masks are copied. Every fifth case goes to the list
    ``val``, at least one of several; the others to ``train``. The cases of one bundle only make sense together.

    Args:
        cases: of the folder of results.
        decisions: by the names of the cases.
        images: folder that was segmented, whose images have the names of the cases.
        folder: for ``datalist.json``, ``images`` and ``labels``; made if missing, its own files are replaced.

    Returns:
        How many cases each list has.

    Raises:
        InputRefused: ``NO_LABELS`` if none is accepted or corrected; ``FILE_NOT_FOUND`` if an image is not there;
            ``OPTION`` if they are of several bundles; ``CANNOT_WRITE``.
    """
    chosen = [(case, mask) for case in cases if (mask := _mask(case, decisions.get(case.name))) is not None]
    if not chosen:
        raise InputRefused(RefusalCode.NO_LABELS, "no case is accepted or corrected yet")
    bundles = sorted({case.bundle for case, _ in chosen})
    if len(bundles) > 1:
        raise InputRefused(RefusalCode.OPTION, f"the cases are of several bundles: {', '.join(bundles)}; review one")
    sources = {case.name: case.path for case in find_cases(images)}
    missing = [case.name for case, _ in chosen if case.name not in sources]
    if missing:
        raise InputRefused(
            RefusalCode.FILE_NOT_FOUND, f"{images} holds no image of {missing[0]}; give the folder that was segmented"
        )
    lists: dict[str, list[dict[str, str]]] = {"train": [], "val": []}
    try:
        for number, (case, mask) in enumerate(chosen):
            name = case.name.replace("/", "_")
            image = _placed(sources[case.name], folder / "images", name, link=True)
            label = _placed(mask, folder / "labels", name, link=False)
            entry = {"image": f"images/{image}", "label": f"labels/{label}", "id": name}
            last_of_few = len(chosen) < EVERY and number == len(chosen) - 1 and number > 0
            lists["val" if number % EVERY == EVERY - 1 or last_of_few else "train"].append(entry)
        write_text(folder / DATALIST, json.dumps(lists, indent=2) + "\n", overwrite=True)
    except OSError as error:
        raise CannotWrite(RefusalCode.CANNOT_WRITE, f"{folder} cannot be written: {error}") from error
    return {name: len(entries) for name, entries in lists.items()}


def _mask(case: ReviewCase, decision: Decision | None) -> Path | None:
    """The mask that a reviewer stands for."""
    if decision is None:
        return None
    return {ACCEPTED: case.mask, CORRECTED: corrected_mask(case)}.get(decision.decision)


def _placed(source: Path, folder: Path, name: str, *, link: bool) -> str:
    """Links or copies a file or DICOM folder; returns its name there."""
    folder.mkdir(parents=True, exist_ok=True)
    endings = (*IMAGE_SUFFIXES, *DICOM_SUFFIXES)
    ending = next((one for one in endings if source.name.lower().endswith(one)), "") if source.is_file() else ""
    target = folder / f"{name}{ending}"
    if target.is_symlink() or target.is_file():
        target.unlink()
    if link:
        with contextlib.suppress(OSError, NotImplementedError):
            target.symlink_to(source.resolve(), target_is_directory=source.is_dir())
            return target.name
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)
    return target.name
