"""``convformer-monai benchmark all``: one run that measures everything on one machine, as JSON, page and plot."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from convformer_monai.benchmarks.engines import engines
from convformer_monai.benchmarks.growth import growth
from convformer_monai.benchmarks.large import large
from convformer_monai.benchmarks.machine import machine
from convformer_monai.benchmarks.performance_page import page, plot
from convformer_monai.benchmarks.start_up import start_up
from convformer_monai.benchmarks.warm import warm
from convformer_monai.datalist import read_cases
from convformer_monai.outputs.atomic import write_text
from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom, head_ct_phantom

__all__ = ["run"]

logger = logging.getLogger(__name__)

LISTS = {"cardiac": ("acdc", "val", 20), "dermoscopy": ("isic2017", "val", 40), "hemorrhage": ("ich", "heads", 5)}
FEW = 2  # cases, to try the program


def run(output: Path, data: Path | None, repeats: int, shrink: int = 1) -> None:
    """Measures, and writes ``output.json``, ``output.md`` and ``output.svg`` in place of such files.

    Args:
        output: path of the files, without ending.
        data: folder with ``acdc``, ``isic2017`` and ``ich``, each with its datalist.json; what is missing there, or
            ``None``, is replaced by generated images.
        repeats: of each measurement but those of large images, of which the median is given.
        shrink: of all sizes, to try the program.

    Raises:
        InputRefused: if the files cannot be written, or a datalist cannot be read.
    """
    write_text(
        output.with_name(output.name + ".md"), "Being measured.\n", overwrite=True
    )  # refused now, not at the end
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = {bundle: _images(bundle, data, folder, shrink) for bundle in LISTS}
        steps: dict[str, Callable[[], Any]] = {
            "machine": machine,
            "start_up": lambda: start_up(images["cardiac"][1][0], folder, repeats),
            "warm": lambda: [
                {"images": kind, **warm(bundle, paths, repeats)} for bundle, (kind, paths) in images.items()
            ],
            "large": lambda: large(folder, shrink),
            "engines": lambda: {bundle: engines(bundle, paths[0], repeats) for bundle, (_, paths) in images.items()},
            "growth": lambda: growth(folder, repeats, shrink),
        }
        found: dict[str, Any] = {"repeats": repeats}
        for name, measure in steps.items():
            logger.info("measuring: %s", name)
            found[name] = measure()
    write_text(output.with_name(output.name + ".json"), json.dumps(found, indent=1) + "\n", overwrite=True)
    plot(found["growth"], output.with_name(output.name + ".svg"))
    write_text(output.with_name(output.name + ".md"), page(found, output.name), overwrite=True)


def _images(bundle: str, data: Path | None, folder: Path, shrink: int) -> tuple[str, list[Path]]:
    """Real images of a bundle and what they are, or generated ones."""
    name, part, count = LISTS[bundle]
    count = count if shrink == 1 else FEW
    if data is not None and (data / name / "datalist.json").is_file():
        cases = read_cases(data / name, part, without_labels=True)[:count]
        return f"{name}, {part}", [Path(case["image"]) for case in cases]
    made = folder / bundle
    if bundle == "cardiac":
        shape = (216 // shrink, 256 // shrink, 10)
        image, _ = cardiac_phantom(shape=shape, spacing=(1.5 * shrink, 1.5 * shrink, 10.0)).save(made, "heart")
    elif bundle == "hemorrhage":
        side = 256 // shrink
        image, _ = head_ct_phantom(shape=(side, side, 30), spacing=(0.9 * shrink, 0.9 * shrink, 5.0)).save(made, "head")
    else:
        image, *_ = dermoscopy_phantom(size=(1024 // shrink, 768 // shrink)).save(made, "lesion")
    return "generated", [image] * count
