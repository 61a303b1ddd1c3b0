"""The surfaces of the head at a list of points, worked out once for all painters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convformer_monai.phantoms.cardiac_anatomy import Array
from convformer_monai.phantoms.head_ct.anatomy import HeadAnatomy
from convformer_monai.phantoms.head_ct.vault import base_thickness, floor_height


@dataclass(frozen=True)
class Surfaces:
    """Distances at points (N,), mm.

    Attributes:
        rho: from the vault's centre.
        radius: of the vault's inner surface in the direction of each point.
        bone: thickness of the vault's bone in this direction.
        muscle: thickness of the muscle outside it.
        base: thickness of the base's bone.
        below: depth below the brain's side of the skull base, negative above.
        cavity: approximate distance outside of the cavity of the skull, negative inside.
        skin: distance outside of the skin, negative inside.
    """

    rho: Array
    radius: Array
    bone: Array
    muscle: Array
    base: Array
    below: Array
    cavity: Array
    skin: Array

    @classmethod
    def of(cls, anatomy: HeadAnatomy, frame: Array) -> Surfaces:
        """At points (3, N) of the head's frame."""
        vault = anatomy.vault
        x, y, z = frame
        rho, direction = vault.polar(frame)
        radius, bone = vault.radius(direction), vault.bone(direction)
        scale = vault.width / 67  # the base is drawn for a head of this width
        below = scale * floor_height(x / scale, y / scale) - z
        # vertical distance to distance: the base is nowhere steeper than this for long
        return cls(
            rho=rho,
            radius=radius,
            bone=bone,
            muscle=vault.muscle(direction),
            base=base_thickness(x / scale, y / scale),
            below=below,
            cavity=np.maximum(rho - radius, 0.8 * below),
            skin=rho - radius - bone - vault.soft(direction),
        )

    def take(self, where: Array) -> Surfaces:
        """At some of the points."""
        return Surfaces(**{name: values[where] for name, values in vars(self).items()})
