"""``convformer-monai benchmark all``: one run that measures everything on one machine, as JSON, page and plot."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from convformer_monai.benchmarks.engines import PACKAGES, engines
from convformer_monai.benchmarks.files import check_output
from convformer_monai.benchmarks.growth import growth
from convformer_monai.benchmarks.interruption import begins_anew
from convformer_monai.benchmarks.large import large
from convformer_monai.benchmarks.machine import machine
from convformer_monai.benchmarks.performance_page import page, plot
from convformer_monai.benchmarks.start_up import start_up
from convformer_monai.benchmarks.warm import warm
from convformer_monai.datalist import DATALIST, read_cases
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.outputs.atomic import write_text
from convformer_monai.phantoms import cardiac_phantom, dermoscopy_phantom, head_ct_phantom

__all__ = ["run"]

logger = logging.getLogger(__name__)

LISTS = {"cardiac": ("acdc", "val", 20), "dermoscopy": ("isic2017", "val", 40), "hemorrhage": ("ich", "heads", 5)}
FEW = 2  # cases, to try the program


@begins_anew()
def run(output: Path, data: Path | None, repeats: int, shrink: int = 1) -> None:
    """Measures, and writes ``output.json``, ``output.svg`` and ``output.md`` in place of such files.

    The JSON is written after each step, plot and page, which need all of it, at the end.

    Args:
        output: path of the files, without ending.
        data: folder with ``acdc``, ``isic2017`` and ``ich``, each with its datalist.json; what is missing of the three
            is replaced by generated images, as are all with ``None``.
        repeats: of each measurement of which the median is given.
        shrink: of all sizes, to try the program.

    Raises:
        InputRefused: before anything is measured or written, if the files cannot be written, ``data`` holds none of the
            three, a datalist cannot be read, or a package is missing.
    """
    check_output(output, ".json", ".svg", ".md")
    _check_packages()
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = {bundle: _images(bundle, source, folder, shrink) for bundle, source in _sources(data).items()}
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


def _check_packages() -> None:
    """Refuses to go on without those that write ONNX files, if an engine is there that takes them."""
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing and any(find_spec(package) for package in PACKAGES.values()):
        raise InputRefused(
            RefusalCode.MISSING_PACKAGE,
            f"measuring other engines needs {', '.join(missing)}: pip install 'convformer_monai[export]'",
        )


def _sources(data: Path | None) -> dict[str, Path | None]:
    """The folder with the real images of each bundle; None where they are generated."""
    folders = {bundle: None if data is None else data / name for bundle, (name, _, _) in LISTS.items()}
    found = {bundle: folder if folder and (folder / DATALIST).is_file() else None for bundle, folder in folders.items()}
    if data is not None and not any(found.values()):
        names = ", ".join(f"{name}/{DATALIST}" for name, _, _ in LISTS.values())
        raise InputRefused(
            RefusalCode.DATALIST_MISSING,
            f"{data} holds none of {names}; give the folder that does, or leave out --data to measure generated images",
        )
    for bundle, folder in found.items():
        if data is not None and folder is None:
            logger.warning("%s is not there: images are generated instead", data / LISTS[bundle][0] / DATALIST)
    return found


def _images(bundle: str, source: Path | None, folder: Path, shrink: int) -> tuple[str, list[Path]]:
    """Real images of a bundle and what they are, or generated ones."""
    name, part, count = LISTS[bundle]
    count = count if shrink == 1 else FEW
    if source is not None:
        cases = read_cases(source, part, without_labels=True)[:count]
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
