"""Strict readers: a file becomes a volume with trustworthy geometry, or is refused."""

from convformer_monai.readers.nifti import NiftiReader

__all__ = ["NiftiReader"]
