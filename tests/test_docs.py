"""What the documents list is what the code has."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from convformer_monai.errors import RefusalCode, refusal_table


def test_every_refusal_is_explained(repository: Path) -> None:
    assert refusal_table() in (repository / "docs" / "inputs.md").read_text(encoding="utf-8"), "see refusal_table"
    source = "\n".join(file.read_text(encoding="utf-8") for file in (repository / "convformer_monai").rglob("*.py"))
    assert set(re.findall(r"RefusalCode\.([A-Z_]+)", source)) == {code.name for code in RefusalCode}
    assert (
        {code.name for code in RefusalCode}
        == {str(code) for code in RefusalCode}
        == {f"{code}" for code in RefusalCode}
    )


def test_every_flag_is_explained(repository: Path) -> None:
    folder = repository / "convformer_monai" / "measurements"
    source = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    raised = set(re.findall(r"Flag\(\s*\"([A-Z_]+)\"", source)) | set(re.findall(r"\"([A-Z]+_[A-Z_]+)\": \[", source))
    listed = set(re.findall(r"`([A-Z][A-Z_]+)`", (repository / "docs" / "inputs.md").read_text(encoding="utf-8")))
    assert len(raised) > 10
    assert raised - listed == set()


def test_the_versions_of_torch_are_those_that_are_required_and_tested(repository: Path) -> None:
    page = (repository / "docs" / "install.md").read_text(encoding="utf-8")
    (least,) = re.findall(r"^    torch>=(\S+)$", (repository / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    (tested,) = re.findall(
        r"^torch==(\S+)$", (repository / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert f"Any version from {least} on will do; {tested} is the one that we test." in page


def convformer_page(repository: Path) -> str:
    return (repository / "docs" / "convformer.md").read_text(encoding="utf-8")


def test_figures_are_there_and_small(repository: Path) -> None:
    pages = [repository / "README.md", *(repository / "docs").glob("*.md")]
    shown = {
        name
        for page in pages
        for name in re.findall(r"!\[[^\]]+\]\((?:docs/)?figures/([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    kept = {file.name for file in (repository / "docs" / "figures").iterdir()}
    assert len(shown) >= 5 and shown == kept, "each figure is shown, and no other is kept"
    assert all((repository / "docs" / "figures" / name).stat().st_size < 200_000 for name in shown)


@pytest.mark.timeout(300)
def test_the_site(repository: Path, tmp_path: Path) -> None:
    """Builds strictly, links and anchors included; loads nothing from elsewhere; has every document and docstring."""
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    # Not --quiet: that silences the warnings which --strict counts.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {str(file.relative_to(tmp_path)): file.read_text(encoding="utf-8") for file in tmp_path.rglob("*.html")}
    assert {"index.html", "changelog.html", "bundles/hemorrhage.html", "api/segmenter.html"} <= pages.keys()
    assert 'id="convformer_monai.segmenter.Segmenter.segment"' in pages["api/segmenter.html"]
    for name, page in pages.items():
        loaded = re.findall(r"<(?:script|img|link)[^>]+(?:src|href)=\"?(https?:[^\"> ]+)", page)
        assert not loaded, (name, loaded)
        assert not re.search(r":(class|func|meth|data|mod|attr):", page), f"a role of Sphinx stayed in {name}"


@pytest.mark.parametrize(
    ("place", "link", "led_to"),
    [
        ("index.md", "docs/train.md#the-datalist", "train.md#the-datalist"),
        ("index.md", "bundles/cardiac_mri_convformer_segmentation/docs/README.md", "bundles/cardiac.md"),
        ("api/index.md", "../../SECURITY.md", "../security.md"),
        ("bundles/cardiac.md", "../LICENSE", "cardiac_license.txt"),
        ("contributing.md", "scripts/nowhere", "scripts/nowhere"),
        ("train.md", "https://monai.io/x", "https://monai.io/x"),
    ],
)
def test_links_lead_into_the_site(repository: Path, place: str, link: str, led_to: str) -> None:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    spec = spec_from_file_location("hooks", repository / "docs" / "_site" / "hooks.py")
    assert spec is not None and spec.loader is not None
    hooks = module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = SimpleNamespace(file=SimpleNamespace(src_uri=place))
    assert hooks.on_page_markdown(f"a [b]({link}) c", page) == f"a [b]({led_to}) c"


@pytest.mark.slow
@pytest.mark.timeout(1800)  # six starts of Python
def test_the_convformer_pages_numbers_are_what_its_commands_print(repository: Path, tmp_path: Path) -> None:
    page = convformer_page(repository)
    (commands,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    commands, loops = re.subn(
        "for block in .*; do", "for block in vit convformer; do", commands
    )  # the others take long
    assert loops == 1
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, env=environment, check=True)
    for figure in (repository / "docs" / "figures").iterdir():
        if figure.name not in page:
            continue
        folder, _, kind = figure.stem.partition("_") if "setr" not in figure.stem else figure.stem.rpartition("_")
        (again,) = (tmp_path / "out" / folder).glob(f"*_{kind}.png")
        with Image.open(figure) as kept, Image.open(again) as made:
            assert kept.size == made.size
    rows = re.findall(r"^\| `(\w+)` ((?:\| (?:-?[\d.]+|-) ){7})\|$", page, re.MULTILINE)
    assert len(rows) == 7
    header = re.search(r"^\| block \| (token_similarity .*) \|$", page, re.MULTILINE)
    assert header is not None
    for block, cells in (row for row in rows if row[0] in ("vit", "convformer")):
        content = json.loads((tmp_path / "out" / f"setr_{block}" / "dermoscopy_phantom_explain.json").read_text())
        for name, cell in zip(header.group(1).split(" | "), cells.strip("| ").split(" | "), strict=True):
            value = content["layers"][-1][name]
            stated = None if cell == "-" else float(cell)
            assert (value is None) == (stated is None), (block, name)
            assert value is None or value == pytest.approx(stated, abs=0.02, rel=0.05), (block, name)
    cardiac = json.loads((tmp_path / "out" / "cardiac" / "cardiac_phantom_explain.json").read_text())
    widths = [field["fwhm_mm"][0] for field in cardiac["receptive_fields"]]
    assert f"{min(widths):.0f} to {max(widths):.0f} mm" in page


def test_the_convformer_pages_python(repository: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", convformer_page(repository), re.DOTALL)
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("torch.Size([2, 64, 64])") == 2 and done.stdout.count("1.layers.0.mixer") == 2


def test_every_extra_is_explained(repository: Path) -> None:
    setup = configparser.ConfigParser()
    setup.read(repository / "setup.cfg")
    page = (repository / "docs" / "install.md").read_text()
    extras = set(setup["options.extras_require"])
    assert extras and {name for name in extras if f"| `{name}` | " not in page} == set()
