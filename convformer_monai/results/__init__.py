"""Results that other programs read: masks with the geometry of their input."""

from convformer_monai.results.masks import MaskWriter

__all__ = ["MaskWriter"]
