"""Strict readers: a file or folder becomes an image with trustworthy geometry, or is refused."""

from convformer_monai.readers.cases import Case, find_cases, stem
from convformer_monai.readers.read import SeriesReader, read_series
from convformer_monai.readers.series import Frame, ImageSeries

__all__ = ["Case", "Frame", "ImageSeries", "SeriesReader", "find_cases", "read_series", "stem"]
