"""``x_report.html``: a page of a case for a browser, without a server and without a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convformer_monai.measurements.values import UNITS_FOR_PEOPLE, Measurement, readable
from convformer_monai.outputs.atomic import AtomicFiles, write_text
from convformer_monai.outputs.report import make_report
from convformer_monai.outputs.writer import Options, Result, Writer, path_for, register_writer
from convformer_monai.view.assets import need_niivue

if TYPE_CHECKING:
    from convformer_monai.view.page import CaseView, FlagView, PhotoView, Picture, VolumeView

__all__ = ["case_view"]

NUMBERS = 4  # in large letters
PHOTO_PIXELS = 1600  # longer side of a photograph in a page
MOMENT_NAMES = {"ed": "end diastole", "es": "end systole"}


class PageWriter(Writer):
    """``x_report.html``."""

    name = "page"
    suffixes = ("_report.html",)
    order = 80

    def is_asked_for(self, options: Options) -> bool:
        """By ``--report``."""
        return options.report

    def check(self, options: Options) -> None:
        """Refuses without NiiVue."""
        need_niivue()

    def write(self, base: Path, result: Result, files: AtomicFiles) -> list[Path]:
        """Stages the page."""
        from convformer_monai.view.page import make_page

        path = path_for(base, self.suffixes[0])
        write_text(path, make_page(case_view(base.name, result)), files=files)
        return [path]


def case_view(case: str, result: Result) -> CaseView:
    """Gathers what the page of a case shows.

    Args:
        case: name of the case.
        result: the case.
    """
    from convformer_monai.view.page import CaseView

    measurements, task = result.measurements, result.bundle.task
    times = Counter(item.name for item in measurements.items)
    once = [item for item in measurements.items if times[item.name] == 1] or list(measurements.items)
    repeated = [item for item in measurements.items if item not in once]
    photo = _photo(result) if result.series.is_photo else None
    flags, pictures, volume = _volume_parts(result) if photo is None else (_flags(result, {}), [], None)
    empty = ""
    if not result.labels.any():
        empty = f"Nothing was found: the mask is empty{'; ' if task.empty_means else ''}{task.empty_means}."
    return CaseView(
        case=case,
        bundle=result.bundle.name,
        numbers=[_tile(item) for item in once[:NUMBERS]],
        rows=[(item.title, readable(item)) for item in once],
        more=[(f"{item.title}, phase {item.phase}", readable(item)) for item in repeated],
        notes=list(measurements.details.get("notes", ())),
        flags=flags,
        structures=task.labels,
        figures=_figures(result),
        pictures=pictures,
        volume=volume,
        photo=photo,
        provenance=_provenance(result),
        empty=empty,
    )


def _tile(item: Measurement) -> tuple[str, str, str]:
    """Title, value and unit of a number in large letters."""
    unit = UNITS_FOR_PEOPLE.get(item.unit, item.unit)
    value = readable(item).removesuffix(unit).rstrip()
    return item.title, value, unit if value != "undefined" else ""


def _moments(result: Result) -> dict[str, int]:
    """The indices of end diastole and end systole among the phases that are shown."""
    chosen = {moment: result.measurements.details.get(moment, {}).get("phase") for moment in MOMENT_NAMES}
    phases = result.series.phases
    return {moment: phases.index(phase) for moment, phase in chosen.items() if phase in phases}


def _volume_parts(result: Result) -> tuple[list[FlagView], list[Picture], VolumeView | None]:
    """Flags with their places, slices, and the volume for NiiVue."""
    from convformer_monai.measurements.doubt import slice_doubt
    from convformer_monai.outputs.drawing.contours import MARGIN_MM, upright
    from convformer_monai.outputs.drawing.embedding import (
        MOST_BYTES,
        Stored,
        embedded,
        own_type,
        reduction,
        settings_of,
    )
    from convformer_monai.outputs.drawing.slices import draw_slices, window_for
    from convformer_monai.transforms.geometry import slice_axis
    from convformer_monai.view.page import Picture, VolumeView, data_url

    series, labels, task = result.series, result.labels, result.bundle.task
    axis, moments = slice_axis(series.affine, labels.shape[1:]), _moments(result)
    flags = _flags(result, moments)
    likely = result.any_probability
    doubts = None if likely is None else slice_doubt(labels, likely, axis)
    shown = sorted(set(moments.values())) or [0]
    spoken_of: dict[tuple[int, int], list[str]] = {}
    for flag in flags:
        for place in flag.places:
            spoken_of.setdefault(place, []).append(flag.code)
    wanted = {slice for _, slice in spoken_of}
    words = {index: MOMENT_NAMES[moment] for moment, index in moments.items()}
    pictures = []
    for one in draw_slices(series, labels, task, shown, wanted):
        title = f"slice {one.slice + 1}" + (f", {words[one.phase]}" if one.phase in words else "")
        doubt = None if doubts is None else doubts[one.phase][one.slice]
        codes = tuple(spoken_of.get((one.phase, one.slice), ()))
        pictures.append(Picture(one.phase, one.slice, title, data_url(one.png, "image/png"), doubt, codes))
    values, affine = upright(series.image.as_tensor(), series.affine)
    maps, _ = upright(labels, series.affine)
    stored = own_type(values)
    factor = reduction(stored.voxels)
    if stored.voxels.nbytes > MOST_BYTES * factor**2:
        return flags, pictures, None
    margin = None if task.preview.whole_slices else MARGIN_MM
    settings = settings_of(series, maps, affine, window_for(series, task, shown[0]), moments, margin)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image, mask = (embedded(one, spacing, factor) for one in (stored, Stored(maps)))
    return flags, pictures, VolumeView(image, mask, {**settings, "reduced": factor})


def _flags(result: Result, moments: Mapping[str, int]) -> list[FlagView]:
    """The flags, each with the slices that it speaks of."""
    from convformer_monai.measurements.places import places_of
    from convformer_monai.transforms.geometry import slice_axis
    from convformer_monai.view.page import FlagView

    if result.series.is_photo:
        return [FlagView(flag.code, flag.message) for flag in result.measurements.flags]
    axis = slice_axis(result.series.affine, result.labels.shape[1:])
    arguments = (result.labels, axis, result.bundle.task, moments, result.any_probability)
    return [FlagView(flag.code, flag.message, places_of(flag.code, *arguments)) for flag in result.measurements.flags]


def _photo(result: Result) -> PhotoView:
    """The photograph, not larger than a screen, and the contours of its mask."""
    from skimage.measure import find_contours

    from convformer_monai.outputs.drawing.contours import panel
    from convformer_monai.outputs.drawing.slices import jpeg_of
    from convformer_monai.view.page import PhotoView, data_url

    pixels = np.moveaxis(result.series.image.numpy(), 0, -1)  # (X, Y, 3)
    factor = min(1.0, PHOTO_PIXELS / max(pixels.shape[:2]))
    size = max(1, round(pixels.shape[0] * factor)), max(1, round(pixels.shape[1] * factor))
    contours: dict[int, list[list[tuple[float, float]]]] = {}
    for label in result.bundle.task.labels:
        mask = np.pad(result.labels == label.index, 1).astype(np.float32)
        lines: Any = find_contours(mask, 0.5)  # type: ignore[no-untyped-call]  # at the centres of pixels; the picture's corner is half a pixel before
        contours[label.index] = [_scaled(line, factor) for line in lines]
    return PhotoView(data_url(jpeg_of(panel(pixels, size)), "image/jpeg"), size, contours)


def _scaled(line: NDArray[np.float64], factor: float) -> list[tuple[float, float]]:
    return [((float(x) - 0.5) * factor, (float(y) - 0.5) * factor) for x, y in line]


def _figures(result: Result) -> list[tuple[str, str]]:
    """Figures of what the task's details hold, whichever task it is."""
    from convformer_monai.measurements.wall_thickness import NAMES
    from convformer_monai.view.figures import bars, bulls_eye, volume_curve

    details, labels = result.measurements.details, result.bundle.task.labels
    figures = []
    phases = details.get("phases", ())
    if len(phases) > 1:
        left = labels[-1]
        known = all(one["time_ms"] is not None for one in phases)
        numbers = [one["phase"] for one in phases]
        times = [float(one["time_ms"]) for one in phases] if known else [float(number) for number in numbers]
        marked = [(moment.upper(), numbers.index(details[moment]["phase"])) for moment in MOMENT_NAMES]
        title = f"Volume of {left.long_name}"
        volumes = [one["volumes_ml"][left.name] for one in phases]
        unit = "ms" if known else "phase"
        figures.append((title, volume_curve(times, volumes, marked, unit=unit, title=title, colour=left.colour)))
    thickness = [one for one in details.get("wall_thickness", ()) if any(one["segments_mm"])]
    most = max([mm for one in thickness for mm in one["segments_mm"] if mm is not None], default=1.0)
    words = {details[moment]["phase"]: name for moment, name in MOMENT_NAMES.items() if moment in details}
    for one in thickness:
        title = "Wall thickness in mm, AHA segments" + (f", {words[one['phase']]}" if one["phase"] in words else "")
        figures.append((title, bulls_eye(one["segments_mm"], NAMES, title, most)))
    slices = details.get("slices", ())
    if slices:
        title = f"{labels[0].name.capitalize()} by slice"
        values = [(one["slice"] + 1, one["volume_ml"]) for one in slices]
        figures.append((title, bars(values, title=title, unit="mL", colour=labels[0].colour)))
    return figures


def _provenance(result: Result) -> Sequence[tuple[str, str]]:
    """The foot of the page: what ``x_report.json`` says."""
    report: dict[str, Any] = make_report(
        result.source,
        measurements=result.measurements,
        bundle=result.bundle.name,
        bundle_version=result.bundle.version,
        licence=result.bundle.licence(result.run["weights_sha256"]),
        options=result.options.recorded(),
        files=result.written,
        **result.run,
    )
    source = report["input"]
    lines = [
        ("made", f"{report['created']} on {report['device']}, {sum(report['seconds'].values()):.1f} s"),
        ("bundle", f"{report['bundle']['name']} {report['bundle']['version']}"),
        ("weights, SHA-256", report["bundle"]["weights_sha256"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in report["versions"].items())),
        ("input", f"{source['format']}, {source['modality'] or 'modality not stated'}, {source['shape']}"),
        ("spacing", f"{source['spacing_mm']} mm" if source["spacing_mm"] else "unknown"),
        ("fingerprint, SHA-256", source["fingerprint"]),
        ("evidence", ", ".join(f"{name} {number}" for name, number in report["evidence"].items())),
        ("warnings", "; ".join([*report["warnings"], *report["notes"]])),
        ("licence of the weights", report["licence"].get("weights", "")),
    ]
    return [(name, value) for name, value in lines if value]


register_writer(PageWriter())
