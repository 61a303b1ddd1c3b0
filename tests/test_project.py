"""The files around the package agree with each other."""

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import yaml

import convformer_monai

LARGEST_FILE = 25 * 1024 * 1024


@pytest.fixture(scope="module")
def setup_cfg(repository: Path) -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(repository / "setup.cfg", encoding="utf-8")
    return config


@pytest.fixture(scope="module")
def tracked(repository: Path) -> list[Path]:
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout, so nothing is tracked")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, check=True, text=True).stdout
    return [repository / name for name in names.split("\0") if name]


def citation(repository: Path) -> dict:
    return yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))


def test_one_version(repository: Path, setup_cfg: configparser.ConfigParser) -> None:
    newest = re.search(r"^## \[(.+?)\]", (repository / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    stated = {
        "CHANGELOG.md": newest.group(1),
        "CITATION.cff": citation(repository)["version"],
    }
    for page in ("README.md", "docs/install.md", "docs/monai_bundle.md"):
        text = (repository / page).read_text(encoding="utf-8")
        versions = re.findall(r"(?:convformer_monai-|version=\")(\d+\.\d+\.\d+)", text)
        assert set(versions) == {convformer_monai.__version__}, page
    for bundle in (repository / "bundles").glob("*/configs/metadata.json"):
        stated[bundle.parts[-3]] = json.loads(bundle.read_text(encoding="utf-8"))["version"]
    assert len(stated) == 5 and stated == dict.fromkeys(stated, convformer_monai.__version__)
    assert setup_cfg["metadata"]["version"] == "attr: convformer_monai.__version__"


def test_citation_names_the_paper_and_the_software(repository: Path) -> None:
    software = citation(repository)
    assert {"cff-version", "message", "title", "authors"} <= software.keys()
    paper = software["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Lin", "Yan", "Deng", "Zheng", "Yu"]
    assert "arXiv:2309.05674" in [identifier["value"] for identifier in paper["identifiers"]]


def test_scripts_named_in_the_readme_can_be_run(repository: Path) -> None:
    names = set(re.findall(r"\bscripts/[a-z_]+\b(?!\.)", (repository / "README.md").read_text(encoding="utf-8")))
    assert {"scripts/demo", "scripts/test"} <= names
    for name in sorted(names | {".ci/run"}):
        assert os.access(repository / name, os.X_OK), f"{name} is missing or not executable"


def test_the_first_commands(repository: Path) -> None:
    """Of the wheel in the README, of a clone on the page that installs."""

    def commands(page: str, block: int) -> list[str]:
        blocks = re.findall(r"```bash\n(.*?)```", (repository / page).read_text(encoding="utf-8"), re.DOTALL)
        return [line.split("#")[0].strip() for line in blocks[block].splitlines()]

    wheel = f"convformer_monai-{convformer_monai.__version__}-py3-none-any.whl"
    assert commands("README.md", 0) == [f"pip install {wheel}", "convformer-monai demo"]
    assert commands("docs/install.md", -1) == ["scripts/demo", "scripts/test"]


def test_files_that_documents_link_to_exist(repository: Path) -> None:
    """As a git host shows them; the site checks its own links and anchors when it is built."""
    pages = [*repository.glob("*.md"), *repository.glob("docs/**/*.md"), *repository.glob("bundles/*/docs/*.md")]
    assert len(pages) > 30
    for page in pages:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which does not exist"


def test_constraints_pin_every_requirement(repository: Path, setup_cfg: configparser.ConfigParser) -> None:
    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.match(r"[\w.-]+==[\w.]+(; .+)?$", pin) for pin in pins)
    pinned = {plain(pin.split("==")[0]) for pin in pins}

    groups = [setup_cfg["options"]["install_requires"], *setup_cfg["options.extras_require"].values()]
    required = {
        plain(match.group())
        for group in groups
        for line in group.splitlines()
        if (match := re.match(r"[\w.-]+", line)) and not line.startswith(("#", "convformer_monai["))
    }
    assert {"torch", "monai", "ruff", "onnx"} <= required
    assert required <= pinned


def test_no_large_file_is_tracked(tracked: list[Path]) -> None:
    large = [path.name for path in tracked if path.is_file() and path.stat().st_size > LARGEST_FILE]
    assert not large


@pytest.mark.slow
def test_clone_and_sdist_build_one_wheel_with_bundles_and_sample_app(
    repository: Path, tracked: list[Path], tmp_path: Path
) -> None:
    """What an editable install does not show; MONAI Label lists what lies under its sample-apps."""
    clone = tmp_path / "clone"
    for file in tracked:
        if file.relative_to(repository).parts[0] != "docs" and file.is_file():
            copy = clone / file.relative_to(repository)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    left_there = clone / "bundles" / "dermoscopy_convformer_segmentation" / "eval" / "summary.json"
    left_there.parent.mkdir()
    left_there.write_text("{}")
    sdist = "from setuptools.build_meta import build_sdist; build_sdist('../sdist')"
    subprocess.run([sys.executable, "-c", sdist], cwd=clone, check=True, capture_output=True)
    with tarfile.open(next((tmp_path / "sdist").iterdir())) as archive:
        assert not [name for name in archive.getnames() if "/tests" in name]
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    wheels = []
    for source in (next((tmp_path / "sdist").iterdir()), clone):
        folder = tmp_path / f"wheel of {source.name}"
        subprocess.run([*wheel, str(folder), str(source)], check=True, capture_output=True)
        with zipfile.ZipFile(next(folder.iterdir())) as archive:
            wheels.append({name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")})
    assert wheels[0] == wheels[1]
    names = set(wheels[0])
    assert {"convformer_monai/py.typed", "convformer_monai/label_app/sample_app/main.py"} <= names
    assert any(name.endswith(".data/data/monailabel/sample-apps/convformer/main.py") for name in names)
    assert not [name for name in names if name.startswith(("tests", "bundles", "setup"))]
    bundles = {str(file.relative_to(repository / "bundles")): file.read_bytes() for file in tracked
               if file.is_relative_to(repository / "bundles")}  # fmt: skip
    shipped = {name.partition("_bundles/")[2]: data for name, data in wheels[0].items() if "_bundles/" in name}
    assert shipped == bundles
