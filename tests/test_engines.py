"""`--engine openvino`: the masks of torch, graphs kept on disk, and what is refused before the work."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nibabel as nib
import pytest
import torch
from torch import Tensor, nn

from convformer_monai.bundle import Bundle
from convformer_monai.engines import check_engine
from convformer_monai.errors import InputRefused, RefusalCode
from convformer_monai.measurements.overlap import dice
from convformer_monai.networks import ConvFormerUNet
from convformer_monai.openvino_network import OpenVinoNetwork, graph_folder
from convformer_monai.phantoms.cardiac import cardiac_phantom
from convformer_monai.readers.memory import series_from
from convformer_monai.segmenter import Segmenter


@pytest.fixture
def graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where graphs are kept during a test."""
    monkeypatch.setenv("CONVFORMER_CACHE", str(tmp_path / "graphs"))
    return tmp_path / "graphs"


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return ConvFormerUNet(2, 1, 3, channels=(8, 16, 16), num_layers=(0, 1, 1), head_dim=8, deep_supervision=True).eval()


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sizes for which a graph is made."""
    made: list[tuple[int, ...]] = []
    convert = OpenVinoNetwork._convert

    def counted(self: OpenVinoNetwork, size: tuple[int, ...]) -> object:
        made.append(size)
        return convert(self, size)

    monkeypatch.setattr(OpenVinoNetwork, "_convert", counted)
    return made


def scores(network: nn.Module, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(batch)  # type: ignore[no-any-return]


def close(found: Tensor, network: nn.Module, batch: Tensor) -> bool:
    """As close as bfloat16 comes, where OpenVINO computes in it; another image's scores differ by a third."""
    expected = scores(network, batch)
    return float((found - expected).norm()) < 0.05 * float(expected.norm())


class TestOpenVinoNetwork:
    def test_scores_of_any_size_and_number_of_slices(self, network: nn.Module, graphs: Path) -> None:
        in_openvino = OpenVinoNetwork(network, "a" * 64)
        for batch in (torch.randn(3, 1, 48, 40), torch.randn(1, 1, 48, 40), torch.randn(2, 1, 37, 51)):
            assert close(in_openvino(batch), network, batch)

    def test_scores_stay_when_the_next_ones_come(self, network: nn.Module, graphs: Path) -> None:
        in_openvino = OpenVinoNetwork(network, "a" * 64)
        first = in_openvino(torch.randn(1, 1, 32, 32))
        kept = first.clone()
        in_openvino(torch.randn(1, 1, 32, 32))
        assert torch.equal(first, kept)

    def test_graph_is_kept_for_the_next_process(
        self, network: nn.Module, graphs: Path, conversions: list[tuple[int, ...]]
    ) -> None:
        batch = torch.randn(2, 1, 32, 40)
        first = OpenVinoNetwork(network, "a" * 64)(batch)
        second = OpenVinoNetwork(network, "a" * 64)(batch)
        assert conversions == [(1, 32, 40)]
        assert torch.equal(first, second)
        assert [path.name for path in graphs.iterdir()] == [path.name for path in graphs.glob("aaaaaaaaaaaaaaaa-*")]

    def test_other_weights_have_other_graphs(
        self, network: nn.Module, graphs: Path, conversions: list[tuple[int, ...]]
    ) -> None:
        batch = torch.randn(1, 1, 32, 32)
        OpenVinoNetwork(network, "a" * 64)(batch)
        OpenVinoNetwork(network, "b" * 64)(batch)
        assert len(conversions) == 2

    def test_another_network_with_the_same_weights_has_other_graphs(
        self, network: nn.Module, graphs: Path, conversions: list[tuple[int, ...]]
    ) -> None:
        """As a config gives one that says more than the weights do."""
        batch = torch.randn(1, 1, 32, 32)
        OpenVinoNetwork(network, "a" * 64, "grid 8")(batch)
        OpenVinoNetwork(network, "a" * 64, "grid 4")(batch)
        OpenVinoNetwork(network, "a" * 64, "grid 8")(batch)
        assert len(conversions) == 2

    def test_user_without_a_home_and_unfinished_graphs(
        self,
        network: nn.Module,
        graphs: Path,
        conversions: list[tuple[int, ...]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        batch = torch.randn(1, 1, 32, 32)
        for name, age in ((".graph-old", 2 * 86_400), (".graph-new", 60)):
            (graphs / name).mkdir(parents=True)
            os.utime(graphs / name, times=(time.time() - age,) * 2)
        kept = OpenVinoNetwork(network, "a" * 64)(batch)
        assert {path.name for path in graphs.glob(".graph*")} == {".graph-new"}

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr("convformer_monai.openvino_network.graph_folder", homeless)
        assert torch.equal(OpenVinoNetwork(network, "a" * 64)(batch), kept) and len(conversions) == 2

    def test_damaged_graph_is_made_anew(
        self, network: nn.Module, graphs: Path, conversions: list[tuple[int, ...]]
    ) -> None:
        batch = torch.randn(1, 1, 32, 32)
        OpenVinoNetwork(network, "a" * 64)(batch)
        next(graphs.glob("*/graph.xml")).write_text("<net")
        assert close(OpenVinoNetwork(network, "a" * 64)(batch), network, batch)
        assert len(conversions) == 2
        OpenVinoNetwork(network, "a" * 64)(batch)
        assert len(conversions) == 2

    def test_scores_are_the_same_where_no_graph_can_be_kept(
        self, network: nn.Module, graphs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batch = torch.randn(2, 1, 32, 40)
        kept = OpenVinoNetwork(network, "a" * 64)(batch)
        (tmp_path / "file").touch()
        monkeypatch.setenv("CONVFORMER_CACHE", str(tmp_path / "file"))
        assert torch.equal(OpenVinoNetwork(network, "a" * 64)(batch), kept)

    def test_graph_of_another_user_is_made_anew(
        self,
        network: nn.Module,
        graphs: Path,
        conversions: list[tuple[int, ...]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        batch = torch.randn(2, 1, 32, 40)
        first = OpenVinoNetwork(network, "a" * 64)(batch)
        is_file = Path.is_file

        def forbidden(path: Path) -> bool:
            if graphs in path.parents:
                raise PermissionError(13, "Permission denied")
            return is_file(path)

        monkeypatch.setattr(Path, "is_file", forbidden)
        assert torch.equal(OpenVinoNetwork(network, "a" * 64)(batch), first)
        assert len(conversions) == 2

    def test_weights_of_a_kept_graph_are_not_rounded(self, network: nn.Module, graphs: Path) -> None:
        OpenVinoNetwork(network, "a" * 64)(torch.randn(1, 1, 32, 32))
        (weights,) = graphs.glob("*/graph.bin")
        assert weights.stat().st_size >= 4 * sum(one.numel() for one in network.parameters() if one.requires_grad) * 0.9

    def test_nothing_is_reported_to_its_maker(self, network: nn.Module, graphs: Path) -> None:
        OpenVinoNetwork(network, "a" * 64)(torch.randn(1, 1, 32, 32))
        from openvino.tools.ovc import convert_impl

        assert convert_impl.tm.__name__ == "openvino.tools.ovc.telemetry_stub"
        assert "openvino_telemetry" not in sys.modules


def test_graphs_are_in_the_folder_for_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVFORMER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert graph_folder() == Path("/cache/convformer_monai")


def test_shipped_bundle_gives_the_same_mask(graphs: Path) -> None:
    phantom = cardiac_phantom(seed=0)
    series = series_from(nib.Nifti1Image(phantom.image, phantom.affine))
    torch_mask = Segmenter("cardiac", "cpu").run(series).labels.numpy()
    segmenter = Segmenter("cardiac", engine="openvino")
    assert dice(segmenter.run(series).labels.numpy(), torch_mask) > 0.999  # bfloat16: 0.99945 on one thread
    assert segmenter.runs_on.startswith("cpu, OpenVINO ")


class TestRefusals:
    def test_bundle_whose_masks_differ(self) -> None:
        with pytest.raises(InputRefused, match="not known to give the same masks with openvino"):
            check_engine("openvino", Bundle("hemorrhage"))

    def test_other_device(self) -> None:
        with pytest.raises(InputRefused, match="openvino runs on the CPU, not on cuda"):
            check_engine("openvino", Bundle("cardiac"), "cuda")

    def test_unknown_engine(self) -> None:
        with pytest.raises(InputRefused, match="'tensorrt' is not an engine: give torch or openvino"):
            check_engine("tensorrt", Bundle("cardiac"))

    def test_package_that_is_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("convformer_monai.engines.find_spec", lambda name: None)
        with pytest.raises(InputRefused, match=r"pip install 'convformer_monai\[openvino\]'") as refusal:
            check_engine("openvino", Bundle("cardiac"))
        assert refusal.value.code == RefusalCode.MISSING_PACKAGE
        check_engine("torch", Bundle("hemorrhage"), "cuda")


def test_another_config_is_another_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two bundles of the same weights may differ in what the weights do not hold."""
    asked: list[tuple[str, str]] = []

    class Recorder:
        version = "0"

        def __init__(self, network: nn.Module, weights_sha256: str, definition: str) -> None:
            asked.append((weights_sha256, definition))

    monkeypatch.setattr("convformer_monai.openvino_network.OpenVinoNetwork", Recorder)
    for overrides in ({}, {"network_def#grid_sizes": [128, 64, 32, 16, 4]}, {}):
        Segmenter("cardiac", engine="openvino", overrides=overrides)
    assert asked[0] == asked[2] and asked[0][0] == asked[1][0] and asked[0][1] != asked[1][1]
