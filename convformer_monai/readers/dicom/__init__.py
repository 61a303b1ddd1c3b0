"""DICOM in: one series of CT, MR or PET slices as one volume or cine with its exact geometry, or a refusal."""

from convformer_monai.readers.dicom.read import read_dicom, source_datasets

__all__ = ["read_dicom", "source_datasets"]
