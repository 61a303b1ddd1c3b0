"""What the bundles' configs call: finding images, loading weights, reusing parts, and the metadata's form."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import verify_net_in_out
from monai.inferers import Inferer
from monai.transforms import Compose
from nifti_files import affine, save
from packaging.specifiers import SpecifierSet
from torch import nn

import convformer_monai
from convformer_monai.about import about
from convformer_monai.bundle import Bundle, component, file_sha256, load_weights
from convformer_monai.cohort import segment_cases
from convformer_monai.datalist import find_images
from convformer_monai.errors import InputRefused, find_refusal
from convformer_monai.outputs.writer import Options
from convformer_monai.phantoms import cardiac_phantom
from convformer_monai.readers import stem
from convformer_monai.tasks.cardiac import CARDIAC
from convformer_monai.tasks.task import BACKGROUND

VOLUME = np.zeros((4, 4, 4), np.int16)


def refusal(code: str):
    return pytest.raises(InputRefused, match=rf"^error\[{code}\]: [^\n]+$")


class TestFindImages:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for name in ("b.nii.gz", "a.nii", "a_gt.nii.gz", "b_seg.nii.gz", "b_TRUTH.nii", ".b.nii.gz.partial.nii.gz"):
            save(tmp_path / name, VOLUME)
        (tmp_path / "notes.txt").write_text("x")
        (tmp_path / "sub").mkdir()
        save(tmp_path / "sub" / "c.nii.gz", VOLUME)
        return tmp_path

    def test_folder(self, folder: Path) -> None:
        expected = [{"image": str(folder / name)} for name in ("a.nii", "b.nii.gz", "sub/c.nii.gz")]
        assert find_images(None, folder) == find_images(None, str(folder)) == expected

    @pytest.mark.parametrize("form", [str, Path, lambda path: {"image": str(path), "label": "ignored"}])
    def test_datalist(self, folder: Path, form: type) -> None:
        paths = [folder / "b.nii.gz", folder / "sub" / "c.nii.gz"]
        assert find_images([form(path) for path in paths], "ignored") == [{"image": str(path)} for path in paths]

    def test_one_path(self, folder: Path) -> None:
        assert find_images(str(folder / "a.nii"), None) == [{"image": str(folder / "a.nii")}]

    def test_a_mask_named_on_purpose_is_taken(self, folder: Path) -> None:
        assert len(find_images([folder / "a_gt.nii.gz"], None)) == 1

    def test_names_of_any_characters(self, tmp_path: Path) -> None:
        paths = [save(tmp_path / f"{name}.nii.gz", VOLUME) for name in ("ünï cödé", "$a", "@b", "%c", "d#e::f", "2024")]
        assert find_images(list(map(str, paths)), None) == [{"image": str(path)} for path in paths]

    def test_folder_whose_name_is_a_number(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "2024").mkdir()
        save(tmp_path / "2024" / "x.nii.gz", VOLUME)
        monkeypatch.chdir(tmp_path)
        assert find_images(None, 2024) == [{"image": "2024/x.nii.gz"}]

    @pytest.mark.parametrize("datalist", [[], ()])
    def test_refuses_nothing_to_do(self, datalist: object) -> None:
        with refusal("NO_IMAGES"):
            find_images(datalist, None)

    def test_refuses_folders_without_images(self, tmp_path: Path) -> None:
        for name in (None, "x.txt", "x_seg.nii.gz"):
            if name:
                (tmp_path / name).write_bytes(b"")
            with refusal("NO_IMAGES"):
                find_images(None, tmp_path)
        assert find_images(None, tmp_path, allow_none=True) == []

    def test_allowing_none_allows_nothing_else(self, folder: Path) -> None:
        assert find_images([], None, allow_none=True) == find_images(None, folder / "x", allow_none=True) == []
        for bad in ([7], [folder / "missing.nii.gz"], [folder / "a.nii", folder / "a.nii"]):
            with pytest.raises(InputRefused):
                find_images(bad, None, allow_none=True)

    @pytest.mark.parametrize("folder", ["missing", None, 2024, ""])
    def test_refuses_no_folder(self, folder: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(InputRefused, match="FOLDER_NOT_FOUND|NO_IMAGES"):
            find_images(None, folder)

    @pytest.mark.parametrize("datalist", [7, {"image": "a.nii"}, [7], [None], [{"label": "a.nii"}], [""], [["a.nii"]]])
    def test_refuses_what_is_no_list_of_paths(self, datalist: object) -> None:
        with refusal("DATALIST"):
            find_images(datalist, None)

    def test_refuses_missing_and_bad_files_at_once(self, folder: Path) -> None:
        with refusal("FILE_NOT_FOUND"):
            find_images([folder / "a.nii", folder / "missing.nii.gz"], None)
        (folder / "bad.nii.gz").write_bytes(b"")
        with pytest.raises(InputRefused, match="NIFTI_UNREADABLE|NOT_NIFTI"):
            find_images(None, folder)

    def test_refuses_equal_names(self, folder: Path) -> None:
        save(folder / "a.nii.gz", VOLUME)
        with refusal("EQUAL_NAMES"):
            find_images([folder / "a.nii", folder / "a.nii.gz"], None)
        save(folder / "sub" / "b.nii.gz", VOLUME)
        with refusal("EQUAL_NAMES"):
            find_images([folder / "b.nii.gz", folder / "sub" / "b.nii.gz"], None)


def test_stem() -> None:
    names = {"a.nii": "a", "a.nii.gz": "a", "a.b.NII.GZ": "a.b", "a.nii.nii.gz": "a.nii"}
    assert {name: stem(Path("x") / name) for name in names} == names


@pytest.mark.parametrize("name", ["..nii.gz", "...nii.gz", ".nii.gz", "..dcm"])
def test_a_stem_never_leads_to_another_folder(name: str) -> None:
    assert stem(Path("x") / name) == name


class TestLoadWeights:
    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        half = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
        torch.save(half, tmp_path / "model.pt")
        return tmp_path / "model.pt"

    def test_loads_float16_into_float32(self, weights: Path) -> None:
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        assert load_weights(net, weights, file_sha256(weights)) is net
        stored = torch.load(weights, weights_only=True)
        for name, value in net.state_dict().items():
            assert value.dtype == (torch.float32 if value.is_floating_point() else torch.int64)
            torch.testing.assert_close(value, stored[name].to(value.dtype), rtol=0, atol=0)

    def test_refuses_another_file(self, weights: Path) -> None:
        with refusal("WEIGHTS_HASH"):
            load_weights(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), weights, "0" * 64)

    def test_own_weights_are_not_checked_but_noted(self, weights: Path, caplog: pytest.LogCaptureFixture) -> None:
        for none in (None, ""):
            caplog.clear()
            load_weights(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)), weights, none)
            assert "no SHA-256" in caplog.text

    @pytest.mark.parametrize("net", [nn.Conv2d(1, 2, 3), nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))])
    def test_refuses_what_does_not_fit(self, weights: Path, net: nn.Module) -> None:
        with refusal("WEIGHTS_MISFIT"):
            load_weights(net, weights)

    def test_refuses_what_is_no_state_dict(self, tmp_path: Path) -> None:
        with refusal("WEIGHTS_NOT_FOUND"):
            load_weights(nn.Linear(1, 1), tmp_path / "missing.pt")
        torch.save(nn.Linear(1, 1), tmp_path / "pickle.pt")
        torch.save([1, 2], tmp_path / "list.pt")
        (tmp_path / "garbage.pt").write_bytes(b"garbage")
        (tmp_path / "empty.pt").write_bytes(b"")
        for name in ("pickle.pt", "list.pt", "garbage.pt", "empty.pt"):
            with refusal("WEIGHTS_MISFIT"):
                load_weights(nn.Linear(1, 1), tmp_path / name)

    @pytest.mark.parametrize("content", [b"hello", b"a.", b"M", b"X\x01\x00\x00\x00\xff."])
    def test_refuses_damaged_files(self, tmp_path: Path, content: bytes) -> None:
        """Of which torch.load raises KeyError, IndexError, struct.error and UnicodeDecodeError."""
        (tmp_path / "x.pt").write_bytes(content)
        with refusal("WEIGHTS_MISFIT"):
            load_weights(nn.Linear(1, 1), tmp_path / "x.pt")


class TestComponent:
    def test_parts(self, bundle_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert isinstance(component(bundle_root, "inference", "network_def"), nn.Module)
        assert isinstance(component(str(bundle_root), "inference", "inferer"), Inferer)
        assert component(bundle_root, "inference", "output_dir") == f"{bundle_root}/eval"

    def test_training_gets_the_same_steps_for_image_and_label(self, bundle_root: Path, tmp_path: Path) -> None:
        data = np.random.default_rng(0).integers(0, 4, (30, 20, 4)).astype(np.int16)
        image = str(save(tmp_path / "x.nii.gz", data * 100, affine((1.2, 1.3, 8.0))))
        label = str(save(tmp_path / "x_gt.nii.gz", data, affine((1.2, 1.3, 8.0))))
        both = {"image_keys": ["image", "label"], "image_modes": ["bilinear", "nearest"]}
        training = component(bundle_root, "inference", "preprocessing", both)({"image": image, "label": label})
        inference = component(bundle_root, "inference", "preprocessing")({"image": image})
        np.testing.assert_array_equal(training["image"].numpy(), inference["image"].numpy())
        assert set(np.unique(training["label"].numpy())) == {0, 1, 2, 3}
        assert training["label"].shape == training["image"].shape

    def test_objects_can_be_handed_in(self, bundle_root: Path) -> None:
        """So an evaluation inverts the very preprocessing that it applied."""
        preparation = component(bundle_root, "inference", "preparation")
        post = component(bundle_root, "inference", "native_labels", {"preparation": preparation})
        assert isinstance(post, Compose) and post.transforms[0].transform is preparation

    def test_several_parts_refer_to_each_other(self, bundle_root: Path) -> None:
        parts = component(bundle_root, "inference", ["preparation", "native_labels"])
        assert parts["native_labels"].transforms[0].transform is parts["preparation"]

    def test_refuses_what_is_not_there(self, bundle_root: Path) -> None:
        with pytest.raises(ValueError, match="config"):
            component(bundle_root, "nothing", "network_def")
        with pytest.raises(ValueError, match="'nothing'"):
            component(bundle_root, "inference", "nothing")
        with pytest.raises(ValueError, match="'image_key'"):
            component(bundle_root, "inference", "preprocessing", {"image_key": ["image"]})


class TestMetadata:
    """The rules of the model zoo's schema, which is not in MONAI's wheel, and ours."""

    @pytest.fixture
    def metadata(self, bundle_root: Path) -> dict:
        return json.loads((bundle_root / "configs" / "metadata.json").read_text(encoding="utf-8"))

    def test_fields(self, metadata: dict) -> None:
        texts = ["version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors"]
        texts += ["copyright", "name", "data_source", "data_type", "image_classes", "label_classes", "pred_classes"]
        texts += ["intended_use"]
        for name in texts:
            assert isinstance(metadata[name], str) and metadata[name].strip(), name
        for name in ("version", "monai_version", "pytorch_version", "numpy_version"):
            assert re.fullmatch(r"\d+\.\d+\.\d+", metadata[name]), name
        assert metadata["version"] in metadata["changelog"]
        assert all(isinstance(text, str) and text for text in metadata["changelog"].values())
        assert all(isinstance(text, str) and text for text in metadata["references"])
        for name in ("supported_apps", "eval_metrics", "required_packages_version", "network_data_format"):
            assert isinstance(metadata[name], dict), name
        assert re.fullmatch(r"([0-9a-f]{64})?", metadata["weights_sha256"])

    def test_tested_versions_are_the_ones_we_test_with(self, metadata: dict, repository: Path) -> None:
        lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
        pinned = dict(re.findall(r"^([\w-]+)==([\w.]+)(?:; python_version >=.*)?$", line)[0] for line in lines
                      if re.match(r"^[\w-]+==[\w.]+(; python_version >=.*)?$", line))  # fmt: skip
        stated = {**metadata["tested_packages_version"], "monai": metadata["monai_version"]}
        stated |= {"torch": metadata["pytorch_version"]}
        del stated["python"]
        assert stated == {name: pinned[name] for name in stated}
        # The model zoo's checks install exactly this one, on Python 3.10.
        assert f'numpy=={metadata["numpy_version"]}; python_version < "3.11"' in lines

    def test_required_versions_are_the_package_s_own_ranges(self, metadata: dict, repository: Path) -> None:
        config = configparser.ConfigParser()
        config.read(repository / "setup.cfg", encoding="utf-8")
        lines = config["options"]["install_requires"].split()
        ranges = dict(re.fullmatch(r"([\w-]+)([<>=].*)", line).groups() for line in lines)  # type: ignore[union-attr]
        required = dict(metadata["required_packages_version"])
        ours = SpecifierSet(required.pop("convformer_monai"))
        assert convformer_monai.__version__ in ours and "0.1.0" not in ours
        assert required == {name: ranges[name] for name in required}
        assert set(metadata["tested_packages_version"]) - {"python", "numpy"} == set(required)
        for name, version in metadata["tested_packages_version"].items():
            assert name == "python" or version in SpecifierSet(ranges[name])

    def test_data_format(self, metadata: dict, bundle_root: Path) -> None:
        config = json.loads((bundle_root / "configs" / "inference.json").read_text(encoding="utf-8"))
        formats = metadata["network_data_format"]
        assert list(formats["inputs"]) == ["image"] and list(formats["outputs"]) == ["pred"]
        for tensor, channels in (
            (formats["inputs"]["image"], "in_channels"),
            (formats["outputs"]["pred"], "out_channels"),
        ):
            assert {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"} < set(
                tensor
            )
            assert tensor["num_channels"] == config["network_def"][channels] == len(tensor["channel_def"])
            assert list(tensor["channel_def"]) == [str(index) for index in range(tensor["num_channels"])]
            assert all(re.fullmatch(r"[\dpn* ]+", str(size)) for size in tensor["spatial_shape"])

    def test_channels_are_our_labels(self, metadata: dict, bundle_root: Path) -> None:
        table = {str(label.index): label.name for label in (BACKGROUND, *CARDIAC.labels)}
        assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == table

    def test_network_in_and_out(self, bundle_root: Path) -> None:
        configs = bundle_root / "configs"
        for n in (1, 3):
            verify_net_in_out(
                "network_def", str(configs / "metadata.json"), str(configs / "inference.json"), device="cpu", n=n
            )


class TestBundle:
    def test_copied_renamed_and_zipped_measure_the_same(self, bundle_root: Path, tmp_path: Path) -> None:
        path, _ = cardiac_phantom(shape=(64, 64, 3), spacing=(2.5, 2.5, 12.0), num_phases=2).save(tmp_path, "case")
        renamed = shutil.copytree(bundle_root, tmp_path / "cardiac_v2")
        zipped = shutil.make_archive(str(tmp_path / "hub_download"), "zip", tmp_path, "cardiac_v2")
        texts = set()
        for place, bundle in enumerate((bundle_root, renamed, zipped)):
            segment_cases(path, tmp_path / str(place), bundle, Options(), device="cpu", quiet=True)
            texts.add((tmp_path / str(place) / "case_measurements.json").read_bytes())
        assert len(texts) == 1 and b"lv_ef" in texts.pop()

    @pytest.mark.parametrize("task", [None, "liver"])
    def test_without_a_known_task(
        self, bundle_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, task: str | None
    ) -> None:
        bundle = Bundle(changed(bundle_root, tmp_path, lambda content: content.update(convformer_task=task)))
        names = [label.name for label in bundle.labels]
        assert (bundle.task.name, names) == ("generic", ["RV", "MYO", "LV"]) and bundle.task.image == "volume"
        (record,) = caplog.records
        assert "'convformer_task'" in record.getMessage() and "cardiac_short_axis" in record.getMessage()

    def test_of_another_number_of_structures(self, bundle_root: Path, tmp_path: Path) -> None:
        root = changed(bundle_root, tmp_path, lambda content: content.update(convformer_task="ct_hemorrhage"))
        with refusal("BUNDLE_UNUSABLE"):
            Bundle(root).task  # noqa: B018

    @pytest.mark.parametrize("text", ["{", "[]", "3", "{}", '{"network_data_format": {"inputs": []}}', None])
    def test_unusable_metadata(self, bundle_root: Path, tmp_path: Path, text: str | None) -> None:
        root = changed(bundle_root, tmp_path, lambda content: None)
        file = root / "configs" / "metadata.json"
        file.unlink() if text is None else file.write_text(text)
        for use in (about, lambda bundle: segment_cases(root / "models", tmp_path / "out", bundle, Options())):
            with refusal("BUNDLE_UNUSABLE"):
                use(str(root))

    def test_a_zip_that_leads_out_of_its_folder(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr("configs/inference.json", "{}")
            archive.writestr("../../evil.py", "")
        with refusal("BUNDLE_UNUSABLE"):
            Bundle(tmp_path / "x.zip")

    def test_a_damaged_zip(self, bundle_root: Path, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(bundle_root / "configs" / "inference.json", "configs/inference.json")
        content = bytearray((tmp_path / "x.zip").read_bytes())
        for place in range(30 + len("configs/inference.json"), 400, 7):
            damaged = content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
            (tmp_path / "x.zip").write_bytes(damaged)
            with refusal("BUNDLE_UNUSABLE"):
                Bundle(tmp_path / "x.zip")


def changed(bundle_root: Path, folder: Path, change: Callable[[dict], object]) -> Path:
    """A copy of the bundle's configs with other metadata."""
    root = folder / "copy"
    shutil.copytree(bundle_root / "configs", root / "configs")
    content = json.loads((root / "configs" / "metadata.json").read_text())
    change(content)
    (root / "configs" / "metadata.json").write_text(json.dumps(content))
    return root


def test_labels_are_distinct() -> None:
    assert [label.index for label in CARDIAC.labels] == [1, 2, 3]
    for field in ("name", "long_name", "colour", "snomed"):
        assert len({getattr(label, field) for label in CARDIAC.labels}) == 3


class TestRefusals:
    def test_found_through_wrappers(self) -> None:
        refused = InputRefused("CODE", "what, where, what to do")
        assert str(refused) == "error[CODE]: what, where, what to do" and refused.code == "CODE"
        try:
            try:
                try:
                    raise refused
                except InputRefused as error:
                    raise RuntimeError("applying transform") from error
            except RuntimeError:
                raise KeyError("while handling")  # noqa: B904
        except KeyError as error:
            assert find_refusal(error) is refused
        assert find_refusal(ValueError()) is None and find_refusal(None) is None

    def test_survives_pickling(self) -> None:
        import pickle

        again = pickle.loads(pickle.dumps(InputRefused("CODE", "message")))
        assert (again.code, again.message) == ("CODE", "message")

    @pytest.mark.parametrize(
        ("raised", "code", "last"),
        [
            ("InputRefused('CODE', 'why')", 2, "error[CODE]: why"),
            ("RuntimeError('wrapped') from InputRefused('CODE', 'why')", 2, "error[CODE]: why"),
            ("ValueError('fault of ours')", 1, "ValueError: fault of ours"),
            ("SystemExit(5)", 5, ""),
        ],
    )
    def test_end_the_program_with_one_line(self, raised: str, code: int, last: str) -> None:
        program = "from convformer_monai.errors import InputRefused, report_refusals\nreport_refusals()\n"
        program += f"report_refusals()\nraise {raised}"
        path = os.pathsep.join(map(str, sys.path))
        ended = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        lines = ended.stderr.splitlines()
        assert ended.returncode == code and (lines[-1] if lines else "") == last
        assert code != 2 or len(lines) == 1
