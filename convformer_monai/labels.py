"""The structures that each bundle segments: index, names, colour and DICOM codes; the only such table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["BACKGROUND", "CARDIAC", "DERMOSCOPY", "HEMORRHAGE", "LABELS", "Code", "Label", "table_of"]


@dataclass(frozen=True)
class Code:
    """A coded concept (DICOM PS3.3 section 8).

    Attributes:
        scheme: coding scheme designator, e.g. ``SCT`` (SNOMED CT), ``LN`` (LOINC), ``DCM``, ``UCUM``.
        value: the code.
        meaning: what it means, for people; up to 64 characters.
    """

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Label:
    """One structure.

    Attributes:
        index: its value in the masks, and its segment number in DICOM SEG; 1, 2, ... in a bundle's table.
        name: short name, as in file and column names.
        long_name: name for people; the segment's label in DICOM SEG.
        colour: red, green, blue, 0-255.
        type: segmented property type, what it is; ``None`` for the background and for structures without a code.
        category: segmented property category (DICOM CID 7150).
        region: anatomic region in which it lies, where the type does not say.
    """

    index: int
    name: str
    long_name: str
    colour: tuple[int, int, int]
    type: Code | None = None
    category: Code | None = None
    region: Code | None = None

    @property
    def snomed(self) -> str | None:
        """SNOMED CT code of the type."""
        return self.type.value if self.type is not None and self.type.scheme == "SCT" else None


ANATOMICAL = Code("SCT", "123037004", "Anatomical Structure")
ABNORMAL = Code("SCT", "49755003", "Morphologically Abnormal Structure")

BACKGROUND = Label(0, "background", "background", (0, 0, 0))
CARDIAC = (
    Label(
        1,
        "RV",
        "right ventricle cavity",
        (65, 130, 220),
        Code("SCT", "53085002", "Right ventricle"),
        ANATOMICAL,
    ),
    Label(
        2,
        "MYO",
        "left ventricular myocardium",
        (90, 190, 100),
        Code("SCT", "74281007", "Myocardium"),
        ANATOMICAL,
    ),
    Label(
        3,
        "LV",
        "left ventricle cavity",
        (220, 65, 65),
        Code("SCT", "87878005", "Left ventricle"),
        ANATOMICAL,
    ),
)
DERMOSCOPY = (
    Label(
        1,
        "lesion",
        "skin lesion",
        (240, 200, 60),
        Code("SCT", "95324001", "Skin lesion"),
        ABNORMAL,
        Code("SCT", "39937001", "Skin"),
    ),
)
HEMORRHAGE = (
    Label(
        1,
        "hemorrhage",
        "intracranial hemorrhage",
        (220, 65, 65),
        Code("SCT", "50960005", "Hemorrhage"),
        ABNORMAL,
        Code("SCT", "12738006", "Brain"),
    ),
)
LABELS: dict[str, tuple[Label, ...]] = {
    "cardiac_mri_convformer_segmentation": CARDIAC,
    "dermoscopy_convformer_segmentation": DERMOSCOPY,
    "ct_hemorrhage_convformer_segmentation": HEMORRHAGE,
}
OTHER_COLOURS = ((220, 65, 65), (90, 190, 100), (65, 130, 220), (230, 180, 60), (160, 90, 200))


def table_of(bundle_name: str, metadata: Mapping[str, Any]) -> tuple[Label, ...]:
    """Returns the structures of a bundle; of one that is none of ours by the names in its metadata, without codes.

    Args:
        bundle_name: name of its folder.
        metadata: its ``metadata.json``.
    """
    if bundle_name in LABELS:
        return LABELS[bundle_name]
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    return tuple(
        Label(int(index), str(name), str(name), OTHER_COLOURS[int(index) % len(OTHER_COLOURS)])
        for index, name in channels.items()
        if int(index) > 0
    )
