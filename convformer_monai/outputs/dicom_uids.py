"""The UIDs of DICOM results: derived from what a result follows from, so that a repeat is the same object.

An archive that is sent the same object twice keeps one. So a result may be made, or sent, again after any interruption.
UIDs are those of pydicom's root with the hash of the sources (PS3.5 annex B allows any below one's own root).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from convformer_monai import __version__

if TYPE_CHECKING:
    from convformer_monai.outputs.writer import Result

__all__ = ["MakeUid", "derived_uids", "random_uids", "seeded_uids"]

MakeUid = Callable[..., str]  # from words that tell what the UID is of
SHAPING = ("seg_type", "phase", "ed", "es", "resample_uneven", "mm_per_pixel")  # options that shape a result


def random_uids(*what: str) -> str:
    """A new UID at each call, whatever it is of."""
    from pydicom.uid import generate_uid

    return str(generate_uid())


def derived_uids(result: Result) -> MakeUid:
    """Makes UIDs that are equal whenever a case is done again in the same way, with the same mask.

    They follow from the source's instances and voxels, the bundle, its version and weights, the options that shape
    results, the version of this package, and the mask: another engine, device or precision may find other pixels, and
    an object of other pixels must have another UID (PS3.5 chapter 9).

    Args:
        result: the case.

    Returns:
        A function of words that tell what the UID is of, as ``make("segmentation", "0")``.
    """
    options = result.options.recorded()
    frames = [frame for phase in result.source.frames for frame in phase]
    sources = [
        result.fingerprint,
        result.mask_hash,
        json.dumps([[frame.sop_instance_uid, frame.number] for frame in frames]),
        *(result.bundle.name, result.bundle.version, str(result.run.get("weights_sha256")), __version__),
        json.dumps({**{name: options[name] for name in SHAPING}, "flips": result.flips}, sort_keys=True),
    ]

    return seeded_uids(*sources)


def seeded_uids(*sources: str) -> MakeUid:
    """Makes UIDs that are equal for equal texts.

    Args:
        sources: what the UIDs follow from.
    """
    from pydicom.uid import generate_uid

    def make(*what: str) -> str:
        return str(generate_uid(entropy_srcs=[*sources, json.dumps(what)]))

    return make
