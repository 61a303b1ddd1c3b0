"""Cost against size: slices of a volume, tokens of the attention, cases of a folder. One process for each size."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from convformer_monai.benchmarks.csa import Case, peak_of
from convformer_monai.benchmarks.measures import median_seconds
from convformer_monai.benchmarks.processes import in_own_process, run_python
from convformer_monai.benchmarks.start_up import seconds_of, segment_arguments
from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom

__all__ = ["growth"]

SLICES, GRIDS, CASES = (10, 20, 40, 80, 160), (16, 32, 48, 64), (10, 20, 40, 80, 160)
HEADS, HEAD_DIM = 8, 64


def growth(folder: Path, repeats: int, shrink: int = 1) -> dict[str, list[dict[str, Any]]]:
    """Measures all three.

    Args:
        folder: for images and results.
        repeats: of the attention, of which the medians are given.
        shrink: of the images, and of the number of sizes, to try the program.
    """
    count = 5 if shrink == 1 else 2
    return {
        "slices": [_slices(folder, number, shrink) for number in SLICES[:count]],
        "tokens": [row for size in GRIDS[:count] for row in _tokens(size // min(shrink, 4), repeats)],
        "cases": [_cases(folder, number, shrink) for number in CASES[:count]],
    }


def _slices(folder: Path, number: int, shrink: int) -> dict[str, Any]:
    shape = (216 // shrink, 256 // shrink, number)
    image, _ = cardiac_phantom(shape=shape, spacing=(1.5 * shrink, 1.5 * shrink, 10.0 * 10 / number)).save(
        folder, f"heart{number}"
    )
    ran = run_python(segment_arguments(image, folder / f"heart{number}"))
    network = seconds_of(folder / f"heart{number}")["network"]
    return {"size": number, "seconds": network, "processor_seconds": ran.processor_seconds, "peak_mb": ran.megabytes}


def _tokens(side: int, repeats: int) -> list[dict[str, Any]]:
    times = in_own_process(_token_times, side, repeats)
    return [
        {
            "formulation": name,
            "size": side * side,
            "seconds": seconds,
            "peak_mb": in_own_process(peak_of, name, side, HEADS, HEAD_DIM) / 1e6,
        }
        for name, seconds in times.items()
    ]


def _token_times(side: int, repeats: int) -> dict[str, float]:
    import torch

    with torch.inference_mode():
        return median_seconds(Case(side, HEADS, HEAD_DIM).contestants, repeats)


def _cases(folder: Path, number: int, shrink: int) -> dict[str, Any]:
    photos = folder / f"photos{number}"
    photos.mkdir()
    image, *_ = dermoscopy_phantom(size=(1024 // shrink, 768 // shrink)).save(folder, "lesion")
    for index in range(number):
        shutil.copyfile(image, photos / f"lesion{index:04d}{image.suffix}")
    ran = run_python(segment_arguments(photos, folder / f"results{number}", "dermoscopy"))
    return {
        "size": number,
        "seconds": ran.seconds,
        "processor_seconds": ran.processor_seconds,
        "peak_mb": ran.megabytes,
    }
