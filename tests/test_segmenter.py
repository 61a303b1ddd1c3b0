"""A bundle loaded once: every kind of image in, the same kind of answer out, on exactly its grid."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import itk
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from dicom_series import write_volume
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from nifti_files import save

from convformer_monai.errors import InputRefused
from convformer_monai.outputs.case import process
from convformer_monai.outputs.writer import Options
from convformer_monai.phantoms import dermoscopy_phantom
from convformer_monai.phantoms.cardiac import Phantom, cardiac_phantom
from convformer_monai.readers import read_series
from convformer_monai.readers.cases import Case
from convformer_monai.readers.memory import series_from
from convformer_monai.segmenter import Segmentation, Segmenter, choose_device


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter("cardiac", "cpu")


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """Oblique, anisotropic, small."""
    return cardiac_phantom(shape=(112, 128, 3), spacing=(1.4, 1.6, 9.0), rotation=(20.0, -15.0, 30.0))


@pytest.fixture(scope="module")
def expected(segmenter: Segmenter, phantom: Phantom) -> np.ndarray:
    labels: MetaTensor = segmenter.segment(MetaTensor(torch.from_numpy(phantom.image), affine=phantom.affine))
    assert len(np.unique(labels.numpy())) == 4, "the phantom shows all three structures"
    return labels.numpy()


def simple_itk(phantom: Phantom) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(phantom.image.T)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ phantom.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def test_meta_tensor(segmenter, phantom, expected):
    labels = segmenter.segment(MetaTensor(torch.from_numpy(phantom.image)[None], affine=phantom.affine))
    assert isinstance(labels, MetaTensor)
    assert labels.shape == (1, *phantom.image.shape) and labels.dtype == torch.uint8
    np.testing.assert_array_equal(labels.affine, phantom.affine)
    np.testing.assert_array_equal(labels[0], expected.reshape(phantom.image.shape))


def test_nibabel(segmenter, phantom, expected):
    image = nib.Nifti1Image(phantom.image, phantom.affine)
    labels = segmenter.segment(image)
    assert isinstance(labels, nib.Nifti1Image) and labels.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(labels.affine, image.affine)
    np.testing.assert_array_equal(np.asanyarray(labels.dataobj), expected.reshape(phantom.image.shape))


def test_simple_itk(segmenter, phantom, expected):
    image = simple_itk(phantom)
    labels = segmenter.segment(image)
    assert isinstance(labels, SimpleITK.Image) and labels.GetPixelID() == SimpleITK.sitkUInt8
    assert labels.GetSpacing() == image.GetSpacing() and labels.GetOrigin() == image.GetOrigin()
    assert labels.GetDirection() == image.GetDirection()
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(labels).T, expected.reshape(phantom.image.shape))


def test_itk(segmenter, phantom, expected):
    like = simple_itk(phantom)
    image = itk.image_from_array(np.ascontiguousarray(phantom.image.T))
    image.SetSpacing(like.GetSpacing())
    image.SetOrigin(like.GetOrigin())
    image.SetDirection(np.reshape(like.GetDirection(), (3, 3)))
    labels = segmenter.segment(image)
    assert labels.GetSpacing() == image.GetSpacing() and labels.GetOrigin() == image.GetOrigin()
    np.testing.assert_array_equal(np.asarray(labels.GetDirection()), np.asarray(image.GetDirection()))
    np.testing.assert_array_equal(itk.array_from_image(labels).T, expected.reshape(phantom.image.shape))


def test_file_series_and_dicom_folder_give_the_same_mask(segmenter, phantom, expected, tmp_path):
    path, _ = phantom.save(tmp_path, "a $b @c %d #e")
    write_volume(tmp_path / "series", phantom.image, phantom.affine, modality="MR")
    from_file = segmenter.segment(path)
    assert isinstance(from_file, Segmentation)
    assert set(from_file.seconds) == {"read", "prepare", "network", "native_grid"}
    from_series = segmenter.segment(read_series(str(path)))
    from_dicom = segmenter.segment(tmp_path / "series")
    for result in (from_file, from_series, from_dicom):
        np.testing.assert_array_equal(result.labels, expected.reshape(1, *phantom.image.shape))
        np.testing.assert_allclose(result.labels.affine, phantom.affine, atol=1e-4)


def test_the_same_mask_as_the_bundle_run(segmenter, phantom, expected, bundle_root, tmp_path):
    path, _ = phantom.save(tmp_path, "case")
    config: dict[str, Any] = json.loads((bundle_root / "configs" / "inference.json").read_text())
    config["_meta_"] = json.loads((bundle_root / "configs" / "metadata.json").read_text())
    parser = ConfigParser(config)
    parser.update({"bundle_root": bundle_root, "datalist": [str(path)], "output_dir": tmp_path / "out"})
    parser.get_parsed_content("run")
    mask = nib.load(tmp_path / "out" / "case_seg.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), expected.reshape(phantom.image.shape))


def test_cine_keeps_its_phases(segmenter):
    cine = cardiac_phantom(shape=(96, 96, 2), spacing=(2.0, 2.0, 10.0), num_phases=3)
    image = MetaTensor(torch.from_numpy(cine.image).permute(3, 0, 1, 2), affine=cine.affine)
    labels = segmenter.segment(image)
    assert labels.shape == image.shape
    alone = segmenter.segment(image[1:2])
    np.testing.assert_array_equal(labels[1:2], alone)


def test_flips_are_averaged_and_their_disagreement_measured(phantom, expected):
    both = Segmenter("cardiac", "cpu", flips=True)
    result = both.run(both_series(phantom))
    averaged = result.labels.numpy()
    same = np.count_nonzero((averaged == expected) & (expected > 0))
    dice = 2 * same / (np.count_nonzero(averaged) + np.count_nonzero(expected))
    assert dice < 1, "the phantom is a case on which the flips disagree"
    assert result.disagreement == pytest.approx(1 - dice)


def test_the_average_of_flips_turns_with_the_image(segmenter, phantom):
    """Flipped input, flipped answer: only the average over all flips has that to the voxel."""
    both = Segmenter("cardiac", "cpu", flips=True, overrides={"amp": False})
    prepared = both.prepare(both_series(phantom))
    both._inferer.flips = True
    with torch.inference_mode():
        scores = both._inferer(prepared[None], both.network)
        flipped = both._inferer(prepared[None].flip(-3), both.network).flip(-3)
    torch.testing.assert_close(scores, flipped, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(both.scores(prepared), both.scores(prepared.flip(-3)).flip(-3), rtol=1e-3, atol=1e-3)


def both_series(phantom: Phantom) -> Any:
    from convformer_monai.readers.memory import series_from

    return series_from(MetaTensor(torch.from_numpy(phantom.image), affine=phantom.affine))


class Anywhere:
    """A network that only notes where it was moved."""

    def __init__(self) -> None:
        self.places: list[str] = []

    def to(self, device: torch.device) -> Anywhere:
        self.places.append(device.type)
        return self


def test_when_memory_runs_out_it_tries_with_less_and_says_so(phantom, caplog):
    segmenter = Segmenter("cardiac", "cpu")
    segmenter.device = torch.device("meta")  # stands for an accelerator
    tried: list[tuple[str, int]] = []

    class Small:
        slice_batch_size, flips = 2, False

        def __call__(self, inputs: torch.Tensor, _network: torch.nn.Module) -> torch.Tensor:
            tried.append((inputs.device.type, self.slice_batch_size))
            if inputs.device.type != "cpu":
                raise torch.OutOfMemoryError("none left")
            return inputs.new_zeros(1, 4, *inputs.shape[2:])

    segmenter._inferer = Small()
    segmenter.network = Anywhere()
    result = segmenter.run(both_series(phantom))
    assert tried == [("meta", 2), ("meta", 1), ("cpu", 1)]
    assert len(result.notes) == 2 and "1 slices" in result.notes[0] and "CPU" in result.notes[1]
    assert not result.labels.any()
    assert result.notes[0] in caplog.text
    assert segmenter.device.type == "meta" and segmenter.network.places == ["cpu", "meta"], "the next image starts anew"
    tried.clear()
    segmenter.run(both_series(phantom))
    assert tried == [("meta", 2), ("meta", 1), ("cpu", 1)]


def test_a_cpu_without_memory_tries_with_less_and_refuses_at_last(phantom):
    segmenter, tried = Segmenter("cardiac", "cpu"), []

    class Full:
        slice_batch_size, flips = 2, False

        def __call__(self, *_: object) -> torch.Tensor:
            tried.append(self.slice_batch_size)
            return torch.empty(2**50)  # torch's own error

    segmenter._inferer = Full()
    with pytest.raises(InputRefused, match=r"error\[OUT_OF_MEMORY\]"):
        segmenter.run(both_series(phantom))
    assert tried == [2, 1]


def test_flips_need_an_inferer_that_averages_them():
    with pytest.raises(InputRefused, match=r"error\[OPTION\].*leave --flips out"):
        Segmenter("dermoscopy", "cpu", flips=True, overrides={"inferer": {"_target_": "SimpleInferer"}})


def test_modality_is_checked_and_can_be_forced(segmenter, phantom, tmp_path):
    write_volume(tmp_path / "ct", phantom.image, phantom.affine, modality="CT")
    with pytest.raises(InputRefused) as refusal:
        segmenter.segment(tmp_path / "ct")
    assert refusal.value.code == "WRONG_MODALITY"
    forced = Segmenter("cardiac", "cpu", force_modality=True)
    assert forced.segment(tmp_path / "ct").labels.shape == (1, *phantom.image.shape)


@pytest.mark.parametrize("padding", [None, -2000])
def test_values_of_a_ct_are_refused_before_the_network(segmenter, tmp_path, padding):
    head = np.full((40, 40, 4), -1000, np.int16)
    head[10:30, 10:30] = 40
    if padding:
        head[:2] = padding
    path = save(tmp_path / "head.nii.gz", head)
    with pytest.raises(InputRefused) as refusal:
        segmenter.segment(path)
    assert str(refusal.value) == (
        f"error[WRONG_MODALITY]: head.nii.gz holds CT by its values (air at -1000), and {segmenter.bundle.name} takes "
        "MR; use -b hemorrhage, or --force-modality"
    )
    forced = Segmenter("cardiac", "cpu", force_modality=True)
    assert forced.segment(path).labels.shape == (1, *head.shape)


def test_a_mask_is_no_image(segmenter, phantom, tmp_path):
    _, truth = phantom.save(tmp_path, "x")
    with pytest.raises(InputRefused) as refusal:
        segmenter.segment(truth)
    assert str(refusal.value) == (
        f"error[NOT_AN_IMAGE]: {truth.name} holds only the values 0, 1, 2, 3: a mask, no image; "
        "convformer-monai measure -m measures it"
    )


def test_photographs_are_refused(segmenter, tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 30), (200, 150, 120)).save(tmp_path / "skin.png")
    with pytest.raises(InputRefused) as refusal:
        segmenter.segment(tmp_path / "skin.png")
    assert refusal.value.code == "WRONG_KIND"


def test_other_types_are_no_image(segmenter):
    with pytest.raises(TypeError, match="int"):
        segmenter.segment(3)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "gpu", "mps:5"])
def test_a_device_that_is_not_there(device):
    with pytest.raises(InputRefused) as refusal:
        choose_device(device)
    assert refusal.value.code == "DEVICE" and device in refusal.value.message


def test_bundle_from_a_folder_with_odd_characters(bundle_root, phantom, expected, tmp_path):
    folder = tmp_path / "my $bundle @1 %2 #3" / bundle_root.name
    shutil.copytree(bundle_root, folder)
    labels = Segmenter(folder, "cpu").segment(MetaTensor(torch.from_numpy(phantom.image), affine=phantom.affine))
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("spoil", ["weights", "hash", "folder"])
def test_a_spoilt_bundle_is_refused(bundle_root, tmp_path, spoil):
    folder = tmp_path / bundle_root.name
    shutil.copytree(bundle_root, folder)
    if spoil == "weights":
        (folder / "models" / "model.pt").unlink()
    elif spoil == "hash":
        with open(folder / "models" / "model.pt", "ab") as file:
            file.write(b"x")
    else:
        folder = Path(tmp_path / "nothing")
    codes = {"weights": "WEIGHTS_NOT_FOUND", "hash": "WEIGHTS_HASH", "folder": "BUNDLE_NOT_FOUND"}
    with pytest.raises(InputRefused) as refusal:
        Segmenter(folder, "cpu")
    assert refusal.value.code == codes[spoil]


def test_measures_what_it_segmented_as_the_command_line_does(segmenter, phantom, tmp_path):
    image, _ = phantom.save(tmp_path, "heart")
    measured = segmenter.measure(segmenter.segment(image))
    process(segmenter, Case(image, "heart"), tmp_path / "out", Options())
    assert (tmp_path / "out" / "heart_measurements.json").read_text(encoding="utf-8") == measured.to_json()
    photo, _ = dermoscopy_phantom(size=(160, 120)).save(tmp_path, "lesion")
    lesions = Segmenter("dermoscopy", "cpu")
    assert lesions.measure(lesions.segment(photo)).case == "lesion"


@pytest.fixture(scope="module")
def long_cine() -> MetaTensor:
    phantom = cardiac_phantom(shape=(64, 64, 6), spacing=(2.6, 2.6, 10.0), num_phases=21)
    return MetaTensor(torch.from_numpy(np.moveaxis(phantom.image, -1, 0)), affine=phantom.affine)


def test_phases_of_a_cine_take_turns_in_the_same_batches(
    segmenter: Segmenter, long_cine: MetaTensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing grows with the phases but image and mask, and no bit differs from all phases at once."""
    scores, batches = [], []
    inferer, network = type(segmenter._inferer), segmenter.network
    original = inferer.__call__

    def spy(self: Any, inputs: torch.Tensor, *rest: Any) -> torch.Tensor:
        result = original(self, inputs, *rest)
        scores.append(tuple(result.shape[:2]))
        return result

    monkeypatch.setattr(inferer, "__call__", spy)
    hook = network.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    found = segmenter.segment(long_cine)
    assert scores == [*[(1, 4 * 4)] * 5, (1, 1 * 4)] and sum(batches) == 21 * 6
    apart, batches[:] = list(batches), []
    monkeypatch.setattr(Segmenter, "_groups", lambda _, image: [slice(0, len(image))])
    whole = segmenter.segment(long_cine)
    hook.remove()
    assert apart == batches and torch.equal(found, whole) and torch.equal(found.affine, whole.affine)


def test_probabilities_of_a_cine_in_turns(
    segmenter: Segmenter, long_cine: MetaTensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = series_from(long_cine)
    found = segmenter.run(series, probabilities=True)
    monkeypatch.setattr(Segmenter, "_groups", lambda _, image: [slice(0, len(image))])
    whole = segmenter.run(series, probabilities=True)
    assert found.probabilities is not None and whole.probabilities is not None
    assert torch.equal(found.probabilities, whole.probabilities) and found.seconds.keys() == whole.seconds.keys()
    assert found.evidence == whole.evidence and 0.5 < found.evidence["expected_dice"] < 1


def test_numbers_of_the_whole_cine_need_the_whole_cine(
    segmenter: Segmenter, long_cine: MetaTensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transforms that leave evidence see all phases at once."""
    seen, to_labels = [], segmenter._to_labels

    def noting(data: dict[Any, Any]) -> dict[Any, Any]:
        seen.append(len(data["image"]))
        return {**to_labels(data), "evidence": {"phases": float(len(data["image"]))}}

    monkeypatch.setattr(segmenter, "_to_labels", noting)
    assert segmenter.run(series_from(long_cine)).evidence["phases"] == 21.0
    assert seen == [4, 21]


def test_an_image_is_never_changed(segmenter: Segmenter, phantom: Phantom) -> None:
    """Of a pixel size that needs no resampling, too, though the preparation gets no copy."""
    for spacing in ((1.4, 1.6, 9.0), (1.5, 1.5, 9.0)):
        image = MetaTensor(
            torch.from_numpy(phantom.image).float()[None], affine=torch.diag(torch.tensor([*spacing, 1.0]))
        )
        series = series_from(image)
        before = series.image.clone()
        segmenter.run(series)
        assert torch.equal(series.image.as_tensor(), before.as_tensor())
        assert torch.equal(series.image.affine, before.affine) and not series.image.applied_operations


def test_threads_share_a_segmenter(segmenter: Segmenter, phantom: Phantom, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI's transforms are changed while they invert, so no two threads may be in them."""
    series = series_from(MetaTensor(torch.from_numpy(phantom.image), affine=phantom.affine))
    expected = segmenter.run(series).labels
    inside, most = [0], [0]

    def alone(step: Any) -> Any:
        def call(data: Any) -> Any:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            result = step(data)
            inside[0] -= 1
            return result

        return call

    monkeypatch.setattr(segmenter, "_prepare", alone(segmenter._prepare))
    monkeypatch.setattr(segmenter, "_to_labels", alone(segmenter._to_labels))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: segmenter.run(series).labels, range(6)))
    assert most == [1] and all(torch.equal(one, expected) for one in found)
