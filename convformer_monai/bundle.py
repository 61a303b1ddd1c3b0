"""A bundle on disk: its metadata, task, configs, network and weights. No other module opens these files.

Imports nothing heavy; torch and MONAI are imported by what needs them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pickle
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import refuse_no_file
from convformer_monai.readers.glance import Glance
from convformer_monai.tasks import Task, generic_task, get_task
from convformer_monai.tasks.task import PHOTOGRAPH, VOLUME, Label

if TYPE_CHECKING:
    import torch

__all__ = [
    "BUNDLES",
    "INSTALLED",
    "NOT_STATED",
    "UNREADABLE",
    "Bundle",
    "component",
    "file_sha256",
    "fitting_bundles",
    "load_weights",
    "save_weights",
    "task_of",
]

logger = logging.getLogger(__name__)

BUNDLES = {
    "cardiac": "cardiac_mri_convformer_segmentation",
    "dermoscopy": "dermoscopy_convformer_segmentation",
    "hemorrhage": "ct_hemorrhage_convformer_segmentation",
}
FOLDER_VARIABLE = "CONVFORMER_BUNDLES"
INSTALLED = "_bundles"  # where setup.py puts them
NOT_STATED = "not stated"
TASK_KEY = "convformer_task"
CONFIG = Path("configs") / "inference.json"
MAX_UNZIPPED = 4 * 2**30
# everything that torch.load was seen to raise on mutated files
UNREADABLE: tuple[type[Exception], ...] = (
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)


class Bundle:
    """One bundle: a folder, or a zip of one, which is unpacked for as long as the object lives.

    Args:
        bundle: short name (see :data:`BUNDLES`), or path of a folder or zip. Bundles with a short name are looked for
            in ``$CONVFORMER_BUNDLES``, then in ``bundles`` beside the package, where a clone has them, then in the
            installed package.

    Attributes:
        root: its folder.
        unpacked: whether the folder is a temporary one, of a zip.

    Raises:
        InputRefused: ``BUNDLE_NOT_FOUND`` if there is no such bundle, ``BUNDLE_UNUSABLE`` if it cannot be unpacked.
    """

    def __init__(self, bundle: str | Path) -> None:
        self.root = _named(str(bundle)) if str(bundle) in BUNDLES else Path(bundle).expanduser()
        if self.root.is_file() and not zipfile.is_zipfile(self.root):
            raise InputRefused(
                RefusalCode.BUNDLE_UNUSABLE, f"{bundle} is a file, but not a zip of a bundle; get it again"
            )
        self.unpacked = self.root.is_file()
        if self.unpacked:
            self._unpacked = tempfile.TemporaryDirectory(prefix="convformer-bundle-", ignore_cleanup_errors=True)
            self.root = _unzipped(self.root, Path(self._unpacked.name))
        if self.root.exists() and not self.root.is_dir():
            refuse_no_file(self.root, "give the folder or zip of a bundle", RefusalCode.BUNDLE_NOT_FOUND)
        if not (self.root / CONFIG).is_file():
            raise InputRefused(
                RefusalCode.BUNDLE_NOT_FOUND,
                f"{bundle} is not a bundle: give {', '.join(BUNDLES)}, or a folder or zip that holds {CONFIG}",
            )

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """``configs/metadata.json``.

        Raises:
            InputRefused: ``BUNDLE_UNUSABLE`` if it cannot be read, or does not say what goes in and comes out.
        """
        path = self.root / "configs" / "metadata.json"
        try:
            content: dict[str, Any] = _read_json(path)
            formats = content["network_data_format"]
            int(formats["inputs"]["image"]["num_channels"])
            {int(index): str(name) for index, name in formats["outputs"]["pred"]["channel_def"].items()}
            if not isinstance(content.get("weights_sha256"), str):
                raise InputRefused(
                    RefusalCode.BUNDLE_UNUSABLE,
                    f"{path} must name the hash of models/model.pt as the text weights_sha256; export --weights does",
                )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputRefused(
                RefusalCode.BUNDLE_UNUSABLE,
                f"{path} must be an object whose network_data_format has inputs.image.num_channels and "
                f"outputs.pred.channel_def; got {type(error).__name__}: {error}",
            ) from error
        return content

    @property
    def name(self) -> str:
        """What results call it; of a copy under another folder the same."""
        return str(self.metadata.get("name") or self.root.resolve().name)

    @property
    def short_name(self) -> str | None:
        """Its name in :data:`BUNDLES`, if it is one of those that are shipped with the package."""
        package = Path(__file__).resolve().parent
        shipped = self.root.resolve().parent in (package.parent / "bundles", package / INSTALLED)
        return next((short for short, name in BUNDLES.items() if shipped and name == self.root.name), None)

    @property
    def version(self) -> str:
        """Its version, or ``unknown``."""
        return str(self.metadata.get("version", "unknown"))

    def licence(self, weights_sha256: str | None = None) -> dict[str, str]:
        """The licences of its code and of weights, which differ.

        Args:
            weights_sha256: of the weights meant; of others than its own nothing is known. ``None`` for its own.
        """
        own = weights_sha256 in (None, self.metadata.get("weights_sha256"))
        weights = (
            self.metadata.get("license_weights", NOT_STATED) if own else "not stated: not the bundle's own weights"
        )
        return {"code": str(self.metadata.get("license_code", NOT_STATED)), "weights": str(weights)}

    @property
    def weights(self) -> Path:
        """Where its own weights are."""
        return self.root / "models" / "model.pt"

    @property
    def config_sha256(self) -> str:
        """SHA-256 of ``inference.json`` and ``metadata.json``, by their content.

        Raises:
            InputRefused: ``BUNDLE_UNUSABLE``.
        """
        digest = hashlib.sha256()
        for name in ("inference", "metadata"):
            digest.update(json.dumps(self.read(name), sort_keys=True).encode())
        return digest.hexdigest()

    @property
    def channels(self) -> int:
        """Channels of the image: 3 for photographs."""
        return int(self.metadata["network_data_format"]["inputs"]["image"]["num_channels"])

    @property
    def classes(self) -> int:
        """Classes of the network, background included."""
        return len(self.metadata["network_data_format"]["outputs"]["pred"]["channel_def"])

    @property
    def is_photo(self) -> bool:
        """Whether it takes photographs."""
        return self.task.image == PHOTOGRAPH

    @property
    def modality(self) -> str | None:
        """DICOM modality of its images, if it names one."""
        return self.metadata["network_data_format"]["inputs"]["image"].get("modality") or None

    @cached_property
    def task(self) -> Task:
        """The task that ``convformer_task`` names; without a known one a generic task, and a warning.

        Raises:
            InputRefused: ``BUNDLE_UNUSABLE`` if the network has other outputs than the task has structures.
        """
        channels = self.metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        names = {int(index): str(name) for index, name in channels.items() if int(index) > 0}
        where = self.root / "configs" / "metadata.json"
        try:
            task = get_task(str(self.metadata.get(TASK_KEY, "")))
        except ValueError as error:
            logger.warning("%s: %r names no known task, so sizes are measured and no more: %s", where, TASK_KEY, error)
            return generic_task(names, photograph=self.channels == 3)
        if set(names) != {label.index for label in task.labels}:
            raise InputRefused(
                RefusalCode.BUNDLE_UNUSABLE,
                f"{where}: the task {task.name} has {len(task.labels)} structures, channel_def {len(names)}; correct "
                f"{TASK_KEY!r}",
            )
        return task

    def check_kind(self, path: Path, seen: Glance, force_modality: bool = False) -> None:
        """Refuses an image of another kind or modality, and names the bundle that takes it.

        Args:
            path: of the image.
            seen: what a look at it showed.
            force_modality: take any modality.

        Raises:
            InputRefused: ``WRONG_KIND`` or ``WRONG_MODALITY``.
        """
        if seen.image is not None and self.task.image not in (None, seen.image):
            what = f"is a {seen.image}, and {self.name} takes {self.task.image}s"
            instead = f"; {self._wanted()}" if seen.grey else _others(seen)
            raise InputRefused(RefusalCode.WRONG_KIND, f"{path} {what}{instead}")
        modality = None if force_modality or seen.image != VOLUME else self.task.modality
        if modality and seen.modalities and modality not in seen.modalities:
            found = " and ".join(sorted(seen.modalities)) + (f" by its {seen.by}" if seen.by else "")
            raise InputRefused(
                RefusalCode.WRONG_MODALITY,
                f"{path} holds {found}, and {self.name} takes {modality}{_others(seen)}, or --force-modality",
            )

    def _wanted(self) -> str:
        """What to give instead of a grey picture, which no bundle for photographs takes either."""
        units = ", in Hounsfield units" if self.task.modality == "CT" else ""
        return f"give the {self.task.modality or 'image'} as NIfTI or DICOM{units}"

    @property
    def labels(self) -> tuple[Label, ...]:
        """The structures."""
        return self.task.labels

    def has(self, config: str) -> bool:
        """Whether there is a config of that name (without ``.json``)."""
        return self.path(config).is_file()

    def path(self, config: str) -> Path:
        """The file of a config."""
        return self.root / "configs" / f"{config}.json"

    def read(self, config: str) -> Any:
        """Reads a config as it stands.

        Raises:
            InputRefused: ``BUNDLE_UNUSABLE`` if it is missing or not JSON.
        """
        return _read_json(self.path(config))

    def get(
        self,
        ids: str | Sequence[str],
        config: str | Sequence[str] = "inference",
        overrides: Mapping[str, Any] | None = None,
    ) -> Any:
        """Instantiates parts of a config.

        Args:
            ids: what to instantiate, e.g. ``network_def``; or several ids, whose objects then refer to each other as
                they do in the config, e.g. ``["preprocessing", "native_labels"]``.
            config: name of a file in ``configs``, without ``.json``, or several, each an overlay on those before.
            overrides: values by id that replace the config's own first, e.g. ``{"image_keys": ["image", "label"]}``.

        Returns:
            The object, or for several ids a dict of them.

        Raises:
            ValueError: if the config, an id or an override's id does not exist.
        """
        from monai.bundle import ConfigParser

        names = [config] if isinstance(config, str) else list(config)
        for name in names:
            if not self.has(name):
                raise ValueError(f"config must name a file of {self.root / 'configs'}, got {name!r}")
        parser = ConfigParser(self.read(names[0]))
        for overlay in names[1:]:
            parser.update(self.read(overlay))
        parser["_meta_"] = self.metadata
        # As a Path: the parser would take characters such as "$" and "@" in a text for its own.
        changes = {"bundle_root": self.root, **(overrides or {})}
        keys = [ids] if isinstance(ids, str) else list(ids)
        for key in (*changes, *keys):
            if key not in parser:
                raise ValueError(f"{' with '.join(names)} of {self.root} has no id {key!r}")
        parser.update(changes)
        parts = {key: parser.get_parsed_content(key) for key in keys}
        return parts[ids] if isinstance(ids, str) else parts


def _read_json(path: Path) -> Any:
    """Reads a config.

    Raises:
        InputRefused: ``BUNDLE_UNUSABLE`` if it is missing or not JSON.
    """
    if not path.is_file():
        refuse_no_file(path, "get the bundle again", RefusalCode.BUNDLE_UNUSABLE)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputRefused(RefusalCode.BUNDLE_UNUSABLE, f"{path} cannot be read as JSON: {error}") from error


def _others(seen: Glance) -> str:
    """The end of a refusal: what takes such an image."""
    return f"; use {fitting_bundles(seen) or 'another bundle'}"


def fitting_bundles(seen: Glance) -> str:
    """The shipped bundles that take such an image, as options of the command line; empty if none does."""
    fitting = []
    for name in BUNDLES:
        try:
            task = Bundle(name).task
        except InputRefused:
            continue
        modality = task.modality if task.image == VOLUME else None
        if task.image == seen.image and (not seen.modalities or modality in seen.modalities):
            fitting.append(f"-b {name}")
    return " or ".join(fitting)


def _named(name: str) -> Path:
    """Finds a bundle by its short name."""
    package = Path(__file__).resolve().parent
    chosen = os.environ.get(FOLDER_VARIABLE)
    for folder in [*([Path(chosen)] if chosen else []), package.parent / "bundles", package / INSTALLED]:
        if (folder / BUNDLES[name] / CONFIG).is_file():
            return folder / BUNDLES[name]
    raise InputRefused(
        RefusalCode.BUNDLE_NOT_FOUND,
        f"the bundle {BUNDLES[name]} is not here: install convformer_monai again from its wheel, or set "
        f"{FOLDER_VARIABLE} to the folder that holds it",
    )


def _unzipped(archive: Path, folder: Path) -> Path:
    """Unpacks a bundle; returns its root, which is the archive's, or its only folder."""
    try:
        with zipfile.ZipFile(archive) as content:
            names = [Path(entry.filename) for entry in content.infolist()]
            if any(name.is_absolute() or ".." in name.parts for name in names):
                raise InputRefused(
                    RefusalCode.BUNDLE_UNUSABLE, f"{archive} holds paths that lead out of it; get it again"
                )
            if sum(entry.file_size for entry in content.infolist()) > MAX_UNZIPPED:
                raise InputRefused(
                    RefusalCode.BUNDLE_UNUSABLE, f"{archive} is larger than 4 GiB when unpacked; unpack it first"
                )
            content.extractall(folder)
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputRefused(RefusalCode.BUNDLE_UNUSABLE, f"{archive} cannot be unpacked: {error}") from error
    inner = [path for path in folder.iterdir() if (path / CONFIG).is_file()]
    return inner[0] if len(inner) == 1 and not (folder / CONFIG).is_file() else folder


def component(
    bundle_root: object,
    config: str | Sequence[str],
    id: str | Sequence[str],
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """Instantiates parts of a bundle's config for another config; see :meth:`Bundle.get`.

    Args:
        bundle_root: folder of the bundle; the part sees it as its own ``bundle_root``.
        config: as there.
        id: as ``ids`` there.
        overrides: as there.
    """
    return Bundle(str(bundle_root)).get(id, config, overrides)


def task_of(bundle_root: object) -> Task:
    """The task of a bundle, for its configs.

    Args:
        bundle_root: folder of the bundle.
    """
    return Bundle(str(bundle_root)).task


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
        InputRefused: if the file is missing, not the expected one, or does not fit the network.
    """
    import torch

    file = Path(str(path))
    if not file.is_file():
        refuse_no_file(file, "give the bundle's root with --bundle_root", RefusalCode.WEIGHTS_NOT_FOUND)
    if sha256 is not None and not isinstance(sha256, str):
        raise InputRefused(RefusalCode.WEIGHTS_HASH, f"weights_sha256 must be a text, got {sha256!r}")
    if sha256:
        found = file_sha256(file)
        if found != sha256.lower():
            raise InputRefused(
                RefusalCode.WEIGHTS_HASH,
                f"{file} has SHA-256 {found[:12]}..., expected {sha256[:12]}...; fetch the "
                "bundle again, or pass --weights_sha256 '' for weights of your own",
            )
    else:
        logger.warning("%s: no SHA-256 to check it against", file.name)
    try:
        state = torch.load(file, map_location=device, weights_only=True)
    except UNREADABLE as error:
        # torch's own words advise to load what may hold code
        raise InputRefused(
            RefusalCode.WEIGHTS_MISFIT, f"{file} cannot be read as a plain state dict; save network.state_dict()"
        ) from error
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputRefused(RefusalCode.WEIGHTS_MISFIT, f"{file} does not fit the network: {reason}") from error
    if not all(bool(value.isfinite().all()) for value in state.values() if value.is_floating_point()):
        raise InputRefused(RefusalCode.WEIGHTS_MISFIT, f"{file} holds weights that are not finite numbers")
    return network


def save_weights(paths: Sequence[Path], bundle_root: object) -> Path:
    """Puts trained weights into a bundle: ``models/model.pt`` in float16, and its SHA-256 in ``metadata.json``.

    Args:
        paths: files of plain state dicts, e.g. ``best.pt`` of a training run; of several the mean is taken (Wortsman et
            al., "Model soups", ICML 2022), as of a training and what it went on from.
        bundle_root: folder of the bundle; the weights must fit its ``network_def``.

    Returns:
        The file written.

    Raises:
        InputRefused: if a file is missing or does not fit, or the bundle cannot be written to; it is as before then.
    """
    import torch

    bundle = Bundle(str(bundle_root))
    states = [load_weights(bundle.get("network_def"), path).state_dict() for path in paths]
    state = {
        key: torch.stack([one[key].float() for one in states]).mean(0).half() if value.is_floating_point() else value
        for key, value in states[0].items()
    }
    if not all(bool(value.isfinite().all()) for value in state.values()):
        raise InputRefused(RefusalCode.WEIGHTS_MISFIT, f"{paths[0]} holds weights that are too large for float16")
    file, metadata = bundle.weights, bundle.path("metadata")
    parts = file.with_suffix(".part"), metadata.with_suffix(".part")
    try:
        file.parent.mkdir(exist_ok=True)
        torch.save(state, parts[0])
        # as it was written: MONAI's parser takes each # for the separator of an id
        content = {**bundle.read("metadata"), "weights_sha256": file_sha256(parts[0])}
        parts[1].write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
        os.replace(parts[0], file)
        os.replace(parts[1], metadata)
    except (OSError, RuntimeError) as error:  # the second is what torch raises
        reason = " ".join(str(error).split())[:200]
        raise InputRefused(RefusalCode.CANNOT_WRITE, f"{file} cannot be written: {reason}; copy the bundle") from error
    finally:
        for part in parts:
            with contextlib.suppress(OSError):
                part.unlink()
    logger.info("%s: %.1f MB, SHA-256 %s", file, file.stat().st_size / 1e6, content["weights_sha256"])
    return file
