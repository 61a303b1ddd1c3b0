"""The examples for clusters are of a form that their programs read, and show options that there are."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import typer.main
import yaml

from convformer_monai.cli import app


def test_every_file_is_well_formed(repository: Path) -> None:
    folder = repository / "docs" / "cluster"
    page = (repository / "docs" / "cohort.md").read_text(encoding="utf-8")
    command: Any = typer.main.get_command(app)
    known = {option for param in command.commands["cohort"].params for option in param.opts}
    files = sorted(folder.iterdir())
    assert len(files) == 4
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert f"(cluster/{file.name})" in page
        if file.suffix == ".sh":
            subprocess.run(["bash", "-n", str(file)], check=True)
        elif file.suffix == ".py":
            ast.parse(text)
        else:
            assert {"apiVersion", "kind", "metadata", "spec"} <= yaml.safe_load(text).keys()
        shown = re.findall(r"(?<=[\s\"(])--(?:shard|engine|scheduler)\b", text)
        assert shown and set(shown) <= known, file.name


def test_the_array_of_shards(repository: Path, tmp_path: Path) -> None:
    """Runs the script of the job array with a command that prints its words."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").write_text(f"PATH={tmp_path}/bin:$PATH\n")
    (tmp_path / "bin" / "convformer-monai").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "bin" / "convformer-monai").chmod(0o755)
    script = repository / "docs" / "cluster" / "slurm_array.sh"
    for count, words in (
        (20, "cohort list.csv -o out -b cardiac --shard 3/20"),
        (1, "cohort list.csv -o out -b cardiac"),
    ):
        environment = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": str(count), "PATH": "/usr/bin:/bin"}
        environment["CONVFORMER_ENVIRONMENT"] = str(tmp_path)
        done = subprocess.run(
            ["bash", str(script), "list.csv", "out", "cardiac"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stdout == f"{words}\n"
