"""The plan of trainings, with a command in place of the training that only notes what it was asked to do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from convformer_monai.errors import InputRefused
from convformer_monai.training import plan

PLAN = {
    "networks": {"ours": {}, "conv": {"network_def#block": "conv"}},
    "stages": [{"name": "first", "options": {"max_epochs": 3}}, {"name": "second", "options": {"start": "{first}"}}],
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    (tmp_path / "bundle" / "configs" / "inference.json").write_text("{}")
    (tmp_path / "bundle" / "configs" / "runs.json").write_text(json.dumps(PLAN))
    return tmp_path / "bundle"


@pytest.fixture
def calls(monkeypatch) -> list[dict[str, str]]:
    """The options of each training; each reaches its last epoch, unless the list was told to stop after some."""
    noted: list[dict[str, str]] = []

    def run(command: list[str], _environment: object) -> int:
        start = command.index("run") + 1
        noted.append(dict(zip(command[start::2], command[start + 1 :: 2], strict=True)))
        place = Path(noted[-1]["--output_dir"])
        assert not place.exists() or len(noted) == 3, "the run itself makes the folder, after it has read the datalist"
        place.mkdir(parents=True, exist_ok=True)
        done = {"iteration": 30 if len(noted) != 2 else 20, "max_epochs": 3, "epoch_length": 10}
        torch.save({"trainer": done}, place / "checkpoint.pt")
        (place / "best.pt").touch()
        return 0

    monkeypatch.setattr(plan, "_run", run)
    return noted


def test_runs_every_stage_of_every_network_and_goes_on_where_it_stopped(bundle, calls, tmp_path):
    out = tmp_path / "out"
    assert not plan.run_plan(bundle, "data", out, ["--seed", "7"]), "the second run stops before its last epoch"
    assert [Path(call["--output_dir"]).relative_to(out).as_posix() for call in calls] == ["ours/first", "ours/second"]
    assert calls[0]["--max_epochs"] == "3" and calls[0]["--dataset_dir"] == "data" and calls[0]["--seed"] == "7"
    assert calls[1]["--start"] == str(out / "ours" / "first" / "best.pt")

    assert plan.run_plan(bundle, "data", out)
    assert [Path(call["--output_dir"]).relative_to(out).as_posix() for call in calls[2:]] == [
        "ours/second",
        "conv/first",
        "conv/second",
    ]
    assert calls[3]["--network_def#overrides"] == "{'network_def#block': 'conv'}"
    assert "--network_def#overrides" not in calls[0]
    assert plan.run_plan(bundle, "data", out) and len(calls) == 5, "nothing is left to do"


def test_only_some_networks(bundle, calls, tmp_path):
    plan.run_plan(bundle, "data", tmp_path / "out", networks=["conv"])
    assert not (tmp_path / "out" / "ours").exists()
    with pytest.raises(InputRefused, match="no network 'cnov'"):
        plan.run_plan(bundle, "data", tmp_path / "out", networks=["cnov"])


def test_time_limit_is_passed_on_as_what_is_left(bundle, calls, tmp_path):
    plan.run_plan(bundle, "data", tmp_path / "out", max_minutes=5)
    assert 4.9 < float(calls[0]["--max_minutes"]) <= 5


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"networks": {}, "stages": []}', '{"networks": {"a": {}}, "stages": [{}]}']
)
def test_unusable_plan_is_refused(bundle, content):
    (bundle / "configs" / "runs.json").write_text(content)
    with pytest.raises(InputRefused):
        plan.read_plan(bundle)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_training_ends_with_its_command(tmp_path):
    """Left alone it would go on, and the same command would start another one beside it."""
    script = tmp_path / "script.py"
    child = (
        "import os, time; open('pid.part', 'w').write(str(os.getpid())); os.rename('pid.part', 'pid'); time.sleep(60)"
    )
    script.write_text(
        "import sys\nfrom convformer_monai.training.plan import ending_together, run_logged\n"
        f"with ending_together():\n    run_logged([sys.executable, '-c', {child!r}])\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], cwd=tmp_path)
    while not (tmp_path / "pid").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
