"""Strict readers: a file or folder becomes an image with trustworthy geometry, or is refused.

What needs torch and MONAI is imported when it is first used, so that folders can be searched without them.
"""

from typing import TYPE_CHECKING, Any

from convformer_monai.readers.cases import Case, find_cases, stem

if TYPE_CHECKING:
    from convformer_monai.readers.read import SeriesReader, read_series
    from convformer_monai.readers.series import Frame, ImageSeries

__all__ = ["Case", "Frame", "ImageSeries", "SeriesReader", "find_cases", "read_series", "stem"]


def __getattr__(name: str) -> Any:
    """Imports what is heavy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from convformer_monai.readers import read, series

    return getattr(read if hasattr(read, name) else series, name)
