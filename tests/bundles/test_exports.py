"""Each bundle's network written for other programs: each file gives the network's own numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export, onnx_export, verify_net_in_out
from torch import nn

from convformer_monai.bundle import component

pytestmark = pytest.mark.slow

SIZES = ((1, 160, 160), (3, 160, 160), (2, 133, 90))


@pytest.fixture
def bundle(bundle_root: Path, tmp_path: Path, randomise: Callable[..., nn.Module]) -> tuple[nn.Module, dict[str, str]]:
    """The network with random weights, and the arguments that MONAI's export commands take."""
    network = randomise(component(bundle_root, "inference", "network_def")).eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    options = {
        "net_id": "network_def",
        "ckpt_file": str(tmp_path / "model.pt"),
        "meta_file": str(bundle_root / "configs" / "metadata.json"),
        "config_file": str(bundle_root / "configs" / "inference.json"),
        "bundle_root": str(bundle_root),
    }
    return network, options


def assert_equal(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    assert ours.shape == theirs.shape
    assert ours.abs().max() > 1e-2
    assert (ours - theirs).abs().max() <= 1e-4 * ours.abs().max()


def test_network_takes_and_gives_what_the_metadata_says(bundle_root):
    configs = bundle_root / "configs"
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        bundle_root=str(bundle_root),
        n=3,
        p=1,
        any=1,
    )


def test_torchscript(kind, bundle, tmp_path):
    network, options = bundle
    ckpt_export(**options, filepath=str(tmp_path / "model.ts"))
    loaded = torch.jit.load(str(tmp_path / "model.ts")).eval()
    for batch, *plane in SIZES:
        image = torch.randn(batch, kind.channels, *plane)
        with torch.no_grad():
            assert_equal(network(image), loaded(image))


def test_onnx_with_a_dynamic_batch(kind, bundle, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    network, options = bundle
    file = tmp_path / "model.onnx"
    axes = {"image": {0: "batch"}, "pred": {0: "batch"}}
    names = {"input_names": ["image"], "output_names": ["pred"], "dynamic_axes": axes}
    onnx_export(**options, filepath=str(file), input_shape=[2, kind.channels, 160, 160], converter_kwargs=names)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for batch, *plane in SIZES[:2]:
        image = torch.randn(batch, kind.channels, *plane)
        (theirs,) = session.run(["pred"], {"image": np.asarray(image)})
        with torch.no_grad():
            assert_equal(network(image), torch.from_numpy(theirs))
