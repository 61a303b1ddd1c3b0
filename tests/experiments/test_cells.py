"""Which networks an experiment trains."""

import json
from pathlib import Path

import pytest
from bundle_kinds import KINDS, Kind

from convformer_monai.bundle import component
from convformer_monai.experiments import EXPERIMENTS, make_cells
from convformer_monai.experiments.cells import TABLE_BLOCKS, TABLE_NETS


@pytest.mark.parametrize(
    ("experiment", "kind"),
    [(one, kind) for one in EXPERIMENTS for kind in KINDS.values() if (one, kind.name) != ("fraction", "hemorrhage")],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_cell_is_compared_with_one_of_its_experiment(experiment: str, kind: Kind) -> None:
    cells = make_cells(experiment, kind.root)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) > 1
    assert {cell.reference for cell in cells} <= set(names)
    assert len({tuple(cell.labels) for cell in cells}) == 1


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_cells_are_the_bundles_network_definition(kind: Kind) -> None:
    import torch

    (cell,) = make_cells("table1", kind.root, nets=["SETR"], blocks=["vit"])
    network = component(kind.root, "inference", "network_def", cell.network).eval()
    assert network(torch.zeros(1, kind.channels, 40, 24)).shape == (1, kind.classes, 40, 24)
    values = cell.values()
    assert values["network_def#overrides"] == cell.network
    # Nets that learn positions segment windows of the size they were trained on; dermoscopy trains on whole pictures,
    # and the inferer of hemorrhage shows neighbours.
    assert ("validate#inferer" in values) == (kind.name == "cardiac")


def test_table1_and_alpha(cardiac_root: Path) -> None:
    cells = make_cells("table1", cardiac_root)
    assert len(cells) == len(TABLE_NETS) * len(TABLE_BLOCKS)
    few = make_cells("table1", cardiac_root, nets=["TransFuse"], blocks=["vit", "convformer"])
    assert [cell.name for cell in few] == ["TransFuse_vit", "TransFuse_convformer"]
    assert few[0].reference == "TransFuse_convformer"
    assert few[0].training["loss#weights"] == [0.5, 0.3, 0.2]
    alphas = make_cells("alpha", cardiac_root)
    assert [cell.network["network_def"]["block_kwargs"]["alpha"] for cell in alphas] == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_controls_are_those_of_the_bundle(cardiac_root: Path) -> None:
    assert [cell.name for cell in make_cells("controls", cardiac_root)] == ["convformer", "conv", "basicunet"]
    (cell,) = make_cells("controls", cardiac_root, nets=["conv"])
    assert cell.network == {"network_def#block": "conv"} and cell.reference == "convformer"
    assert make_cells("controls", cardiac_root)[0].values() == {}


@pytest.mark.parametrize("name", ["cardiac", "dermoscopy"])
def test_fraction(name: str) -> None:
    import torch

    kind = KINDS[name]
    cells = make_cells("fraction", kind.root)
    assert len(cells) == 4 * 5 and [cell.training["share"] for cell in cells[::4]] == [0.05, 0.1, 0.25, 0.5, 1.0]
    assert cells[1].labels == {"network": "vit", "patients": "5%"} and cells[1].reference == "convformer_5percent"
    for cell in cells[:4]:
        network = component(kind.root, "inference", "network_def", cell.network).eval()
        assert network(torch.zeros(1, kind.channels, 41, 75)).shape == (1, kind.classes, 41, 75)


@pytest.mark.parametrize("name", ["cardiac", "dermoscopy"])
def test_a_share_is_one_of_the_cases_with_an_epoch_as_long(name: str, tmp_path: Path) -> None:
    """Photographs have a patient each, whatever their names have in common."""
    cases = [{"image": f"ISIC_{n:04}.png", "label": f"ISIC_{n:04}_m.png"} for n in range(20)]
    if name == "cardiac":
        cases = [{**case, "patient": f"p{number}"} for number, case in enumerate(cases)]
    for case in cases:
        for file in case.values():
            (tmp_path / file).touch() if isinstance(file, str) and file.endswith("png") else None
    (tmp_path / "datalist.json").write_text(json.dumps({"train": cases}))
    overrides = {"dataset_dir": str(tmp_path), "share": 0.25}
    ids = ["train#dataset#data", "train#batches#of_cases"]
    found = component(KINDS[name].root, "train", ids, overrides)
    assert len(found["train#dataset#data"]) == 5 and found["train#batches#of_cases"] == 20


@pytest.mark.parametrize(
    ("experiment", "arguments", "what"),
    [
        ("table2", {}, "experiment must be one of table1, alpha, controls, fraction"),
        ("table1", {"nets": ["UNet"]}, "net must be one of"),
        ("table1", {"blocks": ["mlp"]}, "block must be one of"),
        ("table1", {"nets": ["SETR"], "preset": "tiny"}, "preset of SETR must be one of"),
        ("alpha", {"blocks": ["vit"]}, "blocks are for table1"),
        ("fraction", {"nets": ["SETR"]}, "nets must be among convformer, vit, conv, nnunet"),
        ("controls", {"nets": ["vit"]}, "nets must be among convformer, conv, basicunet"),
    ],
)
def test_unknown_names_are_refused(cardiac_root: Path, experiment: str, arguments: dict, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        make_cells(experiment, cardiac_root, **arguments)


def test_fraction_is_for_trainings_that_know_shares() -> None:
    with pytest.raises(ValueError, match="fraction is for cardiac and dermoscopy"):
        make_cells("fraction", KINDS["hemorrhage"].root)


@pytest.fixture
def cardiac_root() -> Path:
    return KINDS["cardiac"].root
