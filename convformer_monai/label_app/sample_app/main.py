"""The sample app `convformer` of MONAI Label; all of it is in the package convformer_monai."""

from convformer_monai.label_app.app import ConvFormerApp

__all__ = ["ConvFormerApp"]
