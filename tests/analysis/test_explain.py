"""From an image file to figures and numbers."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from convformer_monai.analysis import measure_collapse, measure_receptive_fields
from convformer_monai.analysis.explain import ExplainOptions, explain, read_pixel
from convformer_monai.bundle import file_sha256
from convformer_monai.errors import InputRefused
from convformer_monai.networks import Windowed, make_net
from convformer_monai.phantoms.cardiac import Phantom, cardiac_phantom
from convformer_monai.phantoms.dermoscopy import dermoscopy_phantom
from convformer_monai.phantoms.head_ct import head_ct_phantom
from convformer_monai.segmenter import Segmenter

ENDINGS = ("attention.png", "collapse.png", "explain.json", "receptive_field.png")


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return cardiac_phantom(shape=(96, 104, 3), spacing=(1.8, 1.8, 10.0))


@pytest.fixture
def image(phantom: Phantom, tmp_path: Path) -> Path:
    path: Path = phantom.save(tmp_path / "in", "case")[0]
    return path


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()} if folder.exists() else set()


def refused(code: str) -> pytest.RaisesExc:
    return pytest.raises(InputRefused, match=rf"^error\[{code}\]: [^\n]+$")


def test_the_numbers_are_those_of_the_bundle(image: Path, tmp_path: Path) -> None:
    content = explain(image, tmp_path / "out", "cardiac", device="cpu")
    assert names(tmp_path / "out") == {f"case_{ending}" for ending in ENDINGS} == set(content["files"])
    assert json.loads((tmp_path / "out" / "case_explain.json").read_text()) == json.loads(json.dumps(content))
    segmenter = Segmenter("cardiac", "cpu")
    series = segmenter.read(image)
    prepared = segmenter.prepare(series).as_tensor()
    mask = segmenter.run(series).labels.numpy()[0] > 0
    place = content["place"]
    assert place["slice"] == mask.sum((0, 1)).argmax() and mask[(*place["pixel"], place["slice"])]
    assert place["network_size"] == list(prepared.shape[1:3])
    assert place["network_pixel"] == pytest.approx([(at + 0.5) * 1.2 - 0.5 for at in place["pixel"]], abs=0.3)
    slice_ = prepared[None, :, :, :, place["slice"]]  # the phantom is stored as the network sees it
    layers = [asdict(layer) for layer in measure_collapse(segmenter.network, slice_)]
    assert content["layers"] == layers and len(layers) == 2
    fields = measure_receptive_fields(segmenter.network, slice_, place["network_spacing_mm"])
    assert content["receptive_fields"] == [asdict(field) for field in fields] and len(fields) == 5 + 7
    assert fields[0].sigma_mm is not None
    assert content["network"] == {
        "name": "ConvFormerUNet",
        "block": None,
        "preset": None,
        "trained": True,
        "weights_sha256": segmenter.weights_sha256,
        "parameters": sum(p.numel() for p in segmenter.network.parameters()),
    }
    assert {"torch", "matplotlib", "convformer_monai"} <= content["versions"].keys()
    for name in content["files"]:
        if name.endswith(".png"):
            with Image.open(tmp_path / "out" / name) as picture:
                assert min(picture.size) > 200 and len(picture.convert("L").getcolors() or ()) > 10


@pytest.mark.slow
def test_slice_and_pixel_of_the_user(image: Path, tmp_path: Path) -> None:
    first = explain(image, tmp_path, options=ExplainOptions(slice=1, pixel=(40, 50)), device="cpu")
    assert (first["place"]["slice"], first["place"]["pixel"]) == (1, [40, 50])
    assert first["place"]["chosen"] == {"slice": "user", "pixel": "user"}
    moved = ExplainOptions(slice=1, pixel=(60, 50), overwrite=True)
    before = (tmp_path / "case_attention.png").read_bytes()
    second = explain(image, tmp_path, options=moved, device="cpu")
    assert second["attention"] != first["attention"] and second["layers"] == first["layers"]
    assert (tmp_path / "case_attention.png").read_bytes() != before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "block", "endings"),
    [("SETR", "vit", ENDINGS[:3]), ("SETR", "conv", ENDINGS[1:3]), ("Patcher", "convformer", ENDINGS)],
)
def test_another_network(image: Path, tmp_path: Path, net: str, block: str, endings: tuple[str, ...]) -> None:
    (tmp_path / "out").mkdir()
    for stale in ("case_attention.png", "case_receptive_field.png"):
        (tmp_path / "out" / stale).write_bytes(b"of another network")
    options = ExplainOptions(net=net, block=block, overwrite=True)
    content = explain(image, tmp_path / "out", options=options, device="cpu")
    assert names(tmp_path / "out") == {f"case_{ending}" for ending in endings} == set(content["files"])
    assert content["network"]["name"] == net and content["network"]["weights_sha256"] is None
    assert not content["network"]["trained"]
    assert bool(content["receptive_fields"]) == (block == "convformer")
    again = explain(image, tmp_path / "again", options=ExplainOptions(net=net, block=block), device="cpu")
    assert again["layers"] == content["layers"], "an untrained network is the same each time"


@pytest.mark.slow
def test_untrained_is_said_in_the_figures(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = []
    monkeypatch.setattr("convformer_monai.analysis.explain.to_png", lambda figure: titles.append(figure) or b"")
    explain(image, tmp_path / "a", options=ExplainOptions(net="FATNet", slice=2), device="cpu")
    explain(image, tmp_path / "b", options=ExplainOptions(slice=2), device="cpu")
    said = [figure.get_suptitle() for figure in titles]
    assert len(said) == 6 and all("slice 2 of 0 to 2, pixel" in title for title in said)
    assert all(title.startswith("FATNet (convformer, small), untrained; bundle Cardiac MRI") for title in said[:3])
    assert not any("untrained" in title for title in said[3:])


@pytest.mark.slow
@pytest.mark.parametrize("block", ["vit", "convformer"])
def test_weights_of_another_network(image: Path, tmp_path: Path, block: str) -> None:
    """Also where positions were learned on a grid that is not the preset's."""
    torch.manual_seed(1)
    net = make_net("SETR", 1, 4, block, "small", img_size=96).eval()
    torch.save(net.state_dict(), tmp_path / "own.pt")
    options = ExplainOptions(net="SETR", block=block, weights=tmp_path / "own.pt")
    content = explain(image, tmp_path / "out", options=options, device="cpu")
    assert content["network"]["trained"] and content["network"]["weights_sha256"] == file_sha256(tmp_path / "own.pt")
    segmenter = Segmenter("cardiac", "cpu")
    prepared = segmenter.prepare(segmenter.read(image)).as_tensor()
    expected = measure_collapse(net, prepared[None, :, :, :, content["place"]["slice"]])
    assert content["layers"] == [asdict(layer) for layer in expected]


@pytest.mark.slow
def test_a_phase_of_a_cine(tmp_path: Path) -> None:
    cine = cardiac_phantom(shape=(80, 84, 2), spacing=(2.2, 2.2, 12.0), num_phases=3)
    path, _ = cine.save(tmp_path, "cine")
    first = explain(path, tmp_path / "a", device="cpu")
    last = explain(path, tmp_path / "b", options=ExplainOptions(phase=2, slice=first["place"]["slice"]), device="cpu")
    assert (first["place"]["phase"], last["place"]["phase"]) == (0, 2) and first["layers"] != last["layers"]
    with refused("PHASE_NOT_FOUND"):
        explain(path, tmp_path / "c", options=ExplainOptions(phase=3), device="cpu")


@pytest.mark.slow
def test_a_photograph(tmp_path: Path) -> None:
    path, _ = dermoscopy_phantom(size=(256, 192)).save(tmp_path, "lesion")
    content = explain(path, tmp_path / "out", "dermoscopy", device="cpu")
    assert names(tmp_path / "out") == {f"lesion_{ending}" for ending in ENDINGS}
    assert content["place"]["slice"] is None and content["receptive_fields"][0]["sigma_mm"] is None
    with refused("OPTION"):
        explain(path, tmp_path / "no", "dermoscopy", ExplainOptions(slice=0), device="cpu")
    with refused("WRONG_KIND"):
        explain(path, tmp_path / "no", "cardiac", device="cpu")
    assert not names(tmp_path / "no")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    return Path(head_ct_phantom(shape=(96, 96, 5), spacing=(2.4, 2.4, 20.0)).save(folder, "head")[0])


def test_a_head_of_which_the_network_sees_neighbours(head: Path, tmp_path: Path) -> None:
    content = explain(head, tmp_path / "out", "hemorrhage", ExplainOptions(slice=3), device="cpu")
    assert names(tmp_path / "out") == {f"head_{ending}" for ending in ENDINGS}
    assert content["place"]["slice"] == 3
    segmenter = Segmenter("hemorrhage", "cpu")
    seen: list[torch.Tensor] = []
    segmenter.network.register_forward_pre_hook(lambda _, images: seen.append(images[0]))
    image = segmenter.prepare(segmenter.read(head))
    segmenter._inferer.foreground = None
    segmenter.scores(image)
    slice_ = seen[0][3:4].contiguous()
    assert slice_.shape[1] == 3 and not torch.equal(slice_[:, 0], slice_[:, 1])
    assert content["layers"] == [asdict(layer) for layer in measure_collapse(segmenter.network, slice_)]


def test_another_network_of_a_head(head: Path, tmp_path: Path) -> None:
    """It sees the bundle's windows of each neighbour."""
    net = ExplainOptions(net="SETR", block="vit")
    content = explain(head, tmp_path / "out", "hemorrhage", net, device="cpu")
    assert content["network"]["name"] == "SETR" and content["layers"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(
            Windowed(make_net("SETR", 9, 2, "vit", "small"), [(0, 80), (-150, 250), (0, 1000)]).state_dict(),
            tmp_path / "own.pt",
        )
    again = explain(head, tmp_path / "b", "hemorrhage", replace(net, weights=tmp_path / "own.pt"), device="cpu")
    assert again["layers"] == content["layers"] and again["network"]["trained"]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (ExplainOptions(slice=3), "OUT_OF_RANGE"),
        (ExplainOptions(pixel=(96, 0)), "OUT_OF_RANGE"),
        (ExplainOptions(block="vit"), "OPTION"),
        (ExplainOptions(preset="full"), "OPTION"),
        (ExplainOptions(weights=Path("x.pt")), "OPTION"),
        (ExplainOptions(net="UNet"), "OPTION"),
        (ExplainOptions(net="SETR", block="swin"), "OPTION"),
        (ExplainOptions(net="SETR", preset="huge"), "OPTION"),
        (ExplainOptions(net="SETR", weights=Path("nowhere.pt")), "WEIGHTS_NOT_FOUND"),
        (ExplainOptions(net="SETR", weights=Path(__file__)), "WEIGHTS_MISFIT"),
        (ExplainOptions(series_uid="1.2.3"), "NOT_DICOM"),
    ],
)
def test_refusals_leave_nothing(image: Path, tmp_path: Path, options: ExplainOptions, code: str) -> None:
    with refused(code):
        explain(image, tmp_path / "out", options=options, device="cpu")
    assert not names(tmp_path / "out")


@pytest.mark.parametrize("content", [b"hello", b"a.", b"M", b"X\x01\x00\x00\x00\xff."])
def test_damaged_weights(image: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.pt").write_bytes(content)
    with refused("WEIGHTS_MISFIT"):
        explain(image, tmp_path / "out", options=ExplainOptions(net="SETR", weights=tmp_path / "own.pt"), device="cpu")
    assert not names(tmp_path / "out")


def test_several_images_are_refused(image: Path, phantom: Phantom, tmp_path: Path) -> None:
    phantom.save(image.parent, "second")
    with refused("SEVERAL_IMAGES"):
        explain(image.parent, tmp_path / "out", device="cpu")
    with refused("FILE_NOT_FOUND"):
        explain(tmp_path / "nowhere.nii.gz", tmp_path / "out", device="cpu")


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_overwritten(image: Path, tmp_path: Path, ending: str) -> None:
    (tmp_path / f"case_{ending}").write_bytes(b"precious")
    with refused("EXISTS"):
        explain(image, tmp_path, device="cpu")
    assert (tmp_path / f"case_{ending}").read_bytes() == b"precious"
    assert names(tmp_path) == {"in", f"case_{ending}"}


def test_without_matplotlib_nothing_is_done(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with refused("MISSING_PACKAGE"):
        explain(image, tmp_path / "out", device="cpu")
    assert not names(tmp_path / "out")


@pytest.mark.parametrize("text", ["3", "3,", "-1,2", "1.5,2", "a,b", "1,2,3", "", "\u0663,1"])
def test_what_is_no_pixel(text: str) -> None:
    with refused("OPTION"):
        read_pixel(text)
    assert read_pixel("12, 7") == (12, 7) and read_pixel(None) is None
