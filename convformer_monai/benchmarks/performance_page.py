"""The page of :mod:`convformer_monai.benchmarks.performance`: every number of it comes from the JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from convformer_monai.benchmarks.engines import AS_USED
from convformer_monai.benchmarks.files import drawn
from convformer_monai.benchmarks.large import ALLOWANCE_MB
from convformer_monai.benchmarks.measures import exponent
from convformer_monai.benchmarks.start_up import ALL_OF_MONAI, LEAN_MONAI, SEGMENT, TORCH

__all__ = ["page", "plot"]

COLD_BAR, WARM_BAR, ENGINE_BAR, EQUAL = 1.6, 1.3, 1.3, 0.9995
Rows = Sequence[Mapping[str, Any]]


def page(found: Mapping[str, Any], name: str) -> str:
    """The page in Markdown.

    Args:
        found: the JSON.
        name: of the files of plot and JSON, without ending.
    """
    parts = [
        _head(found["machine"], found["repeats"], name),
        _start_up(found["start_up"]),
        _warm(found["warm"]),
        _large(found["large"]),
        _engines(found["engines"]),
        _growth(found["growth"], name),
    ]
    return "\n".join(parts)


def _head(machine: Mapping[str, Any], repeats: int, name: str) -> str:
    bfloat16 = "with native bfloat16" if machine["bfloat16"] else "without native bfloat16"
    return f"""# Performance on one machine

`convformer-monai benchmark all` measured all of this in one run and wrote this page, its plot and [the numbers]\
({name}.json). With `--data` it takes real images, else generated ones.

Machine: {machine["processor"]}, processors: {machine["processors"]}, threads of torch: {machine["torch_threads"]}, \
{bfloat16}, {machine["system"]}; Python {machine["python"]}, torch {machine["torch"]}, MONAI {machine["monai"]}, \
convformer_monai {machine["convformer_monai"]}, {machine["date"]}. Its load before the run was \
{machine["load"]}: other \
programs shared it. Medians of {repeats}, what is compared in turn; whole commands are processes of their own. \
Measured once: large images, growth (but for the seconds of the attention), the imports by package, and the network's \
seconds of the processor at the start-up.
"""


def _table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown; the first column to the left."""
    lines = [f"| {' | '.join(names)} |", "|---|" + "---:|" * (len(names) - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]) + "\n"


def _bar(value: float, bar: float) -> str:
    """How a value stands to the bar that it should not exceed."""
    return f"{value:.2f}, within the bar of {bar:g}" if value <= bar else f"**{value:.2f}, above the bar of {bar:g}**"


def _start_up(found: Mapping[str, Any]) -> str:
    rows = {row["command"]: row for row in found["rows"]}
    table = _table(
        ["process", "seconds", "processor's seconds", "peak memory, MB"],
        (
            (name, f"{row['seconds']:.2f}", f"{row['processor_seconds']:.2f}", f"{row['megabytes']:.0f}")
            for name, row in rows.items()
        ),
    )

    def beside(field: str, network: float) -> float:
        return float((rows[SEGMENT][field] - network) / rows[TORCH][field])

    wall = beside("seconds", found["network_seconds"])
    processor = beside("processor_seconds", found["network_processor_seconds"])
    lean, whole, torch = (rows[name]["processor_seconds"] for name in (LEAN_MONAI, ALL_OF_MONAI, TORCH))
    rest = rows[SEGMENT]["processor_seconds"] - found["network_processor_seconds"] - lean
    imports = found["imports"]
    packages = list(dict.fromkeys([*imports[SEGMENT], *imports[ALL_OF_MONAI]]))
    packages.sort(key=lambda package: package == "all others")
    by_package = _table(
        ["package", ALL_OF_MONAI, SEGMENT],
        (
            (
                package,
                *(f"{imports[of][package]:.2f}" if package in imports[of] else "" for of in (ALL_OF_MONAI, SEGMENT)),
            )
            for package in packages
        ),
    )
    return f"""## Start-up

`segment` of one cardiac volume, cold:

{table}
Without its network ({found["network_seconds"]:.2f} s; {found["network_processor_seconds"]:.2f} s of the processor) \
`segment` takes, as a multiple of `import torch`: {_bar(wall, COLD_BAR)}; by the processor's seconds \
{_bar(processor, COLD_BAR)}. Of those `import torch` takes {torch:.2f} s, MONAI {lean - torch:.2f} s, and the \
rest, from \
the arguments to the written mask, {rest:.2f} s. torch and MONAI alone are {lean / torch:.2f} of torch.

`import monai` imports every optional package that it finds: {whole - torch:.2f} s above torch. `segment`, `measure` \
and `demo` hide those that no shipped bundle uses while MONAI is imported; the library does not. What is left of MONAI \
is its own modules, all of which it imports, and SciPy, which the bundles use. Seconds by package, of modules traced \
while they are imported, which slows it:

{by_package}"""


def _warm(rows: Rows) -> str:
    table = _table(
        [
            "bundle",
            "images",
            "cases",
            "seconds a case",
            "network alone",
            "ratio",
            "processor's seconds",
            "network alone",
        ],
        (
            (
                row["bundle"],
                row["images"],
                row["cases"],
                f"{row['seconds']:.3f}",
                f"{row['network_seconds']:.3f}",
                f"{row['ratio']:.2f}",
                f"{row['processor_seconds']:.3f}",
                f"{row['network_processor_seconds']:.3f}",
            )
            for row in rows
        ),
    )
    bars = "; ".join(
        f"{row['bundle']} {_bar(row['ratio'], WARM_BAR)} "
        f"({row['processor_seconds'] / row['network_processor_seconds']:.2f} by the processor's seconds)"
        for row in rows
    )
    return f"""## A folder of cases

The bundle loaded; from files to mask, measurements and report, as `segment` does a folder, beside the \
network alone on \
the same images in the same run. While the network runs, the next case is read and the last one measured and written.

{table}
{bars}. Seconds depend on what other programs do; the processor's hardly do. What is above the network is \
reading, resampling, measuring and writing: six files a case, each flushed to the \
disk and read again. A small photograph takes the network so little time that the files cost as much.
"""


def _large(rows: Rows) -> str:
    table = _table(
        ["image", "image, MB", "mask, MB", "limit, MB", "peak, MB", "seconds", "of them network"],
        (
            (
                row["image"],
                *(f"{row[key]:.0f}" for key in ("image_mb", "mask_mb", "limit_mb", "peak_mb")),
                f"{row['seconds']:.1f}",
                f"{row['network_seconds']:.1f}",
            )
            for row in rows
        ),
    )
    above = [
        f"{row['image']} by {row['peak_mb'] - row['limit_mb']:.0f} MB"
        for row in rows
        if row["peak_mb"] > row["limit_mb"]
    ]
    bar = f"**Above the limit: {'; '.join(above)}.**" if above else "All stay within it."
    return f"""## Large images

Peak resident memory of the whole process. The limit is image (as float32, as it is in memory), mask and \
{ALLOWANCE_MB:.0f} MB, a third of which are Python, torch and MONAI.

{table}
{bar}
"""


def _engines(found: Mapping[str, Rows]) -> str:
    table = _table(
        ["network", "engine", "ms a slice", "speed", "Dice with the mask of torch"],
        (
            (bundle, row["engine"], row["failure"], "", "")
            if "failure" in row
            else (bundle, row["engine"], f"{row['milliseconds']:.1f}", f"{row['speed']:.2f}", f"{row['dice']:.4f}")
            for bundle, rows in found.items()
            for row in rows
        ),
    )
    measured = [(bundle, row) for bundle, rows in found.items() for row in rows if "failure" not in row]
    others = [(bundle, row) for bundle, row in measured if not row["engine"].startswith("torch")]
    worth = [(bundle, row) for bundle, row in others if row["speed"] >= ENGINE_BAR and row["dice"] >= EQUAL]
    verdict = "None of them was installed."
    if others:
        which = ", ".join(f"{row['engine']} ({bundle})" for bundle, row in worth) or "none"
        verdict = f"Of these: {which}."
    return f"""## Other engines

The network alone, batches of 8 slices of 256 x 256, beside {AS_USED} (bfloat16 where the processor has it). An engine \
is worth an option from {ENGINE_BAR:g} times the speed on, with equal masks (Dice {EQUAL:g}). {verdict} \
So `segment --engine openvino` and `cohort --network-engine openvino` exist for the bundles that name it under \
`engines` in their `metadata.json`. A graph of OpenVINO holds one size of slice: making it takes some seconds, \
and it is kept in `~/.cache/convformer_monai` (or `$CONVFORMER_CACHE`), so it pays from the second image of a size on.

{table}"""


def _growth(found: Mapping[str, Rows], name: str) -> str:
    def grows(rows: Rows, field: str) -> str:
        return f"{exponent([row['size'] for row in rows], [row[field] for row in rows]):.2f}"

    def of(formulation: str) -> list[Mapping[str, Any]]:
        return [row for row in found["tokens"] if row["formulation"] == formulation]

    def each(rows: Rows, field: str) -> float:
        first, last = rows[0], rows[-1]
        return float((last[field] - first[field]) / (last["size"] - first["size"]))

    slices, cases = found["slices"], found["cases"]
    tokens = [
        (
            f"{formulation}, tokens of attention",
            grows(of(formulation), "seconds"),
            grows(of(formulation), "peak_mb"),
        )
        for formulation in dict.fromkeys(row["formulation"] for row in found["tokens"])
    ]
    table = _table(
        ["cost against", "exponent of seconds", "exponent of memory"],
        [
            ("slices of a volume", grows(slices, "seconds"), grows(slices, "peak_mb")),
            *tokens,
            ("cases of a folder (the processor's seconds)", grows(cases, "processor_seconds"), grows(cases, "peak_mb")),
        ],
    )
    return f"""## Growth

![Seconds and peak memory against the number of slices, tokens and cases]({name}.svg)

The exponent b of cost = a * size^b, fitted to all sizes: 1 is linear, 2 quadratic, 0 constant. A process \
starts with torch and MONAI, which flattens small sizes.

{table}
A further slice of 216 x 256 takes {1000 * each(slices, "seconds"):.0f} ms of network and \
{each(slices, "peak_mb"):.2f} MB; \
a further photograph {1000 * each(cases, "processor_seconds"):.0f} ms of the processor and \
{each(cases, "peak_mb"):.2f} MB.
"""


def plot(found: Mapping[str, Rows], path: Path) -> None:
    """Draws seconds and memory against size, a column each for slices, tokens and cases.

    Args:
        found: ``growth`` of the JSON.
        path: of the SVG file.
    """
    columns: dict[str, dict[str, Rows]] = {
        "slices (216 x 256)": {"network": found["slices"]},
        "tokens of the attention": {
            name: [row for row in found["tokens"] if row["formulation"] == name]
            for name in dict.fromkeys(row["formulation"] for row in found["tokens"])
        },
        "cases of a folder": {"photographs": found["cases"]},
    }
    with drawn(path, "performance", (9, 4.5), 8) as figure:
        axes = figure.subplots(2, len(columns), sharex="col")
        for column, (label, lines) in enumerate(columns.items()):
            for row, (field, unit) in enumerate((("seconds", "seconds"), ("peak_mb", "peak memory, MB"))):
                one = axes[row][column]
                for name, rows in lines.items():
                    one.plot([each["size"] for each in rows], [each[field] for each in rows], marker="o", label=name)
                one.set(xscale="log", yscale="log", ylabel=unit if column == 0 else "", xlabel=label if row else "")
                one.grid(alpha=0.3, which="both")
                if len(lines) > 1:
                    one.legend()
