"""``convformer-monai export``: a bundle's network out to other programs, or trained weights into a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.readers.cases import refuse_no_file

__all__ = ["export"]


def export(
    bundle: str | None, *, output: Path | None = None, weights: Sequence[Path] = (), overwrite: bool = False
) -> None:
    """Does one of the two.

    Args:
        bundle: see :class:`convformer_monai.bundle.Bundle`; ``None`` for the cardiac one, for the network only.
        output: file of the network to write, see :func:`convformer_monai.export.export_network`.
        weights: file of a state dict to put into the bundle, see :func:`convformer_monai.bundle.save_weights`; of
            several their mean.
        overwrite: replace the file of the network, or the weights of a bundle in the installed package.

    Raises:
        InputRefused: if not exactly one file is given, or it cannot be used.
    """
    if (output is None) == (not weights):
        raise InputRefused(
            RefusalCode.OPTION, "give either --output FILE or --weights FILE; see convformer-monai export --help"
        )
    if output is not None:
        from convformer_monai.export import export_network

        export_network(bundle or "cardiac", output, overwrite=overwrite)
    if weights:
        if bundle is None:
            raise InputRefused(
                RefusalCode.OPTION, "name the bundle that gets the weights: export BUNDLE --weights FILE"
            )
        for file in weights:
            if not file.is_file():
                refuse_no_file(file, "give the best.pt of a training as --weights", RefusalCode.WEIGHTS_NOT_FOUND)
        from convformer_monai.bundle import INSTALLED, Bundle, save_weights

        root = Bundle(bundle).root
        if root.parent.name == INSTALLED and not overwrite:
            raise InputRefused(
                RefusalCode.EXISTS,
                f"{root} belongs to the installed package; export into a copy of that folder, or add --overwrite",
            )
        save_weights(weights, root)
