"""Fixtures of the cohort's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_cohort import tiny_bundle, write_study


@pytest.fixture
def bundle(tmp_path: Path, bundle_root: Path) -> Path:
    """A bundle of one convolution; see :func:`tiny_cohort.tiny_bundle`."""
    return tiny_bundle(bundle_root, tmp_path / "tiny")


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """A folder of two studies and a file that cannot be read as one."""
    folder = tmp_path / "in"
    for number in range(2):
        write_study(folder / f"s{number}.nii.gz", number)
    (folder / "bad.nii.gz").write_bytes(b"not an image")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The output folder."""
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def _no_models_left() -> None:
    """Bundles of a test are loaded in it, not those of another at the same path."""
    from convformer_monai.cohort import model

    model._kept.clear()
