"""Which images below a path are the one series to read: scouts and copies left out, everything else distinguished."""

from __future__ import annotations

import filecmp
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import UID

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.dicom.files import (
    CLASS_MODALITY,
    Instance,
    find_instances,
    has_siblings,
    list_files,
    modality_name,
)
from convformer_monai.readers.dicom.frames import FrameHeader, read_frames
from convformer_monai.readers.dicom.geometry import ORIENTATION_ATOL, common_plane
from convformer_monai.readers.dicom.parsing import as_refusal
from convformer_monai.readers.dicom.phases import group_levels
from convformer_monai.readers.limits import MAX_VOXELS

__all__ = ["find_series"]

MAX_LISTED = 10


def find_series(path: Path, series_uid: str | None, modalities: Sequence[str]) -> tuple[list[FrameHeader], list[str]]:
    """Finds the frames of the one series that is meant.

    Args:
        path: a file, or a folder that is searched with its sub-folders.
        series_uid: the series to take, if there are several.
        modalities: those to take; all if empty.

    Returns:
        Its frames, and what was left out.

    Raises:
        InputRefused: if there is none, or more than one.
    """
    instances = find_instances(list_files(path))
    images, warnings = _images(instances, path, series_uid, modalities)
    images, copies = _without_copies(images)
    if copies:
        warnings.append(f"{copies} identical {'copies' if copies > 1 else 'copy'} of slices left out")
    _check_concatenations(images, path)
    frames = _one_series(images, path)
    if path.is_file() and len(images) == 1 and images[0].frames == 1 and has_siblings(images[0]):
        raise InputRefused(
            RefusalCode.MISSING_SLICES, f"{path} is one slice of a series; give the folder, {path.parent}"
        )
    return frames, warnings


def _images(
    instances: Sequence[Instance], path: Path, series_uid: str | None, modalities: Sequence[str]
) -> tuple[list[Instance], list[str]]:
    """Leaves out what is not a volume, another series or modality, or a scout."""
    images = [instance for instance in instances if instance.is_volume]
    if series_uid is not None:
        found = [image for image in images if image.series_uid == series_uid]
        if not found:
            raise InputRefused(
                RefusalCode.SERIES_NOT_FOUND,
                f"{path} has no series {series_uid}; it holds {_listed(images) or 'no slices'}",
            )
        images = found
    if modalities and instances:
        matching = [i for i in images if i.modality in modalities and CLASS_MODALITY[i.class_uid] in modalities]
        if not matching:
            others = ", ".join(sorted({modality_name(i.modality) for i in images or instances}))
            raise InputRefused(
                RefusalCode.WRONG_MODALITY,
                f"{path} holds {others}, not {' or '.join(modalities)}; give another image or use another bundle",
            )
        images = matching
    kept = [image for image in images if not image.is_localizer]
    if not kept:
        what = "only scout views" if images else "no CT, MR or PET slices"
        code = RefusalCode.NO_IMAGES if path.is_dir() else RefusalCode.NOT_AN_IMAGE
        raise InputRefused(code, f"{path} holds {what}; give the DICOM files of a series")
    mosaic = next((image for image in kept if image.is_mosaic), None)
    if mosaic is not None:
        raise InputRefused(
            RefusalCode.MOSAIC,
            f"{mosaic.path} is a Siemens mosaic, many slices tiled in one picture; convert it with dcm2niix and give "
            "the NIfTI file",
        )
    scouts = len(images) - len(kept)
    return kept, [f"{scouts} scout view{'s' * (scouts > 1)} left out"] if scouts else []


def _without_copies(images: Sequence[Instance]) -> tuple[list[Instance], int]:
    """Leaves out files that are byte for byte another one; others must not claim to be the same instance."""
    kept: dict[str, Instance] = {}
    for image in images:
        first = kept.setdefault(image.uid or str(image.path), image)
        if first is not image and not filecmp.cmp(first.path, image.path, shallow=False):
            raise InputRefused(
                RefusalCode.DUPLICATE_SLICES,
                f"{image.path} and {first.path} differ but claim to be the same instance; leave one of them out",
            )
    return list(kept.values()), len(images) - len(kept)


def _check_concatenations(images: Sequence[Instance], path: Path) -> None:
    """Refuses multi-frame images that were split over files and are not all there (PS3.3 C.7.6.16.2.2.4)."""
    parts: dict[str, list[Dataset]] = {}
    for image in images:
        if image.header.get("ConcatenationUID"):
            parts.setdefault(str(image.header.ConcatenationUID), []).append(image.header)
    with as_refusal(path):
        for headers in parts.values():
            numbers = sorted(int(header.get("InConcatenationNumber") or 0) for header in headers)
            total = max(*numbers, *(int(header.get("InConcatenationTotalNumber") or 0) for header in headers))
            if numbers != list(range(1, total + 1)):
                raise InputRefused(
                    RefusalCode.MISSING_SLICES,
                    f"{path} holds {len(numbers)} of {total} parts of an image (concatenation); fetch the whole series",
                )


def _one_series(images: Sequence[Instance], path: Path) -> list[FrameHeader]:
    """Returns the frames if the images are one series, or a cine with a series for each slice position."""
    if len({image.patient for image in images}) > 1:
        raise InputRefused(
            RefusalCode.SEVERAL_PATIENTS,
            f"{path} holds images of more than one patient; give the folder of one, or --series-uid",
        )
    series = list(_by_series(images).values())
    _check_size(images, path)
    if len(series) == 1:
        return _frames(series[0])
    if any(len(group) < 2 and group[0].frames < 2 for group in series):
        raise _several(images, path)  # no cine, and its geometry need not be right
    try:
        frames = [_frames(group) for group in series]
        is_cine = _are_levels(frames)
    except InputRefused:
        is_cine = False
    if not is_cine:
        raise _several(images, path)
    return [frame for group in frames for frame in group]


def _several(images: Sequence[Instance], path: Path) -> InputRefused:
    count = len(_by_series(images))
    return InputRefused(
        RefusalCode.SEVERAL_SERIES, f"{path} holds {count} series; choose one with --series-uid: {_listed(images)}"
    )


def _are_levels(series: Sequence[Sequence[FrameHeader]]) -> bool:
    """Tells whether each series is one slice position of the same cine."""
    first = series[0]
    keys = {(f.instance.study_uid, f.instance.space_uid) for group in series for f in group}
    if len(keys) > 1 or max(map(len, series)) < 2:
        return False
    frames = [frame for group in series for frame in group]
    if any(abs(frame.orientation - first[0].orientation).max() > ORIENTATION_ATOL for frame in frames):
        return False
    levels = group_levels(frames, common_plane(frames).normal)
    one_each = all(len({frame.instance.series_uid for frame in level}) == 1 for level in levels)
    return one_each and len(levels) == len(series)


def _frames(images: Iterable[Instance]) -> list[FrameHeader]:
    return [frame for image in images for frame in read_frames(image)]


def _check_size(images: Sequence[Instance], path: Path) -> None:
    """Checks the number of voxels that the headers claim, before anything is made of them."""
    for group in _by_series(images).values():
        for image in group:
            if min(*image.size, image.frames) < 1:
                raise InputRefused(
                    RefusalCode.DICOM_UNREADABLE, f"{image.path} has no rows, columns or frames; export it again"
                )
        voxels = sum(image.frames * image.size[0] * image.size[1] for image in group)
        if voxels > MAX_VOXELS:
            raise InputRefused(
                RefusalCode.TOO_LARGE,
                f"{path} claims {voxels:,} voxels in a series, above the limit of {MAX_VOXELS:,}; give a part of it",
            )


def _by_series(images: Iterable[Instance]) -> dict[tuple[str, str], list[Instance]]:
    series: dict[tuple[str, str], list[Instance]] = {}
    for image in images:
        series.setdefault((image.study_uid, image.series_uid), []).append(image)
    return series


def _listed(images: Sequence[Instance]) -> str:
    """Lists series by what tells nothing of the patient."""
    groups = list(_by_series(images).items())
    texts = [
        f"{uid if UID(uid).is_valid else 'one of an invalid UID'} ({modality_name(g[0].modality)}, "
        f"{sum(i.frames for i in g)} frames)"
        for (_, uid), g in groups[:MAX_LISTED]
    ]
    return ", ".join(texts) + (f" and {len(groups) - MAX_LISTED} more" if len(groups) > MAX_LISTED else "")
