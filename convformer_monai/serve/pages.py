"""What the HTTP port shows: health, readiness, metrics for Prometheus, and one page for people."""

from __future__ import annotations

import html
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from convformer_monai import __version__
from convformer_monai.serve.intake import MB, short
from convformer_monai.serve.state import State
from convformer_monai.serve.web import Answer

if TYPE_CHECKING:
    from convformer_monai.serve.node import Node

__all__ = ["pages_of", "summary"]

PREFIX = "convformer_node_"
LAST = 25  # rows of a table
LONG_UID = re.compile(r"[0-9.]{16,}")
HELP = {
    "associations": "Associations that were accepted",
    "associations_refused": "Associations that were rejected",
    "commitments": "Requests of storage commitment",
    "connections_cut": "Connections that sent more than is allowed, or too slowly",
    "connections_refused": "Connections that were not accepted",
    "deliveries": "Tries to bring a result to a destination",
    "echoes": "C-ECHO requests",
    "instances_discarded": "Objects of other classes, which are not kept",
    "instances_refused": "Instances that were not taken",
    "instances_repeated": "Instances that had come before",
    "instances_taken": "Instances that were taken",
    "job_seconds": "Seconds of work on jobs",
    "jobs": "Ends of attempts at jobs",
    "jobs_queued": "Jobs that were queued",
    "polls": "Questions to sources",
    "series_fetched": "Series that were fetched from sources",
    "series_incomplete": "Series of sources that were left out, since an image of them could not be taken",
    "series_unmatched": "Series that no rule takes",
}
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1b2a2a;background:#fff}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.6rem 0 .4rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #d5dede;vertical-align:top}td.n{text-align:right}
.bad{color:#a2231d}.good{color:#176639}code{font-size:.85em;word-break:break-all}.t{white-space:nowrap}
div{overflow-x:auto}
@media(prefers-color-scheme:dark){body{color:#dfe8e8;background:#141c1c}th,td{border-color:#2d3a3a}.bad{color:#ff8d85}
.good{color:#7bd8a0}}
"""


def pages_of(node: Node) -> dict[str, Callable[[], Answer]]:
    """The pages by path.

    Args:
        node: that they tell of.
    """
    return {
        "/": lambda: Answer(_page(node), "text/html"),
        "/health": lambda: _verdict(node.sick(), "healthy"),
        "/ready": lambda: _verdict(node.not_ready(), "ready"),
        "/metrics": lambda: Answer(_metrics(node), "text/plain; version=0.0.4"),
        "/status": lambda: Answer(json.dumps(summary(node.state), indent=1) + "\n", "application/json"),
    }


def summary(state: State) -> dict[str, Any]:
    """How many jobs and deliveries are in which state, as JSON types.

    Args:
        state: of a node.
    """
    jobs = {row["state"]: row["n"] for row in state.rows("SELECT state, count(*) n FROM jobs GROUP BY state")}
    deliveries: dict[str, dict[str, int]] = {}
    for row in state.rows("SELECT destination, state, count(*) n FROM deliveries GROUP BY destination, state"):
        deliveries.setdefault(row["destination"], {})[row["state"]] = row["n"]
    (row,) = state.rows("SELECT count(*) n, coalesce(sum(open), 0) open FROM studies")
    return {"studies": {"known": row["n"], "incoming": row["open"]}, "jobs": jobs, "deliveries": deliveries}


def _verdict(reasons: Sequence[str], good: str) -> Answer:
    if reasons:
        return Answer("\n".join(reasons) + "\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
    return Answer(f"{good}\n")


def _metrics(node: Node) -> str:
    """In the text format of Prometheus."""
    lines = []
    counted: dict[str, list[tuple[str, float]]] = {}
    for (name, label), value in sorted(node.counts.all().items()):
        counted.setdefault(name, []).append((label, value))
    for name, values in counted.items():
        lines += [f"# HELP {PREFIX}{name}_total {HELP.get(name, name)}", f"# TYPE {PREFIX}{name}_total counter"]
        lines += [_sample(f"{name}_total", {"kind": label} if label else {}, value) for label, value in values]
    for name, text, samples in _gauges(node):
        lines += [f"# HELP {PREFIX}{name} {text}", f"# TYPE {PREFIX}{name} gauge"]
        lines += [_sample(name, labels, float(value)) for labels, value in samples]
    lines += [f"# TYPE {PREFIX}info gauge", _sample("info", {"version": __version__}, 1)]
    return "\n".join(lines) + "\n"


def _gauges(node: Node) -> list[tuple[str, str, list[tuple[dict[str, str], float]]]]:
    """Name, explanation, and values by labels."""
    content = summary(node.state)
    jobs = [({"state": key}, float(n)) for key, n in content["jobs"].items()]
    files = [
        ({"destination": to, "state": key}, float(n))
        for to, by_state in content["deliveries"].items()
        for key, n in by_state.items()
    ]
    reachable = [({"destination": one.destination.name}, float(one.reachable)) for one in node.senders]
    alone = {
        "studies": ("Studies that are remembered", content["studies"]["known"]),
        "studies_incoming": ("Studies that are not yet complete", content["studies"]["incoming"]),
        "oldest_job_seconds": ("Age of the oldest job in the queue", _oldest(node.state)),
        "associations_now": ("Open associations", node.listener.associations),
        "free_bytes": ("Free space of the node's folder", node.free_bytes()),
        "ready": ("Whether studies are taken and done", not node.not_ready()),
    }
    return [
        ("jobs_now", "Jobs by state", jobs),
        ("deliveries_now", "Files by destination and state", files),
        ("destination_reachable", "Whether the last try succeeded", reachable),
    ] + [(name, text, [({}, float(value))]) for name, (text, value) in alone.items()]


def _oldest(state: State) -> float:
    (row,) = state.rows("SELECT min(created) t FROM jobs WHERE state IN ('queued', 'running')")
    return 0.0 if row["t"] is None else max(0.0, time.time() - row["t"])


def _sample(name: str, labels: dict[str, str], value: float) -> str:
    inner = ",".join(f'{key}="{text}"' for key, text in labels.items())  # names of ours, checked when they were read
    return f"{PREFIX}{name}{{{inner}}} {value:.10g}" if inner else f"{PREFIX}{name} {value:.10g}"


def _page(node: Node) -> str:
    """For people; it refreshes itself by the browser's own means."""
    state, content = node.state, summary(node.state)
    trouble = node.not_ready()
    verdict = f'<p class="bad">{_text("; ".join(trouble))}</p>' if trouble else '<p class="good">ready</p>'
    jobs = state.rows("SELECT * FROM jobs ORDER BY coalesce(finished, created) DESC LIMIT ?", LAST)
    bad = state.rows("SELECT * FROM jobs WHERE state IN ('refused', 'failed') ORDER BY finished DESC LIMIT ?", LAST)
    waiting = state.rows(
        "SELECT destination, state, count(*) n, max(attempts) tries, max(error) error FROM deliveries "
        "WHERE state != 'sent' GROUP BY destination, state"
    )
    refused = [(label or "-", int(n)) for (name, label), n in node.counts.all().items() if name == "instances_refused"]
    counts = [
        *((f"studies {key}", n) for key, n in content["studies"].items()),
        *((f"jobs {key}", n) for key, n in content["jobs"].items()),
    ]
    parts = [
        f"<h1>{_text(node.config.ae)} <small>convformer_monai {__version__}</small></h1>",
        verdict,
        f"<p>{_bytes(node.free_bytes())} free; {node.listener.associations} associations. {_text(DISCLAIMER)}</p>",
        "<h2>Now</h2>",
        _table(("what", "how many"), counts),
        "<h2>Results that are not stored</h2>",
        _table(
            ("destination", "state", "files", "tries", "last reason"),
            ([row[k] for k in ("destination", "state", "n", "tries", "error")] for row in waiting),
        ),
        "<h2>Last jobs</h2>",
        _table(
            ("job", "study", "name in logs", "rule", "version", "state", "flags", "end"),
            (
                (*(row[k] for k in ("id", "study")), short(row["study"]), row["rule"], row["version"], row["state"],
                 row["flags"], _time(row["finished"]))
                for row in jobs
            ),
        ),
        "<h2>Last refusals</h2>",
        _table(
            ("job", "study", "rule", "code", "why"),
            ([row[k] for k in ("id", "study", "rule", "code", "message")] for row in bad),
        ),
        "<h2>Instances that were not taken, since the start</h2>",
        _table(("reason", "how many"), refused),
        "<h2>Given up</h2>",
        _table(("folder",), ([name] for name in node.dead.names()[-LAST:])),
    ]  # fmt: skip
    head = f'<meta charset="utf-8"><meta http-equiv="refresh" content="10"><title>{_text(node.config.ae)}</title>'
    return f"<!doctype html><html lang=en><head>{head}<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>"


DISCLAIMER = "Results are for research, not for diagnosis."


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    if not body:
        return "<p>none</p>"
    return f"<div><table><tr>{''.join(f'<th>{_text(one)}</th>' for one in head)}</tr>{body}</table></div>"


def _cell(value: Any) -> str:
    if isinstance(value, int | float):
        return f'<td class="n">{value}</td>'
    if LONG_UID.fullmatch(str(value)):
        return f"<td><code>{_text(value)}</code></td>"
    return f'<td class="t">{_text(value)}</td>' if str(value).endswith(" UTC") else f"<td>{_text(value)}</td>"


def _text(value: Any) -> str:
    return html.escape("" if value is None else str(value))


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _bytes(count: float) -> str:
    return f"{count / (1024 * MB):.1f} GB"
