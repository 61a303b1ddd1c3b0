"""The table of :mod:`convformer_monai.benchmarks.nets`: its rows, as Markdown that reads well as it is, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from convformer_monai.outputs.atomic import write_text

__all__ = ["Cost", "Row", "Table"]


@dataclass(frozen=True)
class Cost:
    """What one slice takes in one precision.

    Attributes:
        seconds: median time.
        ratio: of that time to the baseline's.
        peak: bytes of memory above the net's own.
    """

    seconds: float
    ratio: float
    peak: int


@dataclass(frozen=True)
class Row:
    """A net and what it costs.

    Attributes:
        net: name.
        block: name, empty for nets without.
        parameters: number.
        multiply_adds: of one slice.
        costs: precision to cost.
        failure: why there are no figures.
    """

    net: str
    block: str
    parameters: int = 0
    multiply_adds: int = 0
    costs: dict[str, Cost] = field(default_factory=dict)
    failure: str = ""


@dataclass
class Table:
    """Rows under a caption.

    Attributes:
        caption: paragraphs that say what was measured, and how.
        precisions: in which each net runs.
        rows: so far.
    """

    caption: str
    precisions: Sequence[str]
    rows: list[Row] = field(default_factory=list)

    def head(self) -> str:
        """The first two lines of the Markdown table."""
        names = ["net", "block", "parameters, M", "multiply-adds, G"]
        for precision in self.precisions:
            names += [f"{precision}, ms", "of baseline", "peak, MiB"]
        rules = ["-" * (width - 1) + ("-" if i < 2 else ":") for i, width in enumerate(self._widths())]
        return f"{self._line(names)}\n{self._line(rules)}"

    def line(self, row: Row) -> str:
        """A row as a line of the Markdown table."""
        cells = [row.net, row.block]
        if row.failure:
            cells += [row.failure.replace("|", "\\|"), *[""] * (1 + 3 * len(self.precisions))]
        else:
            cells += [f"{row.parameters / 1e6:.2f}", f"{row.multiply_adds / 1e9:.2f}"]
            for precision in self.precisions:
                cost = row.costs[precision]
                cells += [f"{1000 * cost.seconds:.1f}", f"{cost.ratio:.2f}", f"{cost.peak / 2**20:.0f}"]
        return self._line(cells)

    def _line(self, cells: Sequence[str]) -> str:
        """Names to the left, figures to the right."""
        sides = ["<", "<", *">" * (len(cells) - 2)]
        padded = (f"{cell:{side}{width}}" for cell, side, width in zip(cells, sides, self._widths(), strict=True))
        return f"| {' | '.join(padded)} |"

    def _widths(self) -> list[int]:
        return [21, 11, 13, 16, *[12, 11, 9] * len(self.precisions)]

    def markdown(self) -> str:
        """Caption and table."""
        return "\n".join([self.caption, "", self.head(), *map(self.line, self.rows), ""])

    def csv(self) -> str:
        """The same figures, unrounded: seconds, and bytes."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        costs = [f"{precision}_{name}" for precision in self.precisions for name in ("seconds", "ratio", "peak_bytes")]
        writer.writerow(["net", "block", "parameters", "multiply_adds", *costs, "failure"])
        for row in self.rows:
            figures: list[object] = [""] * (2 + len(costs))
            if not row.failure:
                figures = [row.parameters, row.multiply_adds]
                for precision in self.precisions:
                    cost = row.costs[precision]
                    figures += [f"{cost.seconds:.6f}", f"{cost.ratio:.4f}", cost.peak]
            writer.writerow([row.net, row.block, *figures, row.failure])
        return text.getvalue()

    def write(self, stem: Path) -> None:
        """Writes ``stem.md`` and ``stem.csv``, in place of such files.

        Raises:
            InputRefused: if they cannot be written.
        """
        for suffix, text in ((".md", self.markdown()), (".csv", self.csv())):
            write_text(stem.with_name(stem.name + suffix), text, overwrite=True)
