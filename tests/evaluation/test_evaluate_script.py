import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def run(repository: Path, tmp_path: Path):
    """Runs scripts/evaluate with a Python that only shows what it was given."""
    (tmp_path / "repo" / "scripts").mkdir(parents=True)
    shutil.copy(repository / "scripts" / "_arguments", tmp_path / "repo" / "scripts")
    script = Path(shutil.copy(repository / "scripts" / "evaluate", tmp_path / "repo" / "scripts"))
    (script.parent / "_environment").write_text(
        'root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)\npython=show\n'
    )
    show = tmp_path / "bin" / "show"
    show.parent.mkdir()
    show.write_text("#!/bin/sh\nprintf '<%s>\\n' \"$@\"\n")
    show.chmod(0o755)
    (tmp_path / "data").mkdir()

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{show.parent}:/usr/bin:/bin"}
        return subprocess.run(
            [script, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return call


def test_options_reach_the_bundle_with_absolute_paths(run, tmp_path: Path) -> None:
    done = run("cardiac", "--data", "data", "--output_dir", "my out", "--overlays", "3", "--weights", "w.pt")
    assert done.returncode == 0, done.stderr
    given = [line[1:-1] for line in done.stdout.splitlines()]
    assert given[:3] == ["-m", "monai.bundle", "run"]
    options = dict(zip(given[3::2], given[4::2], strict=True))
    assert options == {
        "--config_file": "bundles/cardiac_mri_convformer_segmentation/configs/evaluate.json",
        "--bundle_root": "bundles/cardiac_mri_convformer_segmentation",
        "--dataset_dir": f"{tmp_path}/data",
        "--output_dir": f"{tmp_path}/my out",
        "--overlays": "3",
        "--weights": f"{tmp_path}/w.pt",
        "--weights_sha256": "",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "names the bundle"),
        (("brain", "--data", "data"), "names the bundle"),
        (("cardiac",), "--data is missing"),
        (("cardiac", "--data", "nowhere"), "there is no"),
        (("cardiac", "--data", "data", "--sectoin", "val"), "unknown option --sectoin"),
        (("cardiac", "--data", "data", "--section"), "--section needs a value"),
        (("cardiac", "--data", "a#b"), "'#'"),
    ],
)
def test_wrong_arguments_end_with_status_2(run, arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout.startswith("<")) == (2, False)
    assert message in done.stderr


def test_help(run) -> None:
    assert run("--help").stdout.startswith("usage: scripts/evaluate cardiac --data DIR")
