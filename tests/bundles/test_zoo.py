"""What the checks of MONAI's model zoo do with a bundle: `ci/verify_bundle.py`, and a run of every mode it names.

Files, the metadata's form, network in and out and ONNX are in `test_shape.py`, `test_bundle.py` and `test_exports.py`;
`inference.json` and `multi_gpu_train.json` are run in `test_inference.py` and `test_training.py`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from bundle_kinds import SMALL, Kind, random_data
from monai.bundle import ConfigWorkflow, ckpt_export

from convformer_monai.bundle import Bundle, load_weights

MANDATORY = "schema version changelog monai_version pytorch_version numpy_version required_packages_version task "
MANDATORY += "description authors copyright network_data_format"
QUICK = {"max_epochs": 1, "val_interval": 1, "batch_size": 4, "warmup_epochs": 1, "device": "cpu"}
LARGEST = 25_000_000  # what is larger, the zoo keeps elsewhere


def workflow(kind: Kind, kind_of_run: str, *configs: str, **options: object) -> ConfigWorkflow:
    """MONAI's workflow of one or more configs, checked as the zoo's own tests check it."""
    bundle = Bundle(kind.root)
    made = ConfigWorkflow(
        config_file=[str(bundle.path(config)) for config in configs],
        meta_file=str(bundle.path("metadata")),
        logging_file=False,
        workflow_type=kind_of_run,
        bundle_root=str(kind.root),
        **options,
    )
    made.initialize()
    assert made.check_properties() == []
    return made


def test_files_and_metadata(kind: Kind) -> None:
    bundle = Bundle(kind.root)
    assert set(MANDATORY.split()) <= set(bundle.metadata)
    assert re.search(r"/meta_schema_\d{8}\.json$", bundle.metadata["schema"])
    assert next(iter(bundle.metadata["changelog"])) == bundle.version, "the newest first"
    assert max(file.stat().st_size for file in kind.root.rglob("*") if file.is_file()) < LARGEST
    modes = {file.stem for file in (kind.root / "configs").glob("*.json")}
    assert modes - {"metadata", "runs"} == {
        *("inference", "evaluate"),
        *("train", "finetune", "multi_gpu_train"),
    }


@pytest.mark.slow
def test_the_shipped_weights_become_torchscript(kind: Kind, tmp_path: Path) -> None:
    bundle = Bundle(kind.root)
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(bundle.weights),
        meta_file=str(bundle.path("metadata")),
        config_file=str(bundle.path("inference")),
        bundle_root=str(kind.root),
    )
    image = torch.randn(2, kind.channels, 96, 80)
    own = load_weights(bundle.get("network_def"), bundle.weights).eval()
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts").eval()(image), own(image))


@pytest.mark.slow
def test_evaluation(kind: Kind, weights: Path, tmp_path: Path) -> None:
    random_data(kind, tmp_path)
    options = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    made = workflow(kind, "infer", "inference", "evaluate", weights=str(weights), weights_sha256="", **options)
    made.run()
    made.finalize()
    assert (tmp_path / "out" / "per_case.csv").is_file()


@pytest.mark.slow
def test_fine_tuning(kind: Kind, tmp_path: Path) -> None:
    random_data(kind, tmp_path)
    options = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out"), **QUICK, **SMALL[kind.name]}
    made = workflow(kind, "train", "train", "finetune", pretrained=str(Bundle(kind.root).weights), **options)
    made.run()
    made.finalize()
    load_weights(Bundle(kind.root).get("network_def"), tmp_path / "out" / "best.pt")


@pytest.mark.slow
def test_training_without_data_runs_on_phantoms(kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = workflow(kind, "train", "train", output_dir=str(tmp_path / "out"), **QUICK, **SMALL[kind.name])
    made.run()
    made.finalize()
    assert "training on generated phantoms, to try it out only" in caplog.text
    assert json.loads((tmp_path / "out" / "phantoms" / "datalist.json").read_text())
    load_weights(Bundle(kind.root).get("network_def"), tmp_path / "out" / "best.pt")
