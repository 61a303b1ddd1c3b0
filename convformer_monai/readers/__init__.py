"""Strict readers: a file or folder becomes an image with trustworthy geometry, or is refused."""

from convformer_monai.readers.cases import Case, find_cases, stem
from convformer_monai.readers.read import StudyReader, read_study
from convformer_monai.readers.study import Frame, Study

__all__ = ["Case", "Frame", "Study", "StudyReader", "find_cases", "read_study", "stem"]
