"""The pages of the review that are not files of results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from html import escape

from convformer_monai.review.cases import ReviewCase
from convformer_monai.view.page import data_url

__all__ = ["index_page", "plain_page"]


def index_page(cases: Sequence[ReviewCase], *, can_export: bool) -> str:
    """The list of cases, beside the page of one of them; ``review.js`` fills it.

    Args:
        cases: of the folder.
        can_export: whether the images are known, of which a data set can be made.
    """
    codes = sorted({code for case in cases for code, _ in case.flags})
    numbers: Counter[str] = Counter()
    titles: dict[str, tuple[str, str]] = {}
    for case in cases:
        numbers.update(case.numbers.keys())
        titles |= case.titles
    options = "".join(f"<option>{escape(code)}</option>" for code in codes)
    measured = "".join(
        f'<option value="{escape(name)}">{escape(titles[name][0])}, {escape(titles[name][1])}</option>'
        for name, _ in numbers.most_common()
    )
    export = '<button type="button" id="export">Data set for training</button>' if can_export else ""
    settings = json.dumps({"units": {name: unit for name, (_, unit) in titles.items()}}).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Review</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><link rel="stylesheet" href="report.css"><link rel="stylesheet" href="review.css">
</head><body class="review">
<script type="application/json" id="settings">{settings}</script>
<aside aria-label="Cases">
<h1>Review <span id="count" role="status"></span></h1>
<form id="filters" aria-label="Filters">
<label>name <input type="text" id="name" autocomplete="off" spellcheck="false"></label>
<label>decision <select id="decision"><option value="">any</option><option>open</option><option>accepted</option>
<option>rejected</option><option>corrected</option></select></label>
<label>flag <select id="flag"><option value="">any</option><option value="+">with flags</option>
<option value="-">without flags</option>{options}</select></label>
<label>doubt from <input type="number" id="doubt" min="0" max="100" step="1"> %</label>
<label>measurement <select id="measurement">{measured}</select></label>
<label>from <input type="number" id="low" step="any"></label>
<label>to <input type="number" id="high" step="any"></label>
</form>
<div class="list" tabindex="0" role="region" aria-label="List of cases"><table id="cases">
<thead><tr>
<th scope="col"><button type="button" data-sort="name">case</button></th>
<th scope="col"><button type="button" data-sort="value" id="value-title">value</button></th>
<th scope="col"><button type="button" data-sort="doubt">doubt</button></th>
<th scope="col"><button type="button" data-sort="flags">flags</button></th>
<th scope="col"><button type="button" data-sort="decision">decision</button></th>
</tr></thead><tbody></tbody></table></div>
<p class="more"><a href="decisions.csv" download>Decisions as CSV</a> {export}</p>
<p class="sub">Keys: <kbd>j</kbd> <kbd>k</kbd> next and previous, <kbd>a</kbd> accept, <kbd>r</kbd> reject,
<kbd>u</kbd> corrected mask, <kbd>/</kbd> name; those of the page, too</p>
</aside>
<main>
<div class="decide" role="group" aria-label="Decision">
<b id="title"></b>
<button type="button" id="accept">Accept</button>
<label class="reason">reason <input type="text" id="reason" maxlength="2000" autocomplete="off"></label>
<button type="button" id="reject">Reject</button>
<button type="button" id="upload">Corrected mask</button>
<input type="file" id="file" hidden aria-label="Corrected mask">
<button type="button" id="reopen">Reopen</button>
<span id="message" role="status"></span>
</div>
<iframe id="page" title="Page of the case" sandbox="allow-scripts"></iframe>
</main>
<script src="review.js"></script>
</body></html>
"""


def plain_page(case: ReviewCase, style: str) -> str:
    """What is shown of a case without a page of its own: its picture, if there is one, and its numbers.

    Args:
        case: the case.
        style: of the page.
    """
    values = {name: "undefined" if number is None else f"{number:g}" for name, number in case.numbers.items()}
    rows = "".join(
        f'<tr><th scope="row">{escape(title)}</th><td>{values[name]} {escape(unit)}</td></tr>'
        for name, (title, unit) in case.titles.items()
    )
    flags = "".join(f"<li><b>{escape(code)}</b> {escape(message)}</li>" for code, message in case.flags)
    picture = ""
    if case.preview is not None:
        source = data_url(case.preview.read_bytes(), "image/png")
        picture = f'<p><img src="{source}" alt="Slices with the outlines of the mask" style="max-width:100%"></p>'
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(case.name)}</title><style>{style}</style></head><body>
<main><h1>{escape(case.name)}</h1><p class="sub">{escape(case.bundle)}. There is no x_report.html of this case:
segment it with --report to see image and mask here.</p><ul class="flags">{flags}</ul>{picture}
<table>{rows}</table></main>
</body></html>
"""
