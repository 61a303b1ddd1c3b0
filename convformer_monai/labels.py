"""The structures that each bundle segments: index, names, colour and SNOMED CT code; the only such table."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BACKGROUND", "CARDIAC", "LABELS", "Label"]


@dataclass(frozen=True)
class Label:
    """One structure.

    Attributes:
        index: its value in the masks.
        name: short name, as in file and column names.
        long_name: name for people.
        colour: red, green, blue, 0-255.
        snomed: SNOMED CT code, or ``None`` for the background.
    """

    index: int
    name: str
    long_name: str
    colour: tuple[int, int, int]
    snomed: str | None = None


BACKGROUND = Label(0, "background", "background", (0, 0, 0))
CARDIAC = (
    Label(1, "RV", "right ventricle cavity", (65, 130, 220), "53085002"),
    Label(2, "MYO", "left ventricular myocardium", (90, 190, 100), "74281007"),
    Label(3, "LV", "left ventricle cavity", (220, 65, 65), "87878005"),
)
LABELS: dict[str, tuple[Label, ...]] = {"cardiac_mri_convformer_segmentation": CARDIAC}
