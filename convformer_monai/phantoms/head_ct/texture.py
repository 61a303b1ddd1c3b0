"""Smooth random fields, fixed in the patient: sums of waves, so that any grid can sample them."""

from __future__ import annotations

import numpy as np

from convformer_monai.phantoms.cardiac_anatomy import Array


def waves(points: Array, seed: int, wavelength: float, *, count: int = 8) -> Array:
    """A field of mean 0 and variance 1.

    Args:
        points: (3, N), mm.
        seed: another seed is another field.
        wavelength: about the distance from one crest to the next, mm.
        count: of the plane waves, in random directions.

    Returns:
        (N,); its gradient has a root mean square of about 2 pi / wavelength.
    """
    rng = np.random.default_rng([seed, 21])
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    vectors = (direction * 2 * np.pi / wavelength * rng.uniform(0.75, 1.25, (count, 1))).astype(points.dtype)
    field = np.zeros(points.shape[1], dtype=points.dtype)
    for vector, phase in zip(vectors, rng.uniform(0, 2 * np.pi, count), strict=True):
        field += np.cos(vector @ points + points.dtype.type(phase))
    return np.asarray(field * points.dtype.type((2 / count) ** 0.5))


def sheets(points: Array, seed: int, distance: float) -> Array:
    """Approximate distance, mm, (N,), from winding sheets that are about a given distance apart."""
    return np.abs(waves(points, seed, 2 * distance)) * (distance / np.pi)
