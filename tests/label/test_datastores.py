"""Which images of a folder are listed; those that are not are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from convformer_monai.errors import InputRefused
from convformer_monai.label_app.compat import serve_moved_uids
from convformer_monai.label_app.options import read_options
from convformer_monai.phantoms.dicom import linear_enhanced, save_dataset

serve_moved_uids()

from convformer_monai.label_app.datastores import FolderDatastore  # noqa: E402 (MONAI Label needs the line above)


def datastore(folder: Path, bundle: str) -> FolderDatastore:
    options = read_options({"bundle": bundle, "work": str(folder.parent / "work"), "device": "cpu"}, str(folder))
    return FolderDatastore(str(folder), options, auto_reload=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "studies"
    path.mkdir()
    return path


@pytest.mark.parametrize("name", ["a.webp", "a.PNG", "a.jpg"])
def test_photographs(folder: Path, name: str) -> None:
    Image.new("RGB", (40, 30)).save(folder / name)
    store = datastore(folder, "dermoscopy")
    assert store.list_images() == ["a"] and store.get_image_uri("a") == str(folder / name)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.nhdr", "a.mhd"])
def test_volumes(folder: Path, name: str) -> None:
    values = np.random.default_rng(0).random((4, 16, 16)).astype(np.float32)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(folder / name))
    store = datastore(folder, "cardiac")
    assert store.list_images() == ["a"]
    image = Path(store.get_image_uri("a"))
    (alone := folder.parent / "alone").mkdir()
    sent = image.rename(alone / image.name)  # as a viewer gets it
    np.testing.assert_allclose(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(sent))), values)


def test_dicom_files_outside_of_a_folder_of_their_own(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = save_dataset(linear_enhanced(modality="MR"), folder / "e.dcm")
    store = datastore(folder, "cardiac")
    assert store.list_images() == []
    assert "are not listed (1, the first e.dcm); give each series a folder of its own" in caplog.text
    with pytest.raises(InputRefused, match=r"e\.dcm would not be listed; send a file named as one of \.nii\.gz"):
        store.add_image("", str(file), {})
    (folder / "e").mkdir()
    file.rename(folder / "e" / "e.dcm")
    caplog.clear()
    assert datastore(folder, "cardiac").list_images() == ["e"] and "not listed" not in caplog.text
