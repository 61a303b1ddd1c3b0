"""The page of one case: ``x_report.html``."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from convformer_monai.tasks.task import Label
from convformer_monai.view.assets import asset, licences, niivue

__all__ = ["CaseView", "FlagView", "PhotoView", "Picture", "VolumeView", "data_url", "make_page"]

# What a browser may load for the page: nothing but what it holds.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src data: blob:; font-src data:; worker-src blob:; base-uri 'none'; form-action 'none'"
)
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Picture:
    """One slice with its outlines, drawn beforehand.

    Attributes:
        phase: index of the phase.
        slice: index of the slice, from 0, as the image is stored.
        title: what it shows, for people.
        url: the picture as a data URL.
        doubt: of the slice, 0 to 1; ``None`` if it is not known.
        flags: codes of the flags that speak of it.
    """

    phase: int
    slice: int
    title: str
    url: str
    doubt: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class FlagView:
    """A flag, and where to look.

    Attributes:
        code: of the flag.
        message: of the flag.
        places: index of the phase and of the slice of each place.
    """

    code: str
    message: str
    places: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class VolumeView:
    """A volume or cine for NiiVue.

    Attributes:
        image: NIfTI file, compressed.
        mask: likewise, uint8.
        settings: for ``report.js``: see :func:`convformer_monai.outputs.drawing.embedding.settings_of`.
    """

    image: bytes
    mask: bytes
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class PhotoView:
    """A photograph with contours.

    Attributes:
        url: the photograph as a data URL.
        size: its width and height in pixels.
        contours: closed lines (x, y) in these pixels, by the index of their structure.
    """

    url: str
    size: tuple[int, int]
    contours: Mapping[int, Sequence[Sequence[tuple[float, float]]]]


@dataclass(frozen=True)
class CaseView:
    """What the page of a case shows.

    Attributes:
        case: its name.
        bundle: name of the bundle.
        numbers: the most important ones: title, value, unit.
        rows: all measurements that are of the whole case: title, value with unit.
        more: those of single phases, likewise.
        notes: on the measurements.
        flags: doubts.
        structures: the label table.
        figures: title and SVG of each.
        pictures: slices, in the order in which they lie.
        volume: for NiiVue; ``None`` for photographs, and for volumes that are too large for a page.
        photo: of a photograph.
        provenance: name and value of each line at the foot.
        empty: what to say if nothing was found.
    """

    case: str
    bundle: str
    numbers: Sequence[tuple[str, str, str]]
    rows: Sequence[tuple[str, str]]
    more: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    flags: Sequence[FlagView] = ()
    structures: Sequence[Label] = ()
    figures: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    volume: VolumeView | None = None
    photo: PhotoView | None = None
    provenance: Sequence[tuple[str, str]] = field(default_factory=list)
    empty: str = ""


def data_url(content: bytes, kind: str) -> str:
    """Returns a file as a data URL.

    Args:
        content: of the file.
        kind: its media type, as ``image/png``.
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def make_page(view: CaseView) -> str:
    """Makes the page.

    Args:
        view: what it shows.

    Returns:
        HTML. It holds the image, so it is as confidential as that.
    """
    body = [
        f"<header><h1>{escape(view.case)}</h1>",
        f'<p class="sub">{escape(view.bundle)}. For research, not for diagnosis.</p>',
        _tiles(view),
        "</header><main>",
        '<div class="columns">',
        f'<section class="look" aria-label="Image">{_viewer(view)}</section>',
        f'<section class="side" aria-label="Results">{_flags(view)}{_table(view)}</section>',
        "</div>",
        _strip(view),
        _figures(view),
        "</main>",
    ]
    parts = [*body, *_data(view)]
    size = sum(map(len, parts)) + len(asset("report.css")) + len(asset("report.js"))
    lines = [*view.provenance, ("this page", f"{size / MEBIBYTE:.1f} MiB, loads nothing from elsewhere")]
    foot = _foot(lines, "" if view.volume is None else licences())
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{escape(view.case)}</title>",
            f"<style>{asset('report.css')}</style></head><body>",
            *body,
            foot,
            *_data(view),
            f"<script>{asset('report.js')}</script>",
            "</body></html>",
            "",
        ]
    )


def _tiles(view: CaseView) -> str:
    if view.empty:
        return f'<p class="empty">{escape(view.empty)}</p>'
    tiles = "".join(
        f"<div><dt>{escape(title)}</dt><dd>{escape(value)} <small>{escape(unit)}</small></dd></div>"
        for title, value, unit in view.numbers
    )
    return f'<dl class="tiles">{tiles}</dl>'


def _viewer(view: CaseView) -> str:
    """The image with its controls; ``report.js`` brings it to life."""
    toggles = "".join(
        f'<label class="chip"><input type="checkbox" checked data-structure="{label.index}">'
        f'<i style="background:rgb{label.colour}"></i>{escape(label.name)}</label>'
        for label in view.structures
    )
    opacity = (
        '<label class="range">mask <input id="opacity" type="range" min="0" max="100" value="50" '
        'aria-label="Opacity of the mask"></label>'
    )
    if view.photo is not None:
        return f'{_photo(view.photo, view.structures)}<div class="bar">{toggles}{opacity}</div>'
    several = view.volume is not None and int(view.volume.settings["phases"]) > 1
    buttons = "".join(
        f'<button type="button" data-view="{name}" aria-pressed="false">{words}</button>'
        for name, words in (("slice", "Slice"), ("planes", "Three planes"), ("render", "3-D"))
    )
    play = (
        '<button type="button" id="play" aria-pressed="false">Play</button>'
        '<label class="range">phase <input id="phase" type="range" min="0" value="0" aria-label="Phase"></label>'
        if several
        else ""
    )
    reduced = 1 if view.volume is None else int(view.volume.settings.get("reduced", 1))
    less = (
        f'<p class="sub">Image and mask are shown at 1/{reduced} of their resolution in the slice, to keep the page '
        "small. What is measured is not.</p>"
        if reduced > 1
        else ""
    )
    first = view.pictures[0].url if view.pictures else ""
    return (
        f'<div class="stage"><canvas id="canvas" aria-label="Image with mask" role="img" tabindex="0"></canvas>'
        f'<img id="still" src="{first}" alt="" hidden>{_letters(view)}<p id="where" role="status"></p></div>'
        f'<p id="without" class="sub" hidden></p>{less}'
        f'<div class="bar"><span class="group" role="group" aria-label="View">{buttons}</span>{toggles}{opacity}'
        f'<label class="range">slice <input id="slice" type="range" min="0" value="0" aria-label="Slice"></label>{play}'
        "</div>"
        '<p class="sub keys">Keys: <kbd>\N{UPWARDS ARROW}</kbd> <kbd>\N{DOWNWARDS ARROW}</kbd> slice, '
        "<kbd>\N{LEFTWARDS ARROW}</kbd> <kbd>\N{RIGHTWARDS ARROW}</kbd> phase, <kbd>space</kbd> play, "
        "<kbd>v</kbd> view, <kbd>m</kbd> mask, <kbd>1</kbd>\N{EN DASH}<kbd>9</kbd> structure</p>"
    )


def _letters(view: CaseView) -> str:
    """The patient's directions at the edges of a slice."""
    if view.volume is None:
        return ""
    places = zip(("left", "right", "top", "bottom"), view.volume.settings["letters"], strict=True)
    return "".join(f'<span class="edge {place}">{escape(letter)}</span>' for place, letter in places)


def _photo(photo: PhotoView, structures: Sequence[Label]) -> str:
    wide, high = photo.size
    thick = max(wide, high) / 300
    lines = []
    for label in structures:
        for line in photo.contours.get(label.index, ()):
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line)
            lines.append(
                f'<polygon data-contour="{label.index}" points="{points}" fill="rgb{label.colour}" fill-opacity="0.15" '
                f'stroke="rgb{label.colour}" stroke-width="{thick:.1f}"/>'
            )
    return (
        f'<svg class="photo" viewBox="0 0 {wide} {high}" role="img" '
        'aria-label="Photograph with the contour of the mask">'
        f'<image href="{photo.url}" width="{wide}" height="{high}"/>{"".join(lines)}</svg>'
    )


def _flags(view: CaseView) -> str:
    if not view.flags:
        return '<p class="calm">No flag of doubt was raised.</p>'
    items = []
    several = view.volume is not None and int(view.volume.settings["phases"]) > 1
    for flag in view.flags:
        buttons = "".join(
            f'<button type="button" data-go="{phase},{z}">slice {z + 1}{f", phase {phase}" if several else ""}</button>'
            for phase, z in flag.places
        )
        items.append(f"<li><b>{escape(flag.code)}</b> {escape(flag.message)} {buttons}</li>")
    return f'<h2>Flags of doubt</h2><ul class="flags">{"".join(items)}</ul>'


def _table(view: CaseView) -> str:
    rows = "".join(_row(title, value) for title, value in view.rows)
    notes = "".join(f"<li>{escape(note)}</li>" for note in view.notes)
    more = ""
    if view.more:
        inner = "".join(_row(title, value) for title, value in view.more)
        more = f"<details><summary>{len(view.more)} numbers of single phases</summary><table>{inner}</table></details>"
    return f"<h2>Measurements</h2><table>{rows}</table>{more}" + (f'<ul class="notes">{notes}</ul>' if notes else "")


def _row(title: str, value: str) -> str:
    return f'<tr><th scope="row">{escape(title)}</th><td>{escape(value)}</td></tr>'


def _strip(view: CaseView) -> str:
    """All slices, each with its doubt and flags."""
    if not view.pictures:
        return ""
    items = []
    for number, one in enumerate(view.pictures):
        doubt = (
            ""
            if one.doubt is None
            else f'<span class="doubt" data-doubt="{one.doubt:.4f}">doubt {one.doubt:.0%}</span>'
        )
        flags = "".join(f'<span class="flag">{escape(code)}</span>' for code in one.flags)
        items.append(
            f'<li><button type="button" data-picture="{number}" data-go="{one.phase},{one.slice}">'
            f'<img src="{one.url}" alt="" loading="lazy"><span>{escape(one.title)}</span>{doubt}{flags}</button></li>'
        )
    why = (
        '<p class="sub">Doubt: 1 - Dice between a slice\'s mask and its probabilities; small structures have more. '
        "A click shows the slice above.</p>"
        if any(one.doubt is not None for one in view.pictures)
        else ""
    )
    strip = f'<ol class="strip" tabindex="0" aria-label="Slices">{"".join(items)}</ol>'
    return f'<section aria-label="Slices"><h2>Slices</h2>{why}{strip}</section>'


def _figures(view: CaseView) -> str:
    if not view.figures:
        return ""
    items = "".join(f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>" for title, svg in view.figures)
    return f'<section aria-label="Figures"><h2>Figures</h2><div class="figures">{items}</div></section>'


def _foot(lines: Sequence[tuple[str, str]], of_others: str) -> str:
    rows = "".join(_row(name, value) for name, value in lines)
    texts = ""
    if of_others:
        texts = f"<details><summary>Licences of NiiVue and its parts</summary><pre>{escape(of_others)}</pre></details>"
    return f"<footer><h2>How this came about</h2><table>{rows}</table>{texts}</footer>"


def _data(view: CaseView) -> list[str]:
    """What the script reads: settings, volumes, NiiVue."""
    settings: dict[str, Any] = {
        "structures": [{"index": one.index, "name": one.name, "colour": one.colour} for one in view.structures],
        "pictures": [{"phase": one.phase, "slice": one.slice, "title": one.title} for one in view.pictures],
        "volume": None if view.volume is None else dict(view.volume.settings),
    }
    text = json.dumps(settings, allow_nan=False).replace("<", "\\u003c")
    parts = [f'<script type="application/json" id="settings">{text}</script>']
    if view.volume is not None:
        for name, content in (("image", view.volume.image), ("mask", view.volume.mask)):
            encoded = base64.b64encode(content).decode("ascii")
            parts.append(f'<script type="text/plain" id="{name}-data">{encoded}</script>')
        parts.append(f'<script type="text/plain" id="niivue-data">{niivue()}</script>')
    return parts
