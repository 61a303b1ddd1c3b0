"""Images with exactly known truth, for the demo and the tests.

The anatomy is a set of formulas in patient millimetres; a grid of any spacing, size and orientation only samples it. So
the truth survives resampling, and the volumes are integrals, not voxel counts. Each kind of phantom has its anatomy
(the truth), its looks (the painter) and one public function.
"""

from convformer_monai.phantoms.cardiac import Phantom, cardiac_phantom
from convformer_monai.phantoms.cardiac_anatomy import CardiacAnatomy
from convformer_monai.phantoms.dermoscopy import DermoscopyPhantom, LesionOutline, dermoscopy_phantom
from convformer_monai.phantoms.head_ct import HeadAnatomy, HeadCtPhantom, head_ct_phantom

__all__ = [
    "CardiacAnatomy",
    "DermoscopyPhantom",
    "HeadAnatomy",
    "HeadCtPhantom",
    "LesionOutline",
    "Phantom",
    "cardiac_phantom",
    "dermoscopy_phantom",
    "head_ct_phantom",
]
