"""What a command takes before the network runs: ``segment`` of one volume, cold, beside the imports alone.

All are processes of their own that take turns. The processor's seconds are hardly changed by other programs.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from convformer_monai.benchmarks.processes import Ran, in_own_process, run_python
from convformer_monai.bundle import Bundle

__all__ = ["ALL_OF_MONAI", "LEAN_MONAI", "SEGMENT", "TORCH", "segment_arguments", "seconds_of", "start_up"]

TORCH, ALL_OF_MONAI = "import torch", "import monai"
LEAN_MONAI, SEGMENT, BUNDLE_RUN = "import monai, as segment does", "segment", "python -m monai.bundle run"
LEAN = "from convformer_monai.cli.lean_monai import lean_monai\nwith lean_monai('cardiac'):\n    import monai"
LISTED = 8
LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")


def segment_arguments(image: Path, output: Path, bundle: str = "cardiac") -> list[str]:
    """The words after ``python`` that segment an image."""
    words = ["-m", "convformer_monai.cli", "segment", "-i", str(image), "-o", str(output), "-b", bundle]
    return [*words, "--device", "cpu", "--quiet", "--overwrite"]


def seconds_of(output: Path) -> dict[str, float]:
    """The stages' seconds of all cases of an output folder together, by their reports."""
    total: Counter[str] = Counter()
    for report in output.rglob("*_report.json"):
        total.update(json.loads(report.read_text(encoding="utf-8"))["seconds"])
    return dict(total)


def start_up(volume: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """Measures a cold ``segment``, the imports alone, and MONAI's own run of the bundle.

    Args:
        volume: a cardiac volume.
        folder: for results.
        repeats: of each, of which the medians are given.
    """
    bundle = Bundle("cardiac")
    run = ["-m", "monai.bundle", "run", "--config_file", str(bundle.path("inference")), "--device", "cpu"]
    run += ["--bundle_root", str(bundle.root), "--output_dir", str(folder / "run"), "--datalist", repr([str(volume)])]
    commands = {
        "python": ["-c", "pass"],
        TORCH: ["-c", "import torch"],
        ALL_OF_MONAI: ["-c", "import monai"],
        LEAN_MONAI: ["-c", LEAN],
        SEGMENT: segment_arguments(volume, folder / "cold"),
        BUNDLE_RUN: run,
    }
    taken: dict[str, list[Ran]] = {name: [] for name in commands}
    network: list[float] = []
    for _ in range(repeats):
        for name, words in commands.items():
            taken[name].append(run_python(words))
            if name == SEGMENT:
                network.append(seconds_of(folder / "cold")["network"])
    rows = [{"command": name, **_medians(runs)} for name, runs in taken.items()]
    of_network = in_own_process(_network_processor_seconds, volume)
    return {
        "rows": rows,
        "network_seconds": statistics.median(network),
        "network_processor_seconds": of_network,
        "imports": {name: _import_times(commands[name]) for name in (ALL_OF_MONAI, SEGMENT)},
    }


def _medians(runs: list[Ran]) -> dict[str, float]:
    return {name: statistics.median(getattr(run, name) for run in runs) for name in Ran._fields}


def _network_processor_seconds(volume: Path) -> float:
    """What the network takes of the processor for one volume, the first of a process."""
    from convformer_monai.segmenter import Segmenter

    segmenter = Segmenter("cardiac", "cpu")
    image = segmenter.prepare(segmenter.read(volume))
    start = time.process_time()
    segmenter.scores(image)
    return time.process_time() - start


def _import_times(words: list[str]) -> dict[str, float]:
    """Seconds by package, those that take most, of all modules that a process imports; tracing them takes time, too."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], capture_output=True, text=True, errors="replace", check=True
    )
    times: Counter[str] = Counter()
    for line in done.stderr.splitlines():
        if found := LINE.match(line):
            times[found[2].partition(".")[0]] += int(found[1])
    listed = {name: micros / 1e6 for name, micros in times.most_common(LISTED)}
    return {**listed, "all others": sum(times.values()) / 1e6 - sum(listed.values())}
