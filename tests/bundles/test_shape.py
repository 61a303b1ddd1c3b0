"""All bundles have one shape: the same files, the same ids, a model card that says the same things."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from bundle_kinds import KINDS, Kind, heads

from convformer_monai.bundle import BUNDLES, Bundle, component

FILES = {
    "LICENSE",
    "configs/evaluate.json",
    "configs/inference.json",
    "configs/logging.conf",
    "configs/metadata.json",
    "configs/multi_gpu_train.json",
    "configs/train.json",
    "configs/finetune.json",
    "docs/README.md",
    "docs/data_license.txt",
}
OPTIONAL = {"configs/runs.json", "models/model.pt"}
# Those of the model zoo's cards.
SECTIONS = (
    "Overview",
    "Data",
    "Training configuration",
    "Performance",
    "Commands",
    "Limitations",
    "License",
    "References",
)
USED = (  # by the segmenter, the scripts and the other configs
    "device datalist dataset_dir output_dir weights weights_sha256 amp flips slice_batch_size reader preparation "
    "preprocessing network_def network inferer native_labels postprocessing evaluator run modality"
).split()


def test_every_bundle_of_the_catalogue_is_tested() -> None:
    assert {kind.name: kind.folder for kind in KINDS.values()} == BUNDLES


def test_files(bundle_root: Path) -> None:
    found = {str(path.relative_to(bundle_root)) for path in bundle_root.rglob("*") if path.is_file()}
    assert FILES <= found <= FILES | OPTIONAL


@pytest.mark.parametrize("config", ["inference", "train"])
def test_configs_can_be_read_and_name_the_ids_that_are_used(bundle_root: Path, config: str) -> None:
    content = json.loads((bundle_root / "configs" / f"{config}.json").read_text())
    assert {"bundle_root", "dataset_dir", "output_dir", "device", "initialize", "run"} <= set(content)
    if config == "inference":
        assert set(USED) <= set(content)


def test_metadata_agree_with_network_and_labels(kind: Kind, bundle_root: Path) -> None:
    metadata = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    network = component(bundle_root, "inference", "network_def")
    inputs = metadata["network_data_format"]["inputs"]["image"]
    outputs = metadata["network_data_format"]["outputs"]["pred"]
    assert inputs["num_channels"] == len(inputs["channel_def"]) == kind.channels
    assert outputs["num_channels"] == len(outputs["channel_def"]) == heads(network)[-1][-1].out_channels == kind.classes
    assert outputs["channel_def"] == {
        "0": "background",
        **{str(label.index): label.name for label in Bundle(bundle_root).labels},
    }
    assert metadata["version"] in metadata["changelog"]
    assert "not a medical device" in metadata["intended_use"].lower()
    assert sum(parameter.numel() for parameter in network.parameters()) < 8e6


def test_model_card_says_what_every_card_says(bundle_root: Path) -> None:
    card = (bundle_root / "docs" / "README.md").read_text()
    headings = [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]
    assert headings == list(SECTIONS)
    assert "not a medical device" in card and "### Cost on a CPU" in card


def test_model_card_works_where_the_bundle_is_unzipped(bundle_root: Path) -> None:
    card = (bundle_root / "docs" / "README.md").read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", card)
    assert links
    for link in links:
        assert (bundle_root / "docs" / link).resolve().is_relative_to(bundle_root), link
        assert (bundle_root / "docs" / link).exists(), link
    assert not re.search(r"scripts/|\.\./shared|bundles/", card), "these are in the repository only"


def test_data_licence_names_the_terms_of_data_and_weights(bundle_root: Path) -> None:
    text = (bundle_root / "docs" / "data_license.txt").read_text()
    assert "Weights" in text and "not part of this bundle" in text
    licence = (bundle_root / "LICENSE").read_text()
    first, _, apache = licence.partition("\n---")
    assert "weights (models/model.pt" in first and "no commercial use" in first and "docs/data_license.txt" in first
    assert "Apache License" in apache


def test_licences_of_code_and_weights_are_told_apart(bundle_root: Path) -> None:
    bundle = Bundle(bundle_root)
    assert bundle.licence() == {
        "code": "Apache-2.0",
        "weights": bundle.metadata["license_weights"],
    }
    assert re.search("research use only|no commercial use", bundle.licence()["weights"])
    assert bundle.licence("ab" * 32)["weights"].startswith("not stated")
    card = (bundle_root / "docs" / "README.md").read_text().partition("## License")[2]
    assert "Apache-2.0" in card and re.search("no commercial use|for research use only", card)
