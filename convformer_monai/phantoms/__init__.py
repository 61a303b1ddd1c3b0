"""Images with exactly known truth, for the demo and the tests.

The anatomy is a set of formulas in patient millimetres; a grid of any spacing, size and orientation only samples it. So
the truth survives resampling, and the volumes are integrals, not voxel counts. Each kind of phantom has its anatomy
(the truth), its looks (the painter) and one public function.
"""

from convformer_monai.phantoms.cardiac import Phantom, cardiac_phantom
from convformer_monai.phantoms.cardiac_anatomy import CardiacAnatomy

__all__ = ["CardiacAnatomy", "Phantom", "cardiac_phantom"]
