"""CT of the head without contrast agent, with bleeds of exactly known volume."""

from convformer_monai.phantoms.head_ct.anatomy import HeadAnatomy
from convformer_monai.phantoms.head_ct.bleeds import KINDS, Epidural, Intraparenchymal, Intraventricular, Subdural
from convformer_monai.phantoms.head_ct.phantom import HeadCtPhantom, head_ct_phantom

__all__ = [
    "KINDS",
    "Epidural",
    "HeadAnatomy",
    "HeadCtPhantom",
    "Intraparenchymal",
    "Intraventricular",
    "Subdural",
    "head_ct_phantom",
]
