"""ConvFormer (Lin et al., MICCAI 2023, arXiv 2309.05674) as MONAI network components and trained MONAI bundles."""

__version__ = "0.2.0"
