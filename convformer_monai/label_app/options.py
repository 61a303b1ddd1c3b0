"""What a label server is started with: the ``--conf`` pairs of MONAI Label, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from convformer_monai.bundle import BUNDLES, Bundle
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.label_app.versions import Versions
from convformer_monai.tasks.task import Label

__all__ = ["LabelOptions", "is_address", "read_options"]

WORK = "convformer_label"


@dataclass(frozen=True)
class LabelOptions:
    """Options of a label server.

    Attributes:
        bundle: the bundle; only read.
        work: folder for what the server makes: versions of the weights, trainings, copies of images for viewers.
        device: see :func:`convformer_monai.segmenter.choose_device`.
    """

    bundle: Bundle
    work: Path
    device: str

    @property
    def name(self) -> str:
        """The bundle's name, which is the model's name in viewers."""
        return self.bundle.root.resolve().name

    @property
    def labels(self) -> tuple[Label, ...]:
        """What it segments."""
        return self.bundle.labels

    @property
    def is_photo(self) -> bool:
        """Whether it takes photographs."""
        return self.bundle.is_photo

    @property
    def versions(self) -> Versions:
        """The weights."""
        return Versions(self.work / "versions")


def is_address(studies: str) -> bool:
    """Tells whether the studies lie in a DICOMweb server."""
    return studies.startswith(("http://", "https://"))


def read_options(conf: Mapping[str, str], studies: str) -> LabelOptions:
    """Reads the options.

    Args:
        conf: ``bundle`` (needed), ``work`` and ``device``.
        studies: folder or DICOMweb address; the folder also holds ``convformer_label`` if no ``work`` is given.

    Raises:
        InputRefused: if the bundle is missing or is none.
    """
    bundle = conf.get("bundle")
    if not bundle:
        raise InputRefused(
            RefusalCode.OPTION, f"--conf bundle is missing: give {', '.join(BUNDLES)}, or the folder of a bundle"
        )
    opened = Bundle(bundle)
    folder = Path.cwd() if is_address(studies) else Path(studies)
    work = Path(conf["work"]) if conf.get("work") else folder / WORK / opened.root.resolve().name
    return LabelOptions(opened, work.expanduser().absolute(), conf.get("device") or "auto")
