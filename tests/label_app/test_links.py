"""Links out of the folder of images, wherever they hide."""

from __future__ import annotations

from pathlib import Path

import pytest

from convformer_monai.label_app.links import leads_out


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder with a series in it, beside a folder that is not to be seen."""
    (tmp_path / "studies" / "series" / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return tmp_path / "studies"


@pytest.mark.parametrize("where", ["series", "series/link", "series/sub/link", "series/sub/sub/link"])
@pytest.mark.parametrize("target", ["outside", "outside/secret", "outside/nothing"])
def test_a_link_out_is_found_at_any_depth(studies: Path, where: str, target: str) -> None:
    link = studies / where
    if where == "series":
        link = studies / "other"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(studies.parent / target)
    assert leads_out(link if where == "series" else studies / "series", studies)


def test_links_that_stay_inside_are_the_users_own(studies: Path) -> None:
    (studies / "other").mkdir()
    (studies / "other" / "circle").symlink_to(studies / "series")
    (studies / "series" / "circle").symlink_to(studies / "other")
    assert not leads_out(studies / "series", studies)
    (studies.parent / "way").symlink_to(studies)
    assert not leads_out(studies / "series", studies.parent / "way")


def test_a_link_behind_a_link_is_found(studies: Path) -> None:
    (studies / "other").mkdir()
    (studies / "other" / "out").symlink_to(studies.parent / "outside")
    (studies / "series" / "link").symlink_to(studies / "other")
    assert leads_out(studies / "series", studies)
