"""The names under which blocks and nets are chosen: two MONAI component stores."""

from __future__ import annotations

from monai.utils import ComponentStore
from torch import nn

BLOCKS = ComponentStore("block", "blocks on a feature map: (B, C, *spatial) -> (B, C, *spatial)")
NETS = ComponentStore("net", "segmentation nets: (B, in_channels, *spatial) -> (B, out_channels, *spatial)")


def lookup(store: ComponentStore, name: str) -> type[nn.Module]:
    """The class that ``store`` holds under ``name``.

    Raises:
        ValueError: there is none; the message lists the names that there are.
    """
    if name not in store:
        raise ValueError(f"{store.name} must be one of {', '.join(sorted(store.names))}, got {name!r}")
    return store[name]  # type: ignore[no-any-return]
