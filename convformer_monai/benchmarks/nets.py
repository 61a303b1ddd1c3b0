"""What each net takes with each block, beside nnU-Net's U-Net and MONAI's UNet, SwinUNETR and UNETR, on this machine.

A net runs in turn with the baseline, nnU-Net's U-Net, so that a busy machine slows both alike; the ratio of their times
is what to compare. The weights are random.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from convformer_monai.benchmarks.cost_table import Cost, Row, Table
from convformer_monai.benchmarks.interruption import begins_anew
from convformer_monai.benchmarks.measures import median_seconds, peak_growth
from convformer_monai.benchmarks.processes import in_own_process
from convformer_monai.benchmarks.reference_nets import NNUNET, REFERENCES
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.inferers import PhotoInferer, has_fast_bf16
from convformer_monai.networks import NETS, PRESETS, make_net

NET_NAMES = tuple(PRESETS)
BLOCK_NAMES = ("vit", "reattention", "layerscale", "refiner", "convformer", "identity", "conv")
PRECISIONS = ("float32", "bfloat16")  # the latter with channels-last
MISSING = (
    "nnU-Net's U-Net needs the package dynamic-network-architectures: pip install -c constraints.txt -e '.[benchmark]'"
)


@dataclass(frozen=True)
class Setting:
    """What holds for all nets of a table.

    Attributes:
        preset: of the nets in :data:`PRESETS`.
        size: pixels along an edge of the slice.
        channels: of the slice.
        classes: of the output.
        threads: of torch; :func:`run` takes 0 for all.
    """

    preset: str
    size: int
    channels: int
    classes: int
    threads: int

    @property
    def clock(self) -> Callable[[], float]:
        """What measures time: of one thread the processor's time, which other programs disturb least."""
        return time.process_time if self.threads == 1 else time.perf_counter

    def build(self, net: str, block: str) -> nn.Module:
        """A net of ours with a block, or one of :data:`REFERENCES`, whose ``block`` is empty; in evaluation mode."""
        torch.manual_seed(0)
        if net in REFERENCES:
            return REFERENCES[net](self.channels, self.classes, self.size).eval()
        sized = "img_size" in inspect.signature(NETS[net]).parameters
        arguments = {"img_size": self.size} if sized else {}
        return make_net(net, self.channels, self.classes, block, self.preset, **arguments).eval()

    def call(self, net: nn.Module, precision: str) -> Callable[[], Tensor]:
        """One slice through a net, as the bundles' inferers do it."""
        inferer = PhotoInferer(slice_batch_size=1, amp=precision == "bfloat16")
        x = torch.randn(1, self.channels, self.size, self.size)
        return lambda: inferer(x, net)

    def multiply_adds(self, net: nn.Module) -> int:
        """Multiplications with addition in the convolutions and matrix products of one slice.

        Those of the attention are by its definition; what evaluation can skip of it counts, too.
        """
        shadow = copy.deepcopy(net).to("meta")
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            shadow(torch.empty(1, self.channels, self.size, self.size, device="meta"))
        return int(counter.get_total_flops()) // 2

    @torch.inference_mode()
    def peak(self, net: str, block: str, precision: str) -> int:
        """Bytes by which the first slice through the net raises this process's memory; for a process of its own."""
        torch.set_num_threads(self.threads)
        return peak_growth(self.call(self.build(net, block), precision))


def measure(net: str, block: str, setting: Setting, baseline: nn.Module, table: Table, repeats: int) -> Row:
    """One row of the table; a net that cannot be built or run says why."""
    try:
        nets = {NNUNET: baseline} if net == NNUNET else {net: setting.build(net, block), NNUNET: baseline}
        costs = {}
        for precision in table.precisions:
            calls = {name: setting.call(built, precision) for name, built in nets.items()}
            seconds = median_seconds(calls, repeats, setting.clock)
            peak = in_own_process(setting.peak, net, block, precision)
            costs[precision] = Cost(seconds[net], seconds[net] / seconds[NNUNET], peak)
        parameters = sum(parameter.numel() for parameter in nets[net].parameters())
        multiply_adds = setting.multiply_adds(nets[net])
    except Exception as error:  # of whatever net: the others are measured all the same
        reason = str(error).strip() or type(error).__name__
        return Row(net, block, failure=reason.splitlines()[0])
    return Row(net, block, parameters, multiply_adds, costs)


def caption(setting: Setting, repeats: int) -> str:
    """What the table shows, and how it was measured."""
    clock = "processor time" if setting.clock is time.process_time else "time"
    return (
        f"One slice of {setting.channels} x {setting.size} x {setting.size}, {setting.classes} classes; "
        f"nets of the preset `{setting.preset}`; torch {torch.__version__}, "
        f"{platform.machine()}, threads: {setting.threads}.\n"
        f"ms: {clock}, median of {repeats}; of baseline: its ratio to {NNUNET}'s, run in turn; "
        "bfloat16: autocast, channels-last.\n"
        "multiply-adds: of convolutions and matrix products, half of torch's FLOPs.\n"
        "peak: memory that the first slice takes above the net itself, in a process of its own."
    )


@begins_anew()
def run(setting: Setting, nets: Sequence[str], blocks: Sequence[str], repeats: int, output: Path | None) -> None:
    """Measures and writes the table to standard output, and to files if asked for.

    Args:
        setting: what holds for all nets.
        nets: of :data:`NET_NAMES`; none for all.
        blocks: of :data:`BLOCK_NAMES`; none for all.
        repeats: of each net.
        output: path without ending of a Markdown and a CSV file, written row by row.

    Raises:
        InputRefused: if a name or size is not allowed, a package is not installed, or the files cannot be written.
    """
    for option, names, allowed in (("--nets", nets, NET_NAMES), ("--blocks", blocks, BLOCK_NAMES)):
        for name in names:
            if name not in allowed:
                raise InputRefused(RefusalCode.OPTION, f"{option} must be of {', '.join(allowed)}, got {name}")
    if setting.size % 32:
        raise InputRefused(
            RefusalCode.OPTION, f"--size must be a multiple of 32, which SwinUNETR needs, got {setting.size}"
        )
    if importlib.util.find_spec("dynamic_network_architectures") is None:
        raise InputRefused(RefusalCode.MISSING_PACKAGE, MISSING)
    setting = replace(setting, threads=setting.threads or torch.get_num_threads())
    torch.set_num_threads(setting.threads)
    with torch.inference_mode():
        precisions = PRECISIONS if has_fast_bf16(torch.device("cpu")) else PRECISIONS[:1]
        table = Table(caption(setting, repeats), precisions)
        cells = [(net, "") for net in REFERENCES]
        cells += [(net, block) for net in nets or NET_NAMES for block in blocks or BLOCK_NAMES]
        _fill(table, cells, setting, repeats, output)


def _fill(table: Table, cells: Sequence[tuple[str, str]], setting: Setting, repeats: int, output: Path | None) -> None:
    """Measures row by row, and shows each when it is there."""
    if output is not None:
        table.write(output)  # nothing is measured in vain
    sys.stdout.write(f"{table.caption}\n\n{table.head()}\n")
    baseline = setting.build(NNUNET, "")
    for net, block in cells:
        table.rows.append(measure(net, block, setting, baseline, table, repeats))
        sys.stdout.write(f"{table.line(table.rows[-1])}\n")
        sys.stdout.flush()
        if output is not None:
            table.write(output)
