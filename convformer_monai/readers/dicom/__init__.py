"""DICOM in: one series of CT, MR or PET slices as one volume or cine with its exact geometry, or a refusal.

What needs torch and MONAI is imported when it is first used, so that headers can be looked at without them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convformer_monai.readers.dicom.read import read_dicom, source_datasets

__all__ = ["read_dicom", "source_datasets"]


def __getattr__(name: str) -> Any:
    """Imports what is heavy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from convformer_monai.readers.dicom import read

    return getattr(read, name)
