"""The truth of the head phantom: where the blood is, and how much, as formulas in patient millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from convformer_monai.phantoms.cardiac_anatomy import Array
from convformer_monai.phantoms.head_ct.bleeds import (
    KINDS,
    Bleed,
    Epidural,
    Intraparenchymal,
    Intraventricular,
    Subdural,
)
from convformer_monai.phantoms.head_ct.vault import Vault
from convformer_monai.phantoms.head_ct.ventricles import Ventricle, midline_shift
from convformer_monai.tasks.hemorrhage import HEMORRHAGE

ORIGIN = np.array([0.0, 0.0, 15.0])  # the middle of the grid in the head's frame, mm: from the skull base to the vertex
# where lobar bleeds sit: |x|, y, z of the middle, mm
_LOBES = ((29.0, -40.0, 26.0), (31.0, 34.0, 39.0), (30.0, 2.0, 42.0))


@dataclass(frozen=True)
class HeadAnatomy:
    """A head and its bleeds, as formulas; the truth of a head CT phantom.

    Frame of the head, mm: x to the patient's left, y to posterior, z to superior, origin between the thalami; the
    scanner's origin is 15 mm above it.

    Attributes:
        vault: inner surface of the skull, bone and scalp.
        ventricles: the left and the right lateral ventricle.
        bleeds: the blood, each kind at most once, apart from each other.
        edema: width of the swelling around an intraparenchymal bleed, mm.
        atrophy: half width of the sulci at the surface, mm; grows with age.
        shift: shift of the midline towards the left, mm.
        pose: how the head lies in the scanner: degrees about R, A and S, in this order.
        detail_seed: seed of what is not truth: gyri, texture, small calcifications.
    """

    vault: Vault = field(default_factory=Vault)
    ventricles: tuple[Ventricle, Ventricle] = (Ventricle(1), Ventricle(-1))
    bleeds: tuple[Bleed, ...] = ()
    edema: float = 8.0
    atrophy: float = 0.9
    shift: float = 0.0
    pose: tuple[float, float, float] = (0.0, 0.0, 0.0)
    detail_seed: int = 0

    @classmethod
    def sample(cls, seed: int, bleeds: Sequence[str] = ("intraparenchymal",)) -> HeadAnatomy:
        """Draws a plausible adult head with bleeds of the given kinds; the head is the same whatever the bleeds.

        Raises:
            ValueError: a kind is unknown or given twice.
        """
        if isinstance(bleeds, str) or not set(bleeds) <= set(KINDS) or len(set(bleeds)) < len(bleeds):
            raise ValueError(f"bleeds must be different ones of {', '.join(KINDS)}, got {bleeds!r}")
        rng = np.random.default_rng([seed, 10])
        size = rng.uniform(0.97, 1.04)
        vault = Vault(
            width=size * rng.uniform(65, 70),
            length=size * rng.uniform(80, 86),
            height=size * rng.uniform(68, 72),
            thickness=rng.uniform(5.5, 7.5),
            scalp=rng.uniform(4.0, 6.5),
            phase=rng.uniform(0, 2 * np.pi),
        )
        age = rng.uniform(0, 1)
        pose = (rng.normal(0, 3), rng.normal(0, 2), rng.normal(0, 4))
        detail_seed = int(rng.integers(2**31))
        side = int(rng.choice([-1, 1]))  # of the bleed; a subdural one lies on the other side
        wide = 0.75 + 0.6 * age + rng.uniform(0, 0.15)
        edema = rng.uniform(6.0, 11.0)
        brain_bleed = _intraparenchymal(side, np.random.default_rng([seed, 11]))
        crescent = _subdural(vault, -side, np.random.default_rng([seed, 12]))
        lens = _epidural(vault, side, np.random.default_rng([seed, 14]))
        pushed = {side: 0.6, -side: 1.0} if "intraparenchymal" in bleeds else {side: 1.0, -side: 1.0}
        shift = 0.0
        if "intraparenchymal" in bleeds:
            shift -= side * 0.06 * brain_bleed.volume_ml()
        if "subdural" in bleeds:
            shift += side * 0.45 * crescent.thickness
            pushed[-side] *= 0.6
        left, right = (Ventricle(s, size=wide * pushed[s], shift=shift) for s in (1, -1))
        pools = _intraventricular((left, right), side, np.random.default_rng([seed, 13]))
        all_bleeds: dict[str, Bleed] = dict(zip(KINDS, (brain_bleed, crescent, pools, lens), strict=True))
        return cls(
            vault=vault,
            ventricles=(left, right),
            bleeds=tuple(all_bleeds[kind] for kind in KINDS if kind in bleeds),
            edema=edema,
            atrophy=0.5 + 0.7 * age,
            shift=shift,
            pose=pose,
            detail_seed=detail_seed,
        )

    def to_frame(self, points: Array) -> Array:
        """Turns patient points, RAS mm, (..., 3) into the head's frame (3, ...)."""
        matrix = Rotation.from_euler("xyz", self.pose, degrees=True).as_matrix()
        r, a, s = np.moveaxis(np.asarray(points) @ matrix, -1, 0)  # a rotation: this applies its inverse
        return np.stack([-r + ORIGIN[0], -a + ORIGIN[1], s + ORIGIN[2]])

    def label(self, points: Array) -> NDArray[np.uint8]:
        """The true label at any points of the patient.

        Args:
            points: (..., 3) in RAS mm.

        Returns:
            (...): 1 where blood is, else 0.
        """
        frame = self.to_frame(np.asarray(points, dtype=np.float64))
        return self.label_in_frame(frame.reshape(3, -1)).reshape(frame.shape[1:])

    def label_in_frame(self, frame: Array) -> NDArray[np.uint8]:
        """The true label at points (3, N) of the head's frame."""
        blood = np.zeros(frame.shape[1], dtype=bool)
        for bleed in self.bleeds:
            blood |= bleed.distance(frame) < 0
        return np.where(blood, HEMORRHAGE.labels[0].index, 0).astype(np.uint8)

    def volumes_ml(self) -> dict[str, float]:
        """True volume of each bleed, mL."""
        return {bleed.kind: bleed.volume_ml() for bleed in self.bleeds}

    def displaced(self, x: Array, y: Array, z: Array) -> Array:
        """Distance x from the displaced midline, mm."""
        return np.asarray(x - midline_shift(self.shift, y, z))


def _intraparenchymal(side: int, rng: np.random.Generator) -> Intraparenchymal:
    """Two of three lie in the basal ganglia, the rest in a lobe."""
    size = rng.uniform(0.85, 1.1)
    if rng.random() < 0.67:
        x, y, z = 31.5, rng.uniform(-4, 4), rng.uniform(4, 12)
        semi_axes = 10.5 * size, 19.0 * size, 17.0 * size
        yaw = -0.2 * side
    else:
        x, y, z = _LOBES[rng.integers(len(_LOBES))]
        semi_axes = 12.0 * size, 15.0 * size, 12.5 * size
        yaw = rng.uniform(-0.5, 0.5)
    share = rng.dirichlet(np.full(5, 2.0)) * rng.uniform(0.45, 0.6)
    lobes = tuple(
        (degree, float(amplitude * rng.choice([-1, 1])), tuple(float(v) for v in rng.normal(size=3)))
        for degree, amplitude in zip((2, 3, 5, 7, 10), share, strict=True)
    )
    return Intraparenchymal((side * x, y, z), semi_axes, yaw, lobes)  # type: ignore[arg-type]


def _subdural(vault: Vault, side: int, rng: np.random.Generator) -> Subdural:
    return Subdural(
        vault,
        side,
        thickness=rng.uniform(7.5, 13.0),
        middle=(rng.uniform(-0.15, 0.25), rng.uniform(0.38, 0.52)),
        extent=(rng.uniform(0.95, 1.15), rng.uniform(0.52, 0.62)),
    )


def _epidural(vault: Vault, side: int, rng: np.random.Generator) -> Epidural:
    """Above the temple, between the skull base and the lobar bleeds."""
    return Epidural(
        vault,
        side,
        thickness=rng.uniform(11.0, 19.0),
        middle=(rng.uniform(-0.15, 0.25), rng.uniform(0.34, 0.4)),
        extent=rng.uniform(0.38, 0.46),
    )


def _intraventricular(pair: tuple[Ventricle, Ventricle], side: int, rng: np.random.Generator) -> Intraventricular:
    """Both back horns, more on the side away from the brain's bleed, which takes the room."""
    levels = tuple(rng.uniform(42, 46) if v.side == side else rng.uniform(24, 38) for v in pair)
    return Intraventricular(pair, levels)
