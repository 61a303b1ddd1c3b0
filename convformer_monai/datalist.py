"""What a bundle works on: images to segment, or the cases to train on or to evaluate; checked before any work is done.

Why not MONAI's ``load_decathlon_datalist``: it turns every text that happens to name a file or folder beside the JSON
into a path, so the id ``patient001`` changes when the data lie in a folder ``patient001``.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import NIFTI_SUFFIXES, find_cases, refuse_no_file, stem
from convformer_monai.readers.nifti import check_nifti

__all__ = ["count_cases", "datalist_path", "find_images", "read_cases", "read_lists"]

logger = logging.getLogger(__name__)

DATALIST = "datalist.json"
OUTSIDE = "CONVFORMER_OUTSIDE"  # environment variable: datalists may name files outside of their folder


def read_cases(
    dataset_dir: object,
    section: str = "val",
    without_labels: bool = False,
    patient_from_id: bool = True,
    keep: Sequence[str] = (),
    share: float = 1.0,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Reads and checks one section of a datalist.

    The JSON is ``{"val": [{"image": ..., "label": ..., "id": ..., "phase": ..., "patient": ...}], ...}``. Only
    ``image`` and ``label`` are needed; their paths are relative to the JSON. Without ``id`` the image's name serves,
    without ``patient`` the id up to its first underscore, without ``phase`` the volume belongs to no phase. An entry
    that is there twice is taken once.

    Args:
        dataset_dir: folder that holds ``datalist.json``, or the path of a datalist of another name.
        section: which list of it.
        without_labels: accept entries without a label (or with ``"label": null``).
        patient_from_id: where the datalist names no patient, take the id up to its first underscore; else ``patient``
            is empty.
        keep: further keys of the entries to keep, unchecked; None where an entry does not have them.
        share: of the patients to take (without patients, of the cases), at least one, chosen by chance; a smaller share
            is part of a larger one.
        seed: of that choice.

    Returns:
        For each case ``id``, ``patient``, ``phase``, ``source`` (the last two maybe empty), ``image``, ``label`` and
        ``image_path``, which is ``image`` again and survives its loading. ``label`` is empty where there is none.

    Raises:
        InputRefused: if the datalist, the section, or a file is missing, empty or unusable.
        ValueError: if ``share`` is not above 0 and up to 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and up to 1, got {share}")
    path = datalist_path(dataset_dir)
    cases = [
        {**_case(entry, path, section, without_labels, patient_from_id), **{key: entry.get(key) for key in keep}}
        for entry in _section(path, str(section))
    ]
    cases = _once(cases, path, section)
    for name, count in Counter(case["id"] for case in cases).items():
        if count > 1:
            raise _invalid(path, section, f"the id {name!r} is used {count} times; give each case its own 'id'")
    cases = cases if share == 1 else _share(cases, share, seed)
    for case in cases:
        _check_file(case["image"])
        if case["label"]:
            _check_file(case["label"])
    return cases


def count_cases(dataset_dir: object, section: object) -> int:
    """Counts the cases of one section, each repetition once.

    Args:
        dataset_dir: see :func:`read_cases`.
        section: the list of the datalist.

    Raises:
        InputRefused: if the datalist or the section is missing or empty.
    """
    return len({json.dumps(entry) for entry in _section(datalist_path(dataset_dir), str(section))})


def _share(cases: list[dict[str, Any]], share: float, seed: int) -> list[dict[str, Any]]:
    """The cases of some of the patients, in the order in which they were."""
    names = {str(case["patient"] or case["id"]) for case in cases}
    drawn = sorted(names, key=lambda name: blake2b(f"{seed} {name}".encode()).digest())
    chosen = set(drawn[: max(1, round(share * len(names)))])
    return [case for case in cases if str(case["patient"] or case["id"]) in chosen]


def datalist_path(dataset_dir: object) -> Path:
    """Returns the datalist that a ``dataset_dir`` means: itself if it is named ``.json``, else the one inside."""
    path = Path(str(dataset_dir)).expanduser()
    return path if path.suffix == ".json" else path / DATALIST


def read_lists(dataset_dir: object) -> dict[str, list[Any]]:
    """Reads all lists of a datalist, unchecked.

    Args:
        dataset_dir: see :func:`read_cases`.

    Raises:
        InputRefused: if the datalist is missing or cannot be read.
    """
    path = datalist_path(dataset_dir)
    if not path.is_file():
        advice = f"give the folder that holds {DATALIST}, or the path of a datalist of another name"
        refuse_no_file(path, advice, RefusalCode.DATALIST_MISSING)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputRefused(RefusalCode.DATALIST_INVALID, f"{path} cannot be read as JSON: {error}") from error
    return {name: value for name, value in content.items() if isinstance(value, list)} if _is_map(content) else {}


def _section(path: Path, section: str) -> list[Any]:
    """Returns the entries of one section."""
    lists = read_lists(path)
    if section not in lists:
        there = f"it has {', '.join(map(repr, lists))}" if lists else "it has no section at all"
        raise InputRefused(
            RefusalCode.DATALIST_SECTION,
            f"{path} has no section {section!r}, {there}; add it; evaluate takes others by --section",
        )
    if not lists[section]:
        raise InputRefused(
            RefusalCode.DATALIST_EMPTY, f"section {section!r} of {path} is empty; name at least one case"
        )
    return lists[section]


def _case(entry: object, path: Path, section: str, without_labels: bool, patient_from_id: bool) -> dict[str, str]:
    """Returns one entry with all its keys and absolute paths."""
    if not isinstance(entry, Mapping):
        raise _invalid(path, section, f"{entry!r} is not an object with 'image' and 'label'")
    files: dict[str, str] = {}
    for key in ("image", "label"):
        name = entry.get(key)
        if without_labels and key == "label" and name is None:
            files[key] = ""
            continue
        if not isinstance(name, str) or not name:
            raise _invalid(path, section, f"{dict(entry)!r} names no {key} file")
        files[key] = str((path.parent / name).absolute())
        if not (os.environ.get(OUTSIDE) or _is_inside(path.parent, name)):
            raise _invalid(
                path, section, f"{name!r} leads out of the folder of the datalist; set {OUTSIDE}=1 if you trust it"
            )
    name = str(entry.get("id") or stem(Path(files["image"])))
    patient, phase, source = entry.get("patient"), entry.get("phase"), entry.get("source")
    unknown = name.split("_")[0] if patient_from_id else ""
    return {
        "id": name,
        "patient": unknown if patient is None else str(patient),
        "phase": "" if phase is None else str(phase),
        "source": "" if source is None else str(source),
        **files,
        "image_path": files["image"],
    }


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a name stays in a folder as it is written; links inside of it are the user's own."""
    inside = os.path.normpath(os.path.join(os.path.abspath(folder), name))
    return Path(inside).is_relative_to(os.path.abspath(folder))


def _once(cases: list[dict[str, Any]], path: Path, section: str) -> list[dict[str, Any]]:
    """Drops exact repetitions of an entry, which would count twice."""
    different = list({json.dumps(case): case for case in cases}.values())
    if len(different) < len(cases):
        logger.warning("%s, section %s: %d entries repeat others; left out", path, section, len(cases) - len(different))
    return different


def _check_file(path: str) -> None:
    """Checks the header of a NIfTI file, and that any other is there."""
    if path.lower().endswith(NIFTI_SUFFIXES):
        check_nifti(path)
    elif not (Path(path).is_file() or Path(path).is_dir()):
        refuse_no_file(Path(path), "correct the datalist")


def _is_map(content: object) -> bool:
    return isinstance(content, Mapping)


def _invalid(path: Path, section: str, what: str) -> InputRefused:
    return InputRefused(RefusalCode.DATALIST_INVALID, f"{path}, section {section!r}: {what}")


def find_images(datalist: object, dataset_dir: object, allow_none: bool = False) -> list[dict[str, str]]:
    """Lists the images to segment, and checks them before any work is done.

    Every image must exist, NIfTI headers must be acceptable, and no two may have one stem, because their masks would.

    Args:
        datalist: paths, or dicts with an ``image`` path; or one path; ``None`` to search the folder instead.
        dataset_dir: folder whose images are taken if there is no datalist, as
            :func:`convformer_monai.readers.find_cases` finds them; it may itself hold a DICOM series.
        allow_none: return an empty list where there is no folder or no image. A bundle's ``dataset`` needs that, since
            MONAI builds it from the defaults to inspect a bundle; its ``run`` first calls this function without, which
            tells the user what was found.

    Returns:
        One ``{"image": path}`` for each image.

    Raises:
        InputRefused: if there is no image, or one that cannot be used.
    """
    try:
        paths = (
            _images_in(dataset_dir, logging.DEBUG if allow_none else logging.INFO)
            if datalist is None
            else _listed(datalist)
        )
    except InputRefused as refusal:
        if allow_none and refusal.code in (RefusalCode.NO_IMAGES, RefusalCode.FOLDER_NOT_FOUND):
            return []
        raise
    _refuse_equal_stems(paths)
    for path in paths:
        if path.name.lower().endswith(NIFTI_SUFFIXES):
            check_nifti(path)
        elif not (path.is_file() or path.is_dir()):
            refuse_no_file(path, "give an image file or a DICOM folder")
    return [{"image": str(path)} for path in paths]


def _listed(datalist: object) -> list[Path]:
    """Returns the paths that a datalist names."""
    items: object = [datalist] if isinstance(datalist, str | Path) else datalist
    if not isinstance(items, Sequence):
        raise InputRefused(
            RefusalCode.DATALIST,
            f"datalist must be a list of paths, got {datalist!r}; write --datalist \"['a.nii.gz', 'b.nii.gz']\"",
        )
    if not items:
        raise InputRefused(RefusalCode.NO_IMAGES, "datalist is empty; name at least one image file or DICOM folder")
    return [_listed_path(item) for item in items]


def _listed_path(item: object) -> Path:
    path = item.get("image") if isinstance(item, Mapping) else item
    if not isinstance(path, str | Path) or not str(path):
        raise InputRefused(
            RefusalCode.DATALIST, f"datalist holds {item!r}; each entry is a path, or a dict with an 'image' path"
        )
    return Path(path).expanduser()


def _images_in(dataset_dir: object, level: int) -> list[Path]:
    """Returns the images of a folder, by name, and says how many they are."""
    folder = Path(str(dataset_dir)).expanduser()
    if not folder.is_dir():
        raise InputRefused(RefusalCode.FOLDER_NOT_FOUND, f"{folder} is not a folder; give --dataset_dir or --datalist")
    paths = [case.path for case in find_cases(folder, level=level)]
    logger.log(level, "%s: %d images", folder, len(paths))
    return paths


def _refuse_equal_stems(paths: Iterable[Path]) -> None:
    same: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        same[stem(path)].append(path)
    for name, group in same.items():
        if len(group) > 1:
            names = " and ".join(map(str, group))
            raise InputRefused(
                RefusalCode.EQUAL_NAMES,
                f"{names} would both be written as {name}_seg.nii.gz; rename one or run them into different folders",
            )
