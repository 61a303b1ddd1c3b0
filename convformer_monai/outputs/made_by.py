"""What results follow from, as four hashes: equal ones mean equal results.

The report of a case keeps them, and the status of a case of a cohort; both tell by them whether a case is done.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from convformer_monai.outputs.writer import Options

if TYPE_CHECKING:
    from convformer_monai.segmenter import Segmenter

__all__ = ["made_by", "made_by_segmenter"]


def made_by(
    config_sha256: str,
    weights_sha256: str,
    options: Options,
    input_stamp: str,
    *,
    flips: bool,
    force_modality: bool,
    engine: str,
) -> dict[str, str]:
    """Returns hashes of ``bundle``, ``weights``, ``options`` and ``input``.

    Args:
        config_sha256: see :attr:`convformer_monai.bundle.Bundle.config_sha256`.
        weights_sha256: of the weights.
        options: what to write and how.
        input_stamp: what changes when the image does; see :func:`convformer_monai.readers.file_stamp.file_stamp`.
        flips: see :class:`convformer_monai.segmenter.Segmenter`.
        force_modality: see there.
        engine: see there.
    """
    choices = {**options.recorded(), "flips": flips, "force_modality": force_modality, "network_engine": engine}
    return {
        "bundle": config_sha256,
        "weights": weights_sha256.lower(),
        "options": hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest(),
        "input": input_stamp,
    }


def made_by_segmenter(segmenter: Segmenter, options: Options, input_stamp: str) -> dict[str, str]:
    """Returns what :func:`made_by` does, for a loaded bundle.

    Args:
        segmenter: the loaded bundle.
        options: see there.
        input_stamp: see there.
    """
    return made_by(
        segmenter.config_sha256,
        segmenter.weights_sha256,
        options,
        input_stamp,
        flips=segmenter.flips,
        force_modality=segmenter.force_modality,
        engine=segmenter.engine,
    )
