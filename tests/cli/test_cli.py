"""The command as a stranger runs it: arguments, files, exit codes, and what it says."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_series import write_volume
from PIL import Image

from convformer_monai import __version__
from convformer_monai.cli import main
from convformer_monai.errors import InputRefused
from convformer_monai.phantoms import dermoscopy_phantom
from convformer_monai.phantoms.cardiac import Phantom, cardiac_phantom
from convformer_monai.phantoms.dicom import Identity

ODD = "a $b @c %d #e"
SECRETS = tuple(Identity().planted.values())
COMMANDS = [
    "",
    *"segment measure explain evaluate train experiment export label demo info".split(),
    *(f"benchmark {name}" for name in ("all", "csa", "cardiac", "dicom", "nets")),
    *(f"phantom {name}" for name in ("cardiac", "head-ct", "dermoscopy", "dicom")),
]


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return cardiac_phantom(shape=(96, 104, 3), spacing=(1.8, 1.8, 10.0))


@pytest.fixture(scope="module")
def cine() -> Phantom:
    return cardiac_phantom(shape=(80, 84, 3), spacing=(2.2, 2.2, 12.0), num_phases=4, rotation=(10.0, 20.0, 0.0))


def python(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the command in a process of its own."""
    code = f"{before}\nimport sys\nfrom convformer_monai.cli import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy():
    code = (
        "import json, sys\nfrom convformer_monai.cli import main\n"
        "for line in json.loads(sys.argv[1]):\n    assert main([*line.split(), '--help']) == 0, line\n"
        "print('HEAVY', [name for name in ('torch', 'monai', 'numpy', 'pydicom', 'rich') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(COMMANDS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.count("Usage: convformer-monai") == len(COMMANDS)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_each_command_is_there_with_a_help(capsys):
    assert main([]) == 2  # as of any command of several
    shown = capsys.readouterr().err
    for name in COMMANDS[1:]:
        assert f"  {name.split()[0]} " in shown


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"convformer-monai {__version__}\n"


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "convformer_monai.cli"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("Usage: convformer-monai ")


def test_info_imports_no_torch():
    done = python("info", "--json", before="import sys; sys.modules['torch'] = None; sys.modules['monai'] = None")
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    cardiac = next(bundle for bundle in content["bundles"] if bundle["name"] == "cardiac")
    assert len(cardiac["weights_sha256"]) == 64 and cardiac["eval_metrics"]["dice_mean"] > 0.8


def test_info_tells_the_licences_of_code_and_weights(capsys):
    assert main(["info", "-b", "cardiac"]) == 0
    assert "licence  of the code Apache-2.0; of the weights CC BY-NC-SA 4.0" in capsys.readouterr().out


def test_info_prints_the_path_of_a_bundle_and_nothing_else(capsys):
    assert main(["info", "--bundle-path", "cardiac"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert (Path(line) / "models" / "model.pt").is_file()
    assert main(["info", "--bundle-path", "nothing"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error[BUNDLE_NOT_FOUND]: nothing is not a bundle") and err.count("\n") == 1


def test_info_of_the_networks(capsys):
    assert main(["info", "--networks", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    nets = {net["name"]: net for net in content["nets"]}
    assert {"ConvFormerUNet", "SETR", "TransUNet", "TransFuse", "FATNet", "Patcher"} == nets.keys()
    assert nets["SETR"]["presets"]["full"] == {"vit": 39_106_052, "convformer": 115_609_124}
    assert list(nets["Patcher"]["presets"]) == ["small", "full", "original"]
    blocks = {block["name"]: block["description"] for block in content["blocks"]}
    assert blocks.keys() >= {"convformer", "vit", "identity", "conv"} and all(blocks.values())
    assert main(["info", "--networks"]) == 0
    said = capsys.readouterr().out
    assert "full      vit 39.1, convformer 115.6" in said
    assert all(f"  {name} " in said for name in (*nets, *blocks))


def test_explain(phantom, tmp_path, capsys):
    path, _ = phantom.save(tmp_path / "in", ODD)
    arguments = ["explain", "-i", str(path), "-o", str(tmp_path / "out"), "--pixel", "50,52", "--slice", "1", "-q"]
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert err == "" and content["place"]["pixel"] == [50, 52] and content["place"]["slice"] == 1
    assert {file.name for file in (tmp_path / "out").iterdir()} == set(content["files"])
    assert f"{ODD}_attention.png" in content["files"]
    assert main([*arguments, "--overwrite", "--net", "SETR", "--block", "vit", "--preset", "small"]) == 0
    assert not (tmp_path / "out" / f"{ODD}_receptive_field.png").exists()
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error[EXISTS]: ")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--pixel", "x"], "error[OPTION]: --pixel 'x' is not a pixel"),
        (["--pixel", "999,0"], "error[OUT_OF_RANGE]: --pixel 999,0"),
        (["--slice", "3"], "error[OUT_OF_RANGE]: --slice 3"),
        (["--net", "UNet"], "error[OPTION]: --net UNet"),
        (["--block", "vit"], "error[OPTION]: --block"),
        (["-b", "nowhere"], "error[BUNDLE_NOT_FOUND]: "),
    ],
)
def test_explain_refuses_in_one_line(phantom, tmp_path, capsys, options, said):
    path, _ = phantom.save(tmp_path / "in", "case")
    assert main(["explain", "-i", str(path), "-o", str(tmp_path / "out"), *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(said) and err.count("\n") == 1
    assert not (tmp_path / "out").exists() or not [*(tmp_path / "out").iterdir()]


@pytest.mark.slow
def test_explain_a_dicom_series(cine, tmp_path):
    folder = write_volume(tmp_path / "1.2.840.55", cine.image, cine.affine)
    assert main(["explain", "-i", str(folder), "-o", str(tmp_path / "out"), "--phase", "1", "-q"]) == 0
    text = (tmp_path / "out" / "1.2.840.55_explain.json").read_text()
    assert json.loads(text)["place"]["phase"] == 1 and not [secret for secret in SECRETS if secret in text]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["segment", "--bogus"], "--bogus"),
        (["segment", "--inp", "x", "-o", "y"], "--inp"),
        (["segment", "-o", "y"], "--input"),
        (["segment", "-i", "x", "-o", "y", "--ed", "-1"], "--ed"),
        (["segment", "-i", "x", "-o", "y", "--ed", "one"], "--ed"),
        (["segment", "-i", "x", "-o", "y", "-b"], "-b"),
        (["benchmark", "nothing"], "nothing"),
        (["demo", "cardiac", "a.nii.gz", "out", "more"], "demo takes"),
        (["nothing"], "nothing"),
        (["segment", "-i", "my", "scan.nii", "-o", "y"], "(scan.nii); quote paths that hold spaces; see "),
        (["info", "-b", "brain"], "brain"),
        (["explain", "-i", "x", "-o", "y", "--slice", "-1"], "--slice"),
        (["explain", "-i", "x"], "--output"),
    ],
)
def test_wrong_arguments(arguments, said, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert said in err and out == "" and err.startswith("error[") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--format", "niftii"], "OPTION"),
        (["--format", ""], "OPTION"),
        (["--phase", "diastole"], "OPTION"),
        (["--device", "cuda:77"], "DEVICE"),
        (["-b", "nowhere"], "BUNDLE_NOT_FOUND"),
        (["--format", "dicom-seg"], "NOT_DICOM"),
        (["--ed", "5"], "PHASE_NOT_FOUND"),
        (["--series-uid", "1.2.3"], "NOT_DICOM"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_nothing(phantom, tmp_path, capsys, options, code):
    path, _ = phantom.save(tmp_path / "in", "case")
    assert main(["segment", "-i", str(path), "-o", str(tmp_path / "out"), *options]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith(f"error[{code}]: ") and "Traceback" not in "".join(err)
    assert not [file for file in (tmp_path / "out").rglob("*") if file.is_file()]


def test_nifti(phantom, tmp_path, capsys):
    path, _ = phantom.save(tmp_path / "in", ODD)
    assert main(["segment", "-i", str(path), "-o", str(tmp_path / ODD), "--preview", "--json", "-q"]) == 0
    summary = json.loads(capsys.readouterr().out)
    written = {file.name for file in (tmp_path / ODD).iterdir()}
    assert {
        f"{ODD}_{end}" for end in ("seg.nii.gz", "measurements.json", "measurements.csv", "report.json", "preview.png")
    } <= written
    assert {Path(file).name for file in summary["cases"][0]["files"]} == written
    mask = nib.load(tmp_path / ODD / f"{ODD}_seg.nii.gz")
    np.testing.assert_allclose(mask.affine, phantom.affine, atol=1e-5)
    assert mask.get_data_dtype() == np.uint8 and mask.header.get_xyzt_units()[0] == "mm"
    volume = np.count_nonzero(np.asanyarray(mask.dataobj) == 3) * abs(np.linalg.det(phantom.affine[:3, :3])) / 1000
    measured = json.loads((tmp_path / ODD / f"{ODD}_measurements.json").read_text())
    assert measured == summary["cases"][0]["measurements"]
    lv = [item["value"] for item in measured["measurements"] if item["structure"] == "LV" and item["unit"] == "mL"]
    assert any(value == pytest.approx(volume, rel=1e-4) for value in lv)
    report = json.loads((tmp_path / ODD / f"{ODD}_report.json").read_text())
    assert len(report["bundle"]["weights_sha256"]) == 64


def test_dicom_cine_with_everything(cine, tmp_path, capsys):
    folder = write_volume(tmp_path / "1.2.840.55", cine.image, cine.affine)
    assert SECRETS[0].encode() in next(folder.iterdir()).read_bytes()
    out = tmp_path / "out"
    options = ["--format", "nifti,dicom-seg,dicom-sr", "--preview"]
    assert main(["segment", "-i", str(folder), "-o", str(out), *options]) == 0
    files = sorted(file.name for file in out.iterdir())
    assert "1.2.840.55_seg.nii.gz" in files and "1.2.840.55_sr.dcm" in files and "1.2.840.55_preview.png" in files
    assert len([name for name in files if name.endswith(".dcm") and "_seg" in name]) == 4
    mask = nib.load(mask_file := out / "1.2.840.55_seg.nii.gz")
    assert mask.shape == (*cine.image.shape[:3], 4)
    names = {item["name"] for item in json.loads((out / "1.2.840.55_measurements.json").read_text())["measurements"]}
    assert any("ef" in name for name in names)
    said = "".join(capsys.readouterr())
    values = []
    for path in (out, mask_file):  # the DICOM SEGs, and the NIfTI mask
        assert main(["measure", "-m", str(path), "--json"]) == 0
        measured = json.loads(capsys.readouterr().out)["measurements"]
        values.append({(item["name"], item["structure"], item["phase"]): item["value"] for item in measured})
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    for secret in SECRETS:
        assert secret not in said
        for file in out.iterdir():
            if file.suffix != ".dcm":
                assert secret.encode() not in nifti_or_bytes(file), f"{secret} in {file.name}"


def nifti_or_bytes(path: Path) -> bytes:
    import gzip

    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


@pytest.mark.parametrize("phase", ["ed", "es", "1"])
def test_one_phase_of_a_cine(cine, tmp_path, phase):
    path, _ = cine.save(tmp_path, "cine")
    arguments = ["segment", "-i", str(path), "-o", str(tmp_path / "out"), "--phase", phase, "-q"]
    assert main([*arguments, "--ed", "0", "--es", "2"] if phase != "1" else arguments) == 0
    assert nib.load(tmp_path / "out" / "cine_seg.nii.gz").shape[:3] == cine.image.shape[:3]
    everything = ["segment", "-i", str(path), "-o", str(tmp_path / "all"), "-q"]
    assert main(everything) == 0
    whole = np.asanyarray(nib.load(tmp_path / "all" / "cine_seg.nii.gz").dataobj)
    one = np.asanyarray(nib.load(tmp_path / "out" / "cine_seg.nii.gz").dataobj).squeeze()
    np.testing.assert_array_equal(one, whole[..., {"ed": 0, "es": 2, "1": 1}[phase]])


@pytest.mark.slow
def test_a_folder_of_cases(phantom, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    phantom.save(source / "ward 1", "scan")
    phantom.save(source / "ward 2", "scan")
    (source / "broken.nii.gz").write_bytes(b"no image")
    done = python("segment", "-i", str(source), "-o", str(out))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert re.fullmatch(
        r"2 done(, [12] of them with flags of doubt; |, )0 skipped. 1 refused. 0 failed", done.stderr.splitlines()[-1]
    )
    assert done.stderr.count("error[NOT_NIFTI]") == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-2].startswith("broken: error[NOT_NIFTI]: ")
    for ward in ("ward 1", "ward 2"):
        assert (out / ward / "scan_seg.nii.gz").is_file()
    with open(out / "measurements.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and set(rows[0]) >= {"case", "name", "value", "unit"}

    # the second run does only what is left to do
    before = (out / "ward 1" / "scan_seg.nii.gz").stat().st_mtime_ns
    for file in (out / "ward 2").iterdir():
        file.unlink()
    (source / "broken.nii.gz").unlink()
    done = python("segment", "-i", str(source), "-o", str(out))
    assert done.returncode == 0 and re.search(r"1 done.* 1 skipped.* 0 refused.* 0 failed", done.stderr)
    assert (out / "ward 1" / "scan_seg.nii.gz").stat().st_mtime_ns == before


def test_the_measurements_of_a_single_image_are_printed(phantom, tmp_path, capsys):
    path, _ = phantom.save(tmp_path, "case")
    arguments = ["segment", "-i", str(path), "-o", str(tmp_path / "out"), "--overwrite"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert main(["measure", "-m", str(tmp_path / "out" / "case_seg.nii.gz")]) == 0
    numbers = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" mL")]
    assert out.startswith("case\n") and numbers and set(numbers) <= set(out.splitlines())
    assert main([*arguments, "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert main([*arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["flagged"] == bool(json.loads(out)["cases"][0]["measurements"]["flags"])


def test_stopped_in_the_middle_and_resumed(phantom, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    for name in ("a", "b"):
        phantom.save(source, name)
    stop = (
        "import convformer_monai.cohort.folder as cohort\n"
        "process = cohort.process\n"
        "def interrupted(segmenter, case, *rest):\n"
        "    if case.name == 'b': raise KeyboardInterrupt\n"
        "    return process(segmenter, case, *rest)\n"
        "cohort.process = interrupted"
    )
    done = python("segment", "-i", str(source), "-o", str(out), before=stop)
    assert done.returncode == 130 and "interrupted" in done.stderr.splitlines()[-1]
    assert (out / "a_report.json").is_file() and not [*out.glob("b*")] and not [*out.glob(".*")]
    assert main(["segment", "-i", str(source), "-o", str(out), "-q"]) == 0
    assert len(list(csv.reader((out / "measurements.csv").open()))) > 2 and (out / "b_seg.nii.gz").is_file()


def test_a_full_disk_leaves_nothing_and_says_so(phantom, tmp_path):
    path, _ = phantom.save(tmp_path, "case")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"  # as a quota
    done = python("segment", "-i", str(path), "-o", str(tmp_path / "out"), "--preview", before=limit)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("error[CANNOT_WRITE]: ")
    assert "wrote" not in done.stderr and [*(tmp_path / "out").iterdir()] == []


def test_single_phase_is_no_known_moment(phantom, tmp_path, capsys):
    path, _ = phantom.save(tmp_path, "case")
    arguments = ["segment", "-i", str(path), "-o", str(tmp_path / "out"), "-q", "--phase", "ed"]
    assert main(arguments) == 2
    assert "error[PHASE_NOT_FOUND]" in capsys.readouterr().err and [*(tmp_path / "out").iterdir()] == []
    assert main([*arguments, "--ed", "0"]) == 0


def test_results_in_the_folder_of_the_images(phantom, tmp_path):
    write_volume(tmp_path / "case", phantom.image, phantom.affine)
    arguments = ["segment", "-i", str(tmp_path), "-o", str(tmp_path), "--format", "nifti,dicom-seg,dicom-sr", "-q"]
    assert main(arguments) == 0
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir() if file.name != "measurements.csv"}
    assert main(arguments) == 0
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.iterdir() if file.name != "measurements.csv"}


def test_nothing_is_overwritten_without_the_flag(phantom, tmp_path, capsys):
    path, _ = phantom.save(tmp_path, "case")
    out = tmp_path / "out"
    out.mkdir()
    (out / "case_seg.nii.gz").write_bytes(b"precious")
    arguments = ["segment", "-i", str(path), "-o", str(out), "-q"]
    assert main(arguments) == 2
    assert "error[EXISTS]" in capsys.readouterr().err and (out / "case_seg.nii.gz").read_bytes() == b"precious"
    assert main([*arguments, "--overwrite"]) == 0
    assert nib.load(out / "case_seg.nii.gz").shape == phantom.image.shape


def test_equal_names_in_one_folder_are_refused(phantom, tmp_path, capsys):
    path, _ = phantom.save(tmp_path / "in", "case")
    nib.save(nib.load(path), tmp_path / "in" / "case.nii")
    assert main(["segment", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-q"]) == 2
    assert "error[EQUAL_NAMES]" in capsys.readouterr().err


def test_measure_an_existing_mask(cine, tmp_path, capsys):
    _, truth = cine.save(tmp_path, "cine")
    assert main(["measure", "-m", str(truth), "--json"]) == 0
    measured = {item["name"]: item["value"] for item in json.loads(capsys.readouterr().out)["measurements"]}
    assert any("ef" in name for name in measured)
    assert main(["measure", "-m", str(truth), "-o", str(tmp_path / "out"), "--ed", "0", "--es", "1"]) == 0
    assert re.search(r"ejection fraction", capsys.readouterr().out, re.IGNORECASE)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "cine_truth_measurements.json",
        "cine_truth_measurements.csv",
    }


def test_an_image_is_no_mask(phantom, tmp_path, capsys):
    path, _ = phantom.save(tmp_path, "case")
    assert main(["measure", "-m", str(path)]) == 2
    assert "error[NOT_A_MASK]" in capsys.readouterr().err


def test_a_fault_of_ours_is_one_line_too(monkeypatch, capsys):
    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError("Doe^John")

    monkeypatch.setattr("convformer_monai.about.about", fail)
    assert main(["info"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error[FAULT]: ZeroDivisionError") and "Doe" not in err and err.count("\n") == 1
    monkeypatch.setenv("CONVFORMER_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["info"])


def test_interruption(monkeypatch, capsys):
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("convformer_monai.about.about", interrupt)
    assert main(["info"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_refusal_inside_another_error_is_found(monkeypatch, capsys):
    def refuse(*_arguments: object) -> None:
        try:
            raise InputRefused("CODE", "what, where, what to do")
        except InputRefused as refusal:
            raise RuntimeError("wrapped") from refusal

    monkeypatch.setattr("convformer_monai.about.about", refuse)
    assert main(["info"]) == 2
    assert capsys.readouterr().err == "error[CODE]: what, where, what to do\n"


@pytest.mark.slow
def test_the_whole_command_needs_no_network(phantom, tmp_path):
    path, _ = phantom.save(tmp_path, "case")
    block = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse"
    )
    done = python("segment", "-i", str(path), "-o", str(tmp_path / "out"), "--preview", before=block)
    assert done.returncode == 0, done.stderr
    if os.geteuid() == 0 and Path("/usr/bin/unshare").exists():
        code = [sys.executable, "-m", "convformer_monai.cli", "segment", "-i", str(path), "-o", str(tmp_path / "out2")]
        alone = subprocess.run(["unshare", "--net", *code], capture_output=True, text=True, check=False)
        assert alone.returncode == 0, alone.stderr


def test_no_file_is_called_no_image(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("hi")
    assert main(["segment", "-i", str(tmp_path / "a.txt"), "-o", str(tmp_path / "out")]) == 2
    assert "error[NOT_AN_IMAGE]" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".ts", ".pt2", ".onnx"])
def test_export(tmp_path, capsys, ending):
    path = tmp_path / f"net{ending}"
    assert main(["export", "-o", str(path)]) == 0
    assert path.stat().st_size > 1e6 and [file.name for file in tmp_path.iterdir()] == [path.name]
    assert main(["export", "-o", str(path)]) == 2
    assert "error[EXISTS]" in capsys.readouterr().err


@pytest.mark.parametrize("factor", [float("nan"), 1.01])
def test_export_that_computes_something_else_leaves_nothing(tmp_path, capsys, monkeypatch, factor):
    from convformer_monai import export

    run = export._run_torchscript
    monkeypatch.setattr(export, "_run_torchscript", lambda path, batch: run(path, batch) * factor)
    assert main(["export", "-o", str(tmp_path / "net.ts")]) == 2
    said = capsys.readouterr().err
    assert "CANNOT_WRITE" in said and "something else than the network" in said and not list(tmp_path.iterdir())


def test_export_needs_its_packages_first(tmp_path, capsys, monkeypatch):
    from convformer_monai import export

    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else object())
    assert main(["export", "-o", str(tmp_path / "net.onnx")]) == 2
    assert "MISSING_PACKAGE" in (said := capsys.readouterr().err) and "onnxruntime" in said


def test_export_knows_its_formats(tmp_path, capsys):
    assert main(["export", "-o", str(tmp_path / "net.pth")]) == 2
    assert "error[EXPORT_FORMAT]" in capsys.readouterr().err


def test_a_fault_in_a_folder_is_kept_beside_the_results(phantom, tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        phantom.save(tmp_path / "in", name)
    monkeypatch.setattr("convformer_monai.cohort.folder.process", lambda *_: 1 / 0)
    arguments = ["segment", "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert f"error[FAULT]: ZeroDivisionError, a fault of ours; report {tmp_path}/out/a_fault.txt" in error
    assert "Traceback" not in error
    assert "ZeroDivisionError" in (tmp_path / "out" / "b_fault.txt").read_text()
    monkeypatch.setenv("CONVFORMER_DEBUG", "1")
    assert main(arguments) == 1
    assert capsys.readouterr().err.count("Traceback") == 2


def test_sizes_of_photographs_in_mm(tmp_path, capsys):
    photo, truth = dermoscopy_phantom(size=(160, 120)).save(tmp_path, "x")
    assert main(["measure", "-m", str(truth), "-b", "dermoscopy", "--json"]) == 0
    pixels = json.loads(capsys.readouterr().out)["measurements"]
    assert main(["measure", "-m", str(truth), "-b", "dermoscopy", "--mm-per-pixel", "0.05", "--json"]) == 0
    sizes = json.loads(capsys.readouterr().out)["measurements"]
    assert (pixels[0]["unit"], sizes[0]["unit"]) == ("{pixel}", "mm2")
    assert sizes[0]["value"] == pytest.approx(0.05**2 * pixels[0]["value"])
    out = str(tmp_path / "out")
    assert main(["segment", "-i", str(photo), "-o", out, "-b", "dermoscopy", "--mm-per-pixel", "0.05", "-q"]) == 0
    report = json.loads((tmp_path / "out" / "x_report.json").read_text())
    assert report["options"]["mm_per_pixel"] == 0.05 and report["input"]["spacing_mm"] == [0.05, 0.05]


@pytest.mark.parametrize("value", ["0", "-1", "11", "nan"])
def test_pixel_sizes_that_cannot_be(value, tmp_path, capsys):
    photo, _ = dermoscopy_phantom(size=(80, 60)).save(tmp_path, "x")
    arguments = ["segment", "-i", str(photo), "-o", str(tmp_path), "-b", "dermoscopy", "--mm-per-pixel", value]
    assert main(arguments) == 2
    assert capsys.readouterr().err.startswith("error[OPTION]: --mm-per-pixel must be from 0.0001 to 10")


def test_the_pixel_size_is_for_photographs(phantom, tmp_path, capsys):
    image, _ = phantom.save(tmp_path, "x")
    assert main(["segment", "-i", str(image), "-o", str(tmp_path), "--mm-per-pixel", "1"]) == 2
    assert "--mm-per-pixel is for photographs" in capsys.readouterr().err


def test_control_characters_of_names_do_not_reach_the_terminal(phantom, tmp_path):
    name = "evil\x1b[2J\rname"
    phantom.save(tmp_path / "in", name)
    (tmp_path / "in" / f"bad{name}.nii").write_bytes(b"no NIfTI")
    for source in (tmp_path / "in", tmp_path / "in" / f"bad{name}.nii", tmp_path / f"no{name}"):
        ended = python("segment", "-i", str(source), "-o", str(tmp_path / "out"), "-b", "cardiac")
        assert ended.returncode == 2 and "\\x1b[2J\\rname" in ended.stderr
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", ended.stdout + ended.stderr)
    ended = python("measure", "-m", str(tmp_path / "out" / f"{name}_seg.nii.gz"))
    assert ended.returncode == 0 and "\\x1b[2J" in ended.stdout and "\x1b" not in ended.stdout + ended.stderr
    ended = python("segment", "-i", "x", "-o", "y", "--nothing\x1b[2J")
    assert ended.returncode == 2 and "\x1b" not in ended.stderr


@pytest.mark.slow
def test_export_says_nothing_but_what_it_wrote(tmp_path):
    done = python("export", "-o", str(tmp_path / "net.onnx"))
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_name_too_long_for_its_results_is_refused_before_the_work(phantom, tmp_path, capsys, monkeypatch):
    path, _ = phantom.save(tmp_path / "in", "case")
    path = path.rename(path.with_name("\u00e9" * 122 + ".nii.gz"))
    monkeypatch.setattr("convformer_monai.segmenter.Segmenter.__init__", None)
    assert main(["segment", "-i", str(path), "-o", str(tmp_path / "out"), "-q"]) == 2
    said = capsys.readouterr().err
    assert "error[NAME_TOO_LONG]" in said and "244 bytes" in said and "237" in said
    monkeypatch.setattr("convformer_monai.readers.read_series", None)
    assert main(["measure", "-m", str(path), "-o", str(tmp_path / "measured"), "-q"]) == 2
    assert "error[NAME_TOO_LONG]" in capsys.readouterr().err and not (tmp_path / "measured").exists()


@pytest.mark.parametrize("command", ["segment -o {out} -i", "measure -m", "explain -o {out} -i"])
def test_pipes_and_devices_are_refused_as_what_they_are(command, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.nii")
    arguments = command.format(out=tmp_path / "out").split()
    for path, what in ((tmp_path / "pipe.nii", "is a pipe"), (Path("/dev/zero"), "is a device")):
        assert main([*arguments, str(path)]) == 2
        assert f"error[NOT_AN_IMAGE]: {path} {what}, not a file" in capsys.readouterr().err


def test_the_limit_of_photographs_is_said(repository, tmp_path, capsys):
    Image.new("1", (10001, 10000)).save(tmp_path / "x.png")
    assert main(["segment", "-b", "dermoscopy", "-i", str(tmp_path / "x.png"), "-o", str(tmp_path / "out"), "-q"]) == 2
    assert "over 100,000,000 pixels" in capsys.readouterr().err
    assert main(["segment", "--help"]) == 0
    assert "100 million pixels" in capsys.readouterr().out
    assert "100 million pixels" in (repository / "README.md").read_text()
