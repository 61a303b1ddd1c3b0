"""What the bundles' configs need of Python: strict inputs, checked weights, and parts of one config in another."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from convformer_monai.errors import InputRefused
from convformer_monai.readers.cases import NIFTI_SUFFIXES, find_cases, stem
from convformer_monai.readers.nifti import check_nifti

__all__ = ["component", "file_sha256", "find_images", "load_weights", "output_name", "save_weights"]

logger = logging.getLogger(__name__)


def find_images(datalist: object, dataset_dir: object, allow_none: bool = False) -> list[dict[str, str]]:
    """Lists the images to segment, and checks them before any work is done.

    Every image must exist, NIfTI headers must be acceptable, and no two may have one stem, because their masks would.

    Args:
        datalist: paths, or dicts with an ``image`` path; or one path; ``None`` to search the folder instead.
        dataset_dir: folder whose images are taken if there is no datalist, as
            :func:`convformer_monai.readers.find_cases` finds them; it may itself hold a DICOM series.
        allow_none: return an empty list where there is no folder or no image. A bundle's ``dataset`` needs that, since
            MONAI builds it from the defaults to inspect a bundle; its ``run`` first calls this function without.

    Returns:
        One ``{"image": path}`` for each image.

    Raises:
        InputRefused: if there is no image, or one that cannot be used.
    """
    try:
        paths = _images_in(dataset_dir) if datalist is None else _listed(datalist)
    except InputRefused as refusal:
        if allow_none and refusal.code in ("NO_IMAGES", "FOLDER_NOT_FOUND"):
            return []
        raise
    _refuse_equal_stems(paths)
    for path in paths:
        if path.name.lower().endswith(NIFTI_SUFFIXES):
            check_nifti(path)
        elif not path.exists():
            raise InputRefused("FILE_NOT_FOUND", f"{path} does not exist; give an image file or a DICOM folder")
    return [{"image": str(path)} for path in paths]


def output_name(meta: Mapping[str, Any], _saver: object = None) -> dict[str, Any]:
    """Names an output after its input, for ``SaveImaged(output_name_formatter=...)``.

    MONAI takes everything from the last dot on for an ending, which would cut the name of a folder such as ``1.2.840``.

    Args:
        meta: the image's metadata with the path that it was loaded from.
    """
    path = Path(str(meta.get("filename_or_obj") or "image")).absolute()
    return {"subject": f"{stem(path)}.image", "idx": None}


def _listed(datalist: object) -> list[Path]:
    """Returns the paths that a datalist names."""
    items: object = [datalist] if isinstance(datalist, str | Path) else datalist
    if not isinstance(items, Sequence):
        raise InputRefused(
            "DATALIST",
            f"datalist must be a list of paths, got {datalist!r}; write --datalist \"['a.nii.gz', 'b.nii.gz']\"",
        )
    if not items:
        raise InputRefused("NO_IMAGES", "datalist is empty; name at least one image file or DICOM folder")
    return [_listed_path(item) for item in items]


def _listed_path(item: object) -> Path:
    path = item.get("image") if isinstance(item, Mapping) else item
    if not isinstance(path, str | Path) or not str(path):
        raise InputRefused("DATALIST", f"datalist holds {item!r}; each entry is a path, or a dict with an 'image' path")
    return Path(path).expanduser()


def _images_in(dataset_dir: object) -> list[Path]:
    """Returns the images of a folder, by name."""
    folder = Path(str(dataset_dir)).expanduser()
    if not folder.is_dir():
        raise InputRefused("FOLDER_NOT_FOUND", f"{folder} is no folder; give --dataset_dir or --datalist")
    paths = [case.path for case in find_cases(folder)]
    logger.info("%s: %d images", folder, len(paths))
    return paths


def _refuse_equal_stems(paths: Iterable[Path]) -> None:
    same: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        same[stem(path)].append(path)
    for name, group in same.items():
        if len(group) > 1:
            names = " and ".join(map(str, group))
            raise InputRefused(
                "EQUAL_NAMES",
                f"{names} would both be written as {name}_seg.nii.gz; rename one or run them into different folders",
            )


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def load_weights(
    network: torch.nn.Module, path: object, sha256: str | None = None, device: str | torch.device = "cpu"
) -> torch.nn.Module:
    """Loads a state dict into a network, strictly, after checking the file.

    Args:
        network: takes the weights, each cast to the parameter's own type (they are stored as float16).
        path: file of a plain state dict.
        sha256: expected SHA-256; ``None`` or empty for weights of one's own, which are not checked.
        device: where the weights are loaded to.

    Returns:
        The network.

    Raises:
        InputRefused: if the file lacks, is not the expected one, or does not fit the network.
    """
    file = Path(str(path))
    if not file.is_file():
        raise InputRefused("WEIGHTS_NOT_FOUND", f"{file} does not exist; give the bundle's root with --bundle_root")
    if sha256:
        found = file_sha256(file)
        if found != sha256.lower():
            raise InputRefused(
                "WEIGHTS_HASH",
                f"{file} has SHA-256 {found[:12]}..., expected {sha256[:12]}...; fetch the "
                "bundle again, or pass --weights_sha256 '' for weights of your own",
            )
    else:
        logger.warning("%s: no SHA-256 to check it against", file.name)
    try:
        state = torch.load(file, map_location=device, weights_only=True)
        network.load_state_dict(state, strict=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputRefused("WEIGHTS_MISFIT", f"{file} does not fit the network: {reason}") from error
    return network


def component(
    bundle_root: object, config: str, id: str | Sequence[str], overrides: Mapping[str, Any] | None = None
) -> Any:
    """Instantiates a part of a bundle's config, so that another config can use it without a copy.

    Args:
        bundle_root: folder of the bundle; the part sees it as its own ``bundle_root``.
        config: name of a file in ``configs``, without ``.json``.
        id: what to instantiate, e.g. ``network_def``; or several ids, whose objects then refer to each other as they do
            in the config, e.g. ``["preprocessing", "native_labels"]``.
        overrides: values by id that replace the config's own first, e.g. ``{"image_keys": ["image", "label"]}``.

    Returns:
        The object, or for several ids the list of them.

    Raises:
        ValueError: if the config, an id or an override's id does not exist.
    """
    root = Path(str(bundle_root))
    file = root / "configs" / f"{config}.json"
    if not file.is_file():
        raise ValueError(f"config must name a file of {root / 'configs'}, got {config!r}")
    parser = ConfigParser(json.loads(file.read_text()))
    parser["_meta_"] = json.loads((root / "configs" / "metadata.json").read_text())
    # As a Path: the parser would take characters such as "$" and "@" in a text for its own.
    changes = {"bundle_root": root, **(overrides or {})}
    ids = [id] if isinstance(id, str) else list(id)
    for key in (*changes, *ids):
        if key not in parser:
            raise ValueError(f"{file} has no id {key!r}")
    parser.update(changes)
    parts = [parser.get_parsed_content(key) for key in ids]
    return parts[0] if isinstance(id, str) else parts


def save_weights(path: object, bundle_root: object) -> Path:
    """Puts trained weights into a bundle: ``models/model.pt`` in float16, and its SHA-256 in ``metadata.json``.

    Args:
        path: file of a plain state dict, e.g. ``best.pt`` of a training run.
        bundle_root: folder of the bundle; the weights must fit its ``network_def``.

    Returns:
        The file written.

    Raises:
        InputRefused: if the file lacks or does not fit.
    """
    network = load_weights(component(bundle_root, "inference", "network_def"), path)
    state = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    file = Path(str(bundle_root)) / "models" / "model.pt"
    file.parent.mkdir(exist_ok=True)
    torch.save(state, file.with_suffix(".part"))
    os.replace(file.with_suffix(".part"), file)
    metadata = Path(str(bundle_root)) / "configs" / "metadata.json"
    content = json.loads(metadata.read_text())
    content["weights_sha256"] = file_sha256(file)
    metadata.write_text(json.dumps(content, indent=4) + "\n")
    logger.info("%s: %.1f MB, SHA-256 %s", file, file.stat().st_size / 1e6, content["weights_sha256"])
    return file
