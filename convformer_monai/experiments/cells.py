"""The cells of each experiment: what is trained, and with which cell it is compared.

``table1`` is Table 1 of the ConvFormer paper (Lin et al., MICCAI 2023, arXiv 2309.05674), nets x blocks; ``alpha`` its
ablation of the upper bound of the receptive field; ``controls`` a bundle's own network beside the controls that its
``configs/runs.json`` names; ``fraction`` that network, others in its place and nnU-Net's, trained on a share of the
patients with about as many steps as on all, since the paper expects attention to collapse where data are few. Every
cell is trained by the bundle's own command, which differs in the network only.

A net of the paper's table learns positions for images of one size and measures distances in fractions of the image. So
where a bundle trains on crops, these nets also segment crops: windows of the size of the training's, laid over the
slice by MONAI's ``SliceInferer``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convformer_monai.bundle import Bundle
from convformer_monai.networks.nets.transfuse import LOSS_WEIGHTS
from convformer_monai.networks.presets import PRESETS
from convformer_monai.networks.registry import BLOCKS, NETS, lookup
from convformer_monai.training.plan import read_plan

__all__ = ["EXPERIMENTS", "Cell", "make_cells"]

EXPERIMENTS = ("table1", "alpha", "controls", "fraction")
TABLE_NETS = ("SETR", "TransUNet", "TransFuse", "FATNet", "Patcher")
TABLE_BLOCKS = ("vit", "reattention", "layerscale", "refiner", "convformer", "conv", "identity")
ALPHAS = (0.2, 0.4, 0.6, 0.8, 1.0)
PUBLISHED_ALPHA = 0.4
SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
FRACTION_NETWORKS = ("convformer", "vit", "conv", "nnunet")
OVERLAP = 0.25


@dataclass(frozen=True)
class Cell:
    """One network of an experiment.

    Attributes:
        name: of its folder and row.
        labels: what the table shows of it, by column.
        reference: name of the cell that it is compared with.
        network: values by id that replace those of the bundle's ``inference.json``.
        training: values by id that replace those of its ``train.json``.
    """

    name: str
    labels: Mapping[str, str]
    reference: str
    network: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def values(self) -> dict[str, Any]:
        """All that a training of this cell changes in ``train.json``."""
        changes = dict(self.training)
        if self.network:
            changes["network_def#overrides"] = dict(self.network)
        if "inferer" in self.network:
            changes["validate#inferer"] = self.network["inferer"]
        return changes


def make_cells(
    experiment: str, bundle_root: Path, preset: str = "small", nets: Sequence[str] = (), blocks: Sequence[str] = ()
) -> list[Cell]:
    """The cells of an experiment.

    Args:
        experiment: one of :data:`EXPERIMENTS`.
        bundle_root: folder of the bundle whose data and training are used.
        preset: size of the nets, see :data:`convformer_monai.networks.presets.PRESETS`; not for ``controls``.
        nets: which; none for all. Of ``controls`` the names in ``configs/runs.json``, of ``fraction`` those of
            :data:`FRACTION_NETWORKS`.
        blocks: of ``table1``; none for all.

    Raises:
        InputRefused: if the bundle has no usable ``configs/runs.json``.
        ValueError: if a name is unknown.
    """
    if experiment == "controls":
        return _controls(bundle_root, nets)
    if experiment == "fraction":
        return _fractions(bundle_root, nets)
    if experiment not in EXPERIMENTS:
        raise ValueError(f"experiment must be one of {', '.join(EXPERIMENTS)}, got {experiment!r}")
    for net in nets:
        lookup(NETS, net)
        if preset not in PRESETS[net]:
            raise ValueError(f"preset of {net} must be one of {', '.join(PRESETS[net])}, got {preset!r}")
    for block in blocks:
        lookup(BLOCKS, block)
    if experiment == "table1":
        pairs = [(net, block) for net in nets or TABLE_NETS for block in blocks or TABLE_BLOCKS]
        return [
            _cell(bundle_root, f"{net}_{block}", {"net": net, "block": block}, f"{net}_convformer", net, block, preset)
            for net, block in pairs
        ]
    if blocks:
        raise ValueError("blocks are for table1; alpha is about ConvFormer only")
    return [
        _cell(
            bundle_root,
            f"{net}_alpha{alpha}",
            {"net": net, "alpha": str(alpha)},
            f"{net}_alpha{PUBLISHED_ALPHA}",
            net,
            "convformer",
            preset,
            block_kwargs={"alpha": alpha},
        )
        for net in nets or ("SETR",)
        for alpha in ALPHAS
    ]


def _controls(bundle_root: Path, names: Sequence[str]) -> list[Cell]:
    networks: dict[str, Any] = read_plan(bundle_root)["networks"]
    for name in names:
        if name not in networks:
            raise ValueError(f"nets must be among {', '.join(networks)}, got {name!r}")
    reference = next(iter(networks))
    return [Cell(name, {"network": name}, reference, networks[name]) for name in names or networks]


def _fractions(bundle_root: Path, names: Sequence[str]) -> list[Cell]:
    bundle = Bundle(bundle_root)
    if "share" not in bundle.read("train"):
        raise ValueError(f"{bundle.name} has no share in its train.json: fraction is for cardiac and dermoscopy")
    for name in names:
        if name not in FRACTION_NETWORKS:
            raise ValueError(f"nets must be among {', '.join(FRACTION_NETWORKS)}, got {name!r}")
    own = bundle.read("inference")["network_def"]
    nnunet = {
        "_target_": "convformer_monai.benchmarks.reference_nets.PaddedNNUNet",
        "in_channels": own["in_channels"],
        "out_channels": own["out_channels"],
    }
    networks: dict[str, dict[str, Any]] = {name: {"network_def#block": name} for name in ("vit", "conv")}
    networks |= {"convformer": {}, "nnunet": {"network_def": nnunet}}
    return [
        Cell(
            f"{name}_{share:.0%}".replace("%", "percent"),
            {"network": name, "patients": f"{share:.0%}"},
            f"convformer_{share:.0%}".replace("%", "percent"),
            networks[name],
            {"share": share},
        )
        for share in SHARES
        for name in names or FRACTION_NETWORKS
    ]


def _cell(
    bundle_root: Path,
    name: str,
    labels: Mapping[str, str],
    reference: str,
    net: str,
    block: str,
    preset: str,
    **arguments: Any,
) -> Cell:
    bundle = Bundle(bundle_root)
    inference, train = bundle.read("inference"), bundle.read("train")
    windowed = inference["network_def"] if "network" in inference["network_def"] else None
    own = windowed["network"] if windowed else inference["network_def"]
    definition = {
        "_target_": "convformer_monai.networks.make_net",
        "name": net,
        "in_channels": own["in_channels"],
        "out_channels": own["out_channels"],
        "block": block,
        "preset": preset,
        **arguments,
    }
    crop = train.get("crop")
    training: dict[str, Any] = {"loss#weights": list(LOSS_WEIGHTS)} if net == "TransFuse" else {}
    if windowed:  # whose training has crops of several sizes, and whose inferer shows neighbours
        crop = crop[0]
        training["crop"] = crop
    if "img_size" in inspect.signature(lookup(NETS, net)).parameters:
        definition["img_size"] = crop or train["canvas"]
    network: dict[str, Any] = {"network_def": {**windowed, "network": definition} if windowed else definition}
    if crop and not windowed:
        network["inferer"] = {
            "_target_": "SliceInferer",
            "roi_size": crop,
            "spatial_dim": 2,
            "sw_batch_size": inference["slice_batch_size"],
            "overlap": OVERLAP,
            "mode": "gaussian",
        }
    return Cell(name, labels, reference, network, training)
