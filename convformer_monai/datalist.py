"""The cases to train on or to evaluate: one section of a datalist JSON, checked before any work is done.

Why not MONAI's ``load_decathlon_datalist``: it turns every text that happens to name a file or folder beside the JSON
into a path, so the id ``patient001`` changes when the data lie in a folder ``patient001``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convformer_monai.errors import InputRefused
from convformer_monai.readers.cases import stem
from convformer_monai.readers.nifti import check_nifti

__all__ = ["datalist_path", "read_cases"]

DATALIST = "datalist.json"


def read_cases(dataset_dir: object, section: str = "val") -> list[dict[str, str]]:
    """Reads and checks one section of a datalist.

    The JSON is ``{"val": [{"image": ..., "label": ..., "id": ..., "phase": ..., "patient": ...}], ...}``. Only
    ``image`` and ``label`` are needed; their paths are relative to the JSON. Without ``id`` the image's name serves,
    without ``patient`` the id up to its first underscore, without ``phase`` the volume belongs to no phase.

    Args:
        dataset_dir: folder that holds ``datalist.json``, or the path of a datalist of another name.
        section: which list of it.

    Returns:
        For each case ``id``, ``patient``, ``phase`` (maybe empty), ``image``, ``label`` and ``image_path``, which is
        ``image`` again and survives its loading.

    Raises:
        InputRefused: if the datalist, the section, or a file is missing, empty or unusable.
    """
    path = datalist_path(dataset_dir)
    cases = [_case(entry, path, section) for entry in _section(path, str(section))]
    for name, count in Counter(case["id"] for case in cases).items():
        if count > 1:
            raise _invalid(path, section, f"the id {name!r} is used {count} times; give each case its own 'id'")
    for case in cases:
        check_nifti(case["image"])
        check_nifti(case["label"])
    return cases


def datalist_path(dataset_dir: object) -> Path:
    """Returns the datalist that a ``dataset_dir`` means: itself if it is named ``.json``, else the one inside."""
    path = Path(str(dataset_dir)).expanduser()
    return path if path.suffix == ".json" else path / DATALIST


def _section(path: Path, section: str) -> list[Any]:
    """Returns the entries of one section."""
    if not path.is_file():
        raise InputRefused(
            "DATALIST_MISSING", f"there is no datalist {path}; give the folder that holds {DATALIST} as --dataset_dir"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputRefused("DATALIST_INVALID", f"{path} cannot be read as JSON: {error}") from error
    sections = [name for name, value in content.items() if isinstance(value, list)] if _is_map(content) else []
    if section not in sections:
        there = f"it has {', '.join(map(repr, sections))}" if sections else "it has no section at all"
        raise InputRefused("DATALIST_SECTION", f"{path} has no section {section!r}, {there}; choose with --section")
    entries: list[Any] = content[section]
    if not entries:
        raise InputRefused("DATALIST_EMPTY", f"section {section!r} of {path} is empty; name at least one case")
    return entries


def _case(entry: object, path: Path, section: str) -> dict[str, str]:
    """Returns one entry with all its keys and absolute paths."""
    if not isinstance(entry, Mapping):
        raise _invalid(path, section, f"{entry!r} is no object with 'image' and 'label'")
    files = {}
    for key in ("image", "label"):
        name = entry.get(key)
        if not isinstance(name, str) or not name:
            raise _invalid(path, section, f"{dict(entry)!r} names no {key} file")
        files[key] = str((path.parent / name).absolute())
    name = str(entry.get("id") or stem(Path(files["image"])))
    patient, phase = entry.get("patient"), entry.get("phase")
    return {
        "id": name,
        "patient": name.split("_")[0] if patient is None else str(patient),
        "phase": "" if phase is None else str(phase),
        **files,
        "image_path": files["image"],
    }


def _is_map(content: object) -> bool:
    return isinstance(content, Mapping)


def _invalid(path: Path, section: str, what: str) -> InputRefused:
    return InputRefused("DATALIST_INVALID", f"{path}, section {section!r}: {what}")
