"""What was reviewed as a data set for fine-tuning: images, masks and ``datalist.json``."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Image

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.atomic import CannotWrite, write_text
from convformer_monai.readers import read_series
from convformer_monai.readers.cases import DICOM_SUFFIXES, IMAGE_SUFFIXES, find_cases
from convformer_monai.review.cases import ALL, ReviewCase
from convformer_monai.review.standing import mask_of
from convformer_monai.review.store import ACCEPTED, CORRECTED, Decision

__all__ = ["export_datalist"]

DATALIST, IMAGES, LABELS = "datalist.json", "images", "labels"
LISTS = ("train", "val")
MADE_BY = "made by convformer-monai view"  # the description by which a data set of ours is known
EVERY = 5  # one patient of so many is kept apart to validate on


def export_datalist(
    cases: Sequence[ReviewCase], decisions: Mapping[str, Decision], images: Path, folder: Path
) -> dict[str, int]:
    """Writes a data set of the cases that are accepted or corrected.

    Images are linked, not copied, where the file system can do it; masks are copied. Of a cine each phase becomes a
    volume of its own, as training takes it. About a fifth of the patients go to the list ``val``, at least one of
    several, the others to ``train``; who validates does so in later data sets, too. A patient is the first folder of a
    case's name, or of a volume what comes before the first underscore. The cases of one bundle only make sense
    together.

    Args:
        cases: of the folder of results.
        decisions: by the names of the cases; see :func:`convformer_monai.review.standing.standing`.
        images: folder that was segmented, whose images have the names of the cases.
        folder: for ``datalist.json``, ``images`` and ``labels``; made if missing. What an earlier call made is
            replaced.

    Returns:
        How many entries each list has.

    Raises:
        InputRefused: ``NO_LABELS`` if none is accepted or corrected; ``FILE_NOT_FOUND`` if an image is not there;
            ``OPTION`` if they are of several bundles; ``EXISTS`` if the folder holds other data, or the images
            themselves; ``CANNOT_WRITE``.
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
    _check_place(folder, images)
    validating = _validating([case for case, _ in chosen], _earlier(folder / DATALIST))
    lists: dict[str, list[dict[str, str]]] = {name: [] for name in LISTS}
    taken: set[str] = set()
    try:
        for part in (IMAGES, LABELS):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for case, mask in chosen:
            name = _free_name(case.shown.replace("/", "_"), taken)
            patient = _patient(case)
            for entry in _entries(case, sources[case.name], mask, folder, name):
                lists["val" if patient in validating else "train"].append({**entry, "patient": patient})
        content = {"description": MADE_BY, **lists}
        write_text(folder / DATALIST, json.dumps(content, indent=2) + "\n", overwrite=True)
    except OSError as error:
        raise CannotWrite(RefusalCode.CANNOT_WRITE, f"{folder} cannot be written: {error}") from error
    return {name: len(entries) for name, entries in lists.items()}


def _mask(case: ReviewCase, decision: Decision | None) -> Path | None:
    """The mask that a reviewer stands for."""
    return mask_of(case, decision.decision) if decision and decision.decision in (ACCEPTED, CORRECTED) else None


def _check_place(folder: Path, images: Path) -> None:
    """Refuses a folder whose files would be replaced though they are not ours to replace."""
    own = {(folder / part).resolve() for part in (IMAGES, LABELS)}
    given = images.resolve()
    if own & {given, *given.parents}:
        raise InputRefused(RefusalCode.EXISTS, f"{folder} holds the images themselves; give another --export")
    listed = folder / DATALIST
    if listed.exists():
        try:
            is_ours = json.loads(listed.read_text(encoding="utf-8"))["description"] == MADE_BY
        except (OSError, ValueError, KeyError, TypeError):
            is_ours = False
    else:
        is_ours = not any((folder / part).exists() for part in (IMAGES, LABELS))
    if not is_ours:
        raise InputRefused(RefusalCode.EXISTS, f"{folder} holds data that the review did not make; give another folder")


def _patient(case: ReviewCase) -> str:
    """Whose case it is, as :func:`convformer_monai.datalist.read_cases` has it, but for folders."""
    name = case.shown
    if "/" in name:
        return name.partition("/")[0]
    is_photo = case.mask is not None and case.mask.suffix == ".png"
    return name if is_photo else name.partition("_")[0] or name


def _earlier(datalist: Path) -> dict[str, str]:
    """The list of each patient of the data set that is there."""
    if not datalist.exists():
        return {}
    content = json.loads(datalist.read_text(encoding="utf-8"))
    return {entry.get("patient", ""): name for name in LISTS for entry in content.get(name, [])}


def _validating(cases: Sequence[ReviewCase], earlier: Mapping[str, str]) -> set[str]:
    """The patients who are kept apart: those of before, and of the new ones those whose hash says so.

    Of several patients one at least is in each list; a new one changes to it, if there is one. Who changed otherwise
    would validate a network that has seen the patient.
    """
    by_hash = {patient: hashlib.sha256(patient.encode()).digest() for patient in map(_patient, cases)}
    if len(by_hash) < 2:
        return set()
    chosen = {name for name, digest in by_hash.items() if earlier.get(name, LISTS[digest[0] % EVERY == 0]) == "val"}
    free = by_hash.keys() - earlier.keys() or by_hash.keys()
    first = min(free, key=lambda patient: by_hash[patient])
    if not chosen:
        return {first}
    return chosen if len(chosen) < len(by_hash) else chosen - free or {first}


def _free_name(name: str, taken: set[str]) -> str:
    """The name, or with the next number that makes it another than those before."""
    names = chain([name], (f"{name}_{number}" for number in count(2)))
    free = next(one for one in names if one not in taken)
    taken.add(free)
    return free


def _entries(case: ReviewCase, source: Path, mask: Path, folder: Path, name: str) -> Iterator[dict[str, str]]:
    """Places the images and labels of a case; yields their entries."""
    if case.phases == (0,) and not case.reading:
        image, label = (
            _placed(path, folder / part, name, link=part == IMAGES) for path, part in ((source, IMAGES), (mask, LABELS))
        )
        yield {"image": f"{IMAGES}/{image}", "label": f"{LABELS}/{label}", "id": name}
        return
    options = {"phase": ALL, **case.reading}
    series, labels = read_series(source, **options), read_series(mask, phase=ALL)
    values = np.asarray(labels.image)
    for at, phase in enumerate(case.phases):
        one = f"{name}_phase{phase:02d}" if len(case.phases) > 1 else name
        image = np.asarray(series.image)[series.phases.index(phase)]
        for part, data in ((IMAGES, image), (LABELS, values[at].astype(np.uint8))):
            target = folder / part / f"{one}.nii.gz"
            _clear(target)
            nib.save(Nifti1Image(data, series.affine), target)
        yield {"image": f"{IMAGES}/{one}.nii.gz", "label": f"{LABELS}/{one}.nii.gz", "id": one}


def _clear(target: Path) -> None:
    """Removes a link or file of an earlier data set, so that nothing is written through a link."""
    if target.is_symlink() or target.is_file():
        target.unlink()


def _placed(source: Path, folder: Path, name: str, *, link: bool) -> str:
    """Links or copies a file or DICOM folder; returns its name there."""
    endings = (*IMAGE_SUFFIXES, *DICOM_SUFFIXES)
    ending = next((one for one in endings if source.name.lower().endswith(one)), "") if source.is_file() else ""
    target, whole = folder / f"{name}{ending}", source.resolve()
    _clear(target)
    if link:
        with contextlib.suppress(OSError, NotImplementedError):
            os.symlink(whole, target, target_is_directory=whole.is_dir())
            return target.name
    if whole.is_dir():
        shutil.copytree(whole, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(whole, target)
    return target.name
