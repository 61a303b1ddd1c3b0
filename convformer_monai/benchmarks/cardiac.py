"""The cardiac bundle on this machine: a volume and a cine as users run them, and its network beside MONAI's BasicUNet.

Whole runs are processes of their own, from the command to the written mask; the first, on one tiny slice, shows what
start-up alone takes. The two networks run in turn in one process, so that a busy machine slows them alike.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from monai.networks.nets import BasicUNet
from torch import nn

from convformer_monai.benchmarks.interruption import begins_anew
from convformer_monai.benchmarks.measures import median_seconds
from convformer_monai.benchmarks.processes import run_python
from convformer_monai.bundle import Bundle
from convformer_monai.inferers import SliceBatchInferer, has_fast_bf16
from convformer_monai.phantoms import cardiac_phantom

RUNS = {  # name: (shape, phases)
    "start-up (32 x 32, 1 slice)": ((32, 32, 1), 1),
    "volume (216 x 256, 10 slices)": ((216, 256, 10), 1),
    "cine (216 x 256, 10 slices, 25 phases)": ((216, 256, 10), 25),
}


def run_bundle(image: Path, output: Path) -> tuple[float, float]:
    """Segments a file as the README says; returns seconds and the peak resident memory in MB."""
    bundle = Bundle("cardiac")
    options = ["--config_file", str(bundle.path("inference")), "--bundle_root", str(bundle.root)]
    options += ["--datalist", repr([str(image)]), "--output_dir", str(output), "--device", "cpu"]
    return run_python(["-m", "monai.bundle", "run", *options])[:2]


def milliseconds_a_slice(
    networks: dict[str, nn.Module], repeats: int, size: int = 256, batch: int = 8
) -> dict[str, float]:
    """Median time of each network for a slice of ``size`` x ``size``, as the bundle's inferer calls it."""
    image = torch.randn(1, 1, size, size, batch)
    inferer = SliceBatchInferer(slice_batch_size=batch)
    calls = {name: partial(inferer, image, network) for name, network in networks.items()}
    return {name: 1000 * seconds / batch for name, seconds in median_seconds(calls, repeats).items()}


@begins_anew()
def run(repeats: int) -> None:
    """Measures and writes the figures to standard output.

    Args:
        repeats: of the networks.
    """
    write = sys.stdout.write
    write(f"{torch.get_num_threads()} threads, torch {torch.__version__}, ")
    write(f"bfloat16 {'used' if has_fast_bf16(torch.device('cpu')) else 'not used: the processor has none'}\n\n")
    write(f"{'python -m monai.bundle run':<40} {'seconds':>8} {'peak memory, MB':>16}\n")
    with tempfile.TemporaryDirectory() as folder:
        for index, (name, (shape, phases)) in enumerate(RUNS.items()):
            image, _ = cardiac_phantom(shape=shape, num_phases=phases).save(folder, f"phantom{index}")
            seconds, megabytes = run_bundle(image, Path(folder) / "out")
            write(f"{name:<40} {seconds:>8.1f} {megabytes:>16.0f}\n")
    networks = {
        "ConvFormerUNet of the bundle": Bundle("cardiac").get("network_def").eval(),
        "MONAI BasicUNet": BasicUNet(spatial_dims=2, in_channels=1, out_channels=4).eval(),
    }
    with torch.inference_mode():
        times = milliseconds_a_slice(networks, repeats)
    baseline = times["MONAI BasicUNet"]
    write(f"\n{'network, 256 x 256':<40} {'ms a slice':>10} {'of BasicUNet':>14} {'parameters':>12}\n")
    for name, network in networks.items():
        count = sum(parameter.numel() for parameter in network.parameters())
        write(f"{name:<40} {times[name]:>10.1f} {times[name] / baseline:>14.2f} {count:>12,}\n")
