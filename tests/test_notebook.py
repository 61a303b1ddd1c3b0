"""The tutorials in docs/tutorials run as they stand there, and what they show is what they give."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

TUTORIALS = sorted((Path(__file__).parents[1] / "docs" / "tutorials").glob("*.ipynb"))


def texts(notebook: NotebookNode) -> list[str]:
    """What each cell of code prints, every digit as 0: trained figures may differ between processors."""
    said = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
            said.append(re.sub(r"\d", "0", printed))
    return said


@pytest.fixture(params=TUTORIALS, ids=lambda path: path.stem)
def tutorial(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_shows_its_outputs(tutorial: Path) -> None:
    assert tutorial.stat().st_size < 300_000
    text = tutorial.read_text(encoding="utf-8")
    assert not re.search(r"/(work|root|home|tmp)/|site-packages|Traceback|Warning", text)
    notebook = nbformat.read(tutorial, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run scripts/notebooks"
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert kinds == {"stream", "display_data"}
    assert all(output.name == "stdout" for cell in code for output in cell.outputs if output.output_type == "stream")


def test_links_lead_somewhere(tutorial: Path) -> None:
    for cell in nbformat.read(tutorial, as_version=4).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", cell.source):
                assert (tutorial.parent / target).exists(), target


@pytest.mark.slow
def test_runs(tutorial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shown = nbformat.read(tutorial, as_version=4)
    run = nbformat.read(tutorial, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(run, timeout=500, coalesce_streams=True, resources=resources).execute()
    assert texts(run) == texts(shown), "run scripts/notebooks"
    assert not list(tmp_path.iterdir()), "a tutorial leaves no files"
