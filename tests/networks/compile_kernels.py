"""Compiles the kernels of CSA for an NVIDIA architecture, as a training step launches them; needs no GPU.

python compile_kernels.py ARCHITECTURE DTYPE:HEAD_DIM ...; the architecture is 90 for compute capability 9.0. Prints a
line a launch: dtype and head dimension, grid, kernel and bytes of shared memory. Triton must not interpret.
"""

import math
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from convformer_monai.networks.blocks import csa_triton


class Driver:
    """Says that there is a GPU."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", int(sys.argv[1]), 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def main() -> None:
    driver.set_active(Driver())
    setting = ""

    def launch(kernel, grid):
        def compile_only(*arguments, **options):
            compiled = kernel.run(*arguments, grid=grid, warmup=True, **options)
            sys.stdout.write(f"{setting} {kernel.__name__} {compiled.metadata.shared}\n")

        return compile_only

    JITFunction.__getitem__ = launch
    for name in sys.argv[2:]:
        dtype, dim = name.split(":")
        for grid in ([8, 64], [3, 6, 5]):
            setting = f"{name} {'x'.join(map(str, grid))}"
            q = torch.zeros(1, 2, math.prod(grid), int(dim), dtype=getattr(torch, dtype))
            arguments = (q, q, q, torch.zeros(2), 0.003, 0.4, 1e-4, grid, grid)
            csa_triton._forward(*arguments)
            csa_triton._csa_backward(q, *arguments)


if __name__ == "__main__":
    main()
