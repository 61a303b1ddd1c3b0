"""CSA beside its published formulation and torch's softmax attention, in one run on this machine.

All three take the same queries, keys and values, ``(1, heads, N, d)``, and run in turn, so that a busy machine slows
them alike. Peak memory is that of a process of its own: what it grows by during one call.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from convformer_monai.benchmarks.interruption import begins_anew
from convformer_monai.benchmarks.measures import median_seconds, peak_growth
from convformer_monai.benchmarks.processes import in_own_process
from convformer_monai.networks import CSA

EPS = 1e-4
SOFTMAX = "torch softmax (SDPA)"  # another function, so without error


def squared_distances(grid: Sequence[int], like: Tensor) -> Tensor:
    """Squared distances ``(N, N)`` of all grid points, in fractions of the grid; the published code makes them once."""
    axes = [torch.arange(size, device=like.device, dtype=like.dtype) / size for size in grid]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)  # (N, axes)
    return sum((points[:, None, axis] - points[None, :, axis]) ** 2 for axis in range(len(grid)))  # type: ignore


def published_csa(q: Tensor, k: Tensor, v: Tensor, sigma: Tensor, squared: Tensor) -> Tensor:
    """CSA as published, with all N x N tensors (Lin et al., MICCAI 2023, arXiv 2309.05674).

    Args:
        q: queries, ``(B, heads, N, d)``.
        k: keys, ``(B, heads, N, d)``.
        v: values, ``(B, heads, N, d)``.
        sigma: standard deviation of each head's Gaussian, ``(heads,)``.
        squared: squared distances, ``(N, N)``.

    Returns:
        ``(B, heads, N, d)``.
    """
    gaussian = torch.exp(-squared / (2 * sigma[:, None, None] ** 2))  # (heads, N, N)
    gaussian = gaussian / gaussian.sum(-1, keepdim=True)
    length_q = torch.sqrt((q * q).sum(-1, keepdim=True) + EPS)
    length_k = torch.sqrt((k * k).sum(-1, keepdim=True) + EPS)
    cosine = q @ k.transpose(-1, -2) / (length_q @ length_k.transpose(-1, -2) + EPS)  # (B, heads, N, N)
    return (cosine * gaussian) @ v


class Case:
    """One size: random inputs, a CSA with random parameters, and the three formulations as functions without argument.

    Args:
        size: grid points along each of two axes.
        heads: attention heads.
        head_dim: channels of a head.
    """

    def __init__(self, size: int, heads: int, head_dim: int) -> None:
        torch.manual_seed(0)
        self.grid = [size, size]
        self.csa = CSA(2, 1, heads, head_dim).eval()
        self.sigma = self.csa.sigma().detach()
        self.q, self.k, self.v = torch.randn(3, 1, heads, size * size, head_dim)
        self.squared = squared_distances(self.grid, self.q)
        self.contestants: dict[str, Callable[[], Tensor]] = {
            "ours": lambda: self.csa.mix(self.q, self.k, self.v, self.grid),
            "published": lambda: published_csa(self.q, self.k, self.v, self.sigma, self.squared),
            SOFTMAX: lambda: F.scaled_dot_product_attention(self.q, self.k, self.v),
        }

    def truth(self) -> Tensor:
        """The published formulation in float64."""
        squared = squared_distances(self.grid, self.q.double())
        heads = []  # one at a time: a float64 tensor of 64 x 64 tokens squared takes 128 MiB a head
        for h in range(len(self.sigma)):
            q, k, v = (x[:, h : h + 1].double() for x in (self.q, self.k, self.v))
            heads.append(published_csa(q, k, v, self.sigma[h : h + 1].double(), squared))
        return torch.cat(heads, dim=1)


@torch.inference_mode()
def peak_of(name: str, size: int, heads: int, head_dim: int) -> int:
    """Peak memory growth of one contestant, in bytes; for a process of its own."""
    return peak_growth(Case(size, heads, head_dim).contestants[name])


@begins_anew()
def run(sizes: Sequence[int], heads: int, head_dim: int, repeats: int, threads: int = 0) -> None:
    """Measures and writes the table to standard output.

    Args:
        sizes: grid points along an edge.
        heads: attention heads.
        head_dim: channels of a head.
        repeats: of each formulation.
        threads: of torch; 0 for all.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    with torch.inference_mode():
        sys.stdout.write(
            f"{heads} heads x {head_dim}, one image, float32, {torch.get_num_threads()} threads, "
            f"torch {torch.__version__}, {platform.machine()}\n"
            f"{'tokens':>8}  {'formulation':<22}{'median ms':>10}{'peak MiB':>10}{'relative error':>16}{'speed':>8}\n"
        )
        for size in sizes:
            _write_rows(size, heads, head_dim, repeats)


def _write_rows(size: int, heads: int, head_dim: int, repeats: int) -> None:
    case = Case(size, heads, head_dim)
    truth = case.truth()
    seconds = median_seconds(case.contestants, repeats)
    for name, call in case.contestants.items():
        peak = in_own_process(peak_of, name, size, heads, head_dim) / 2**20
        error = "-" if name == SOFTMAX else f"{float((call() - truth).norm() / truth.norm()):.1e}"
        ratio = seconds["published"] / seconds[name]
        tokens = f"{size}x{size}"
        sys.stdout.write(f"{tokens:>8}  {name:<22}{seconds[name] * 1e3:>10.1f}{peak:>10.1f}{error:>16}{ratio:>7.2f}x\n")
        sys.stdout.flush()
