"""DICOM with known truth: series and enhanced images of any volume, or of one whose value tells each voxel's place.

Make datasets, change them to plant a fault, then save them:

    stack = SliceStack.regular(angles=(10, 20, 30))
    datasets = linear_series(stack, modality="CT")
    del datasets[3]
    save_series(datasets, "ct_without_slice_4")
"""

from convformer_monai.phantoms.dicom.enhanced import enhanced_image, linear_enhanced
from convformer_monai.phantoms.dicom.files import save_dataset, save_series
from convformer_monai.phantoms.dicom.modules import Identity
from convformer_monai.phantoms.dicom.series import classic_series, linear_series, localizer
from convformer_monai.phantoms.dicom.stack import SliceStack, linear_value

__all__ = [
    "Identity",
    "SliceStack",
    "classic_series",
    "enhanced_image",
    "linear_enhanced",
    "linear_series",
    "linear_value",
    "localizer",
    "save_dataset",
    "save_series",
]
