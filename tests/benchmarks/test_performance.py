"""``convformer-monai benchmark all``: what is measured, and that the page says what the numbers say; never a time."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from convformer_monai.benchmarks import engines as engines_module
from convformer_monai.benchmarks import growth, performance
from convformer_monai.benchmarks.large import large
from convformer_monai.benchmarks.machine import machine, version_of
from convformer_monai.benchmarks.measures import exponent
from convformer_monai.benchmarks.performance_page import page, plot
from convformer_monai.cli import main
from convformer_monai.measurements.overlap import dice
from convformer_monai.phantoms import cardiac_phantom

DOCS = Path(__file__).parents[2] / "docs"
PARTS = {"machine", "repeats", "start_up", "warm", "large", "engines", "growth"}


@pytest.fixture
def found() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((DOCS / "performance.json").read_text(encoding="utf-8"))
    return content


def test_the_documented_page_is_that_of_its_numbers(found: dict[str, Any], tmp_path: Path) -> None:
    assert (DOCS / "performance.md").read_text(encoding="utf-8") == page(found, "performance")
    plot(found["growth"], tmp_path / "x.svg")
    assert (tmp_path / "x.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_the_page_says_what_misses_its_bar(found: dict[str, Any]) -> None:
    changed = copy.deepcopy(found)
    changed["warm"][0]["ratio"] = 1.29
    changed["warm"][1]["ratio"] = 7.65
    changed["large"][0] |= {"limit_mb": 1000.0, "peak_mb": 1234.0}
    text = page(changed, "x")
    assert "1.29, within the bar of 1.3" in text and "**7.65, above the bar of 1.3**" in text
    assert f"**Above the limit: {changed['large'][0]['image']} by 234 MB" in text
    for row in changed["large"]:
        row["peak_mb"] = 1.0
    assert "All stay within it." in page(changed, "x")


def test_the_page_says_what_it_measured_once_and_links_its_own_files(found: dict[str, Any]) -> None:
    text = page({**found, "repeats": 7}, "mine")
    assert (
        "Medians of 7" in text and "Measured once: large images, growth (but for the seconds of the attention)" in text
    )
    assert "[the numbers](mine.json)" in text and "(mine.svg)" in text and "performance." not in text
    assert "| cases of a folder (the processor's seconds) |" in text


def test_engines_are_equal_if_every_class_is() -> None:
    scores = np.random.default_rng(0).normal(size=(4, 4, 32, 32))
    one, swapped = scores.argmax(1), scores[:, [0, 1, 3, 2]].argmax(1)
    assert engines_module._lowest_dice(one, one) == 1 and engines_module._lowest_dice(one, swapped) == 0
    fewer = np.where((one == 3) & (np.indices(one.shape)[-1] < 8), 0, one)
    assert engines_module._lowest_dice(one, fewer) == pytest.approx(dice(one == 3, fewer == 3))
    nothing = np.zeros((2, 2), np.int64)
    assert engines_module._lowest_dice(nothing, nothing) == 1 and engines_module._lowest_dice(nothing, nothing + 2) == 0


def test_the_measure_of_engines_tells_swapped_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image, _ = cardiac_phantom(shape=(48, 48, 2), spacing=(3.0, 3.0, 10.0)).save(tmp_path, "heart")
    monkeypatch.setattr(engines_module, "version_of", lambda package: "1" if package == "openvino" else None)
    monkeypatch.setattr(engines_module, "export_network", lambda *_: None)
    scores = torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(engines_module, "_torch", lambda *_: scores)
    monkeypatch.setitem(engines_module._SESSIONS, "OpenVINO", lambda *_: lambda: scores[:, [0, 1, 3, 2]])
    rows = {row["engine"]: row for row in engines_module._engines("cardiac", image, 1)}
    assert rows["torch, float32"]["dice"] == 1 and rows["OpenVINO 1"]["dice"] == 0


def test_an_engine_is_named_only_if_it_is_fast_and_equal(found: dict[str, Any]) -> None:
    changed = copy.deepcopy(found)
    row = {"engine": "Fast 1", "milliseconds": 1.0, "speed": 1.4, "dice": 0.9996}
    changed["engines"] = {"cardiac": [row]}
    assert "Of these: Fast 1 (cardiac)." in page(changed, "x")
    for worse in ({"speed": 1.29}, {"dice": 0.9994}):
        changed["engines"] = {"cardiac": [row | worse]}
        assert "Of these: none." in page(changed, "x")
    changed["engines"] = {"cardiac": [{"engine": "Fast", "failure": "not installed"}]}
    text = page(changed, "x")
    assert "None of them was installed." in text and "| cardiac | Fast | not installed |  |  |" in text


def test_exponent_of_growth() -> None:
    assert exponent([10, 30, 100], [3.0 * n**1.5 for n in (10, 30, 100)]) == pytest.approx(1.5)
    assert exponent([10, 20], [7, 7]) == pytest.approx(0)


def test_machine() -> None:
    about = machine()
    assert about["processors"] >= 1 and about["torch"] == version_of("torch") and version_of("no-such-package") is None
    json.dumps(about)


def test_peaks_of_large_images_are_those_of_processes(tmp_path: Path) -> None:
    rows = large(tmp_path, shrink=8)
    assert [row["image"].split(",")[0] for row in rows] == ["CT", "CT", "cine MRI"]
    for row in rows:
        assert row["limit_mb"] == pytest.approx(row["image_mb"] + row["mask_mb"] + 1000)
        assert 200 < row["peak_mb"] < row["limit_mb"] and 0 < row["network_seconds"] < row["seconds"]


def test_engines_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(engines_module, "version_of", lambda _: None)
    image, _ = cardiac_phantom(shape=(48, 48, 2), spacing=(3.0, 3.0, 10.0)).save(tmp_path, "heart")
    rows = engines_module._engines("cardiac", image, 1)
    assert [row["engine"] for row in rows] == [
        *("torch, as segment runs it", "torch, float32", "ONNX Runtime", "OpenVINO")
    ]
    assert rows[0]["speed"] == 1 and rows[0]["dice"] == 1 and rows[1]["dice"] > 0.9
    assert all(row["failure"] == "not installed" for row in rows[2:])


def for_hearts(measure: Callable[..., Any], otherwise: Any) -> Callable[..., Any]:
    """``measure`` for the cardiac bundle, an answer for the others."""
    return lambda bundle, *rest: measure(bundle, *rest) if bundle == "cardiac" else copy.deepcopy(otherwise)


@pytest.mark.slow
def test_everything_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large images are measured by a test of their own; folders, and engines, which take an export, for one bundle."""
    documented = json.loads((DOCS / "performance.json").read_text())
    answers = {
        "engines": [{"engine": "Fast", "failure": "not installed"}],
        "warm": {key: value for key, value in documented["warm"][0].items() if key != "images"},
    }
    for name, answer in answers.items():
        monkeypatch.setattr(performance, name, for_hearts(getattr(performance, name), answer))
    monkeypatch.setattr(growth, "CASES", (2, 4))
    monkeypatch.setattr(performance, "large", lambda *_: documented["large"])
    assert main(["benchmark", "all", "-o", str(tmp_path / "all"), "--repeats", "1", "--shrink", "8"]) == 0
    content = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert content.keys() == PARTS and content["repeats"] == 1
    assert [row["images"] for row in content["warm"]] == ["generated"] * 3 and content["warm"][0]["cases"] == 2
    commands = [row["command"] for row in content["start_up"]["rows"]]
    assert commands[0] == "python" and "segment" in commands and "python -m monai.bundle run" in commands
    assert content["start_up"]["imports"]["segment"].keys() >= {"torch", "monai", "all others"}
    rows = {row["engine"].split()[0]: row for row in content["engines"]["cardiac"]}
    assert all(rows[name]["dice"] > 0.99 and rows[name]["speed"] > 0 for name in ("ONNX", "OpenVINO"))
    assert page(content, "all") == (tmp_path / "all.md").read_text(encoding="utf-8")
    assert (tmp_path / "all.svg").is_file()


class TestRun:
    """The command, with the documented numbers in the place of what takes long to measure."""

    @pytest.fixture
    def output(self, found: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A name at which there is a page already."""
        answers = {**found, "warm": {key: found["warm"][0][key] for key in found["warm"][0] if key != "images"}}
        answers["engines"] = found["engines"]["cardiac"]
        for name in ("start_up", "warm", "large", "engines", "growth"):
            monkeypatch.setattr(performance, name, lambda *_, name=name: copy.deepcopy(answers[name]))
        monkeypatch.setattr(performance, "_images", lambda bundle, source, *_: (str(source), [Path("x")]))
        (tmp_path / "old.md").write_text("The old page.")
        return tmp_path / "old"

    def test_writes_all(self, output: Path) -> None:
        assert main(["benchmark", "all", "-o", str(output)]) == 0
        content = json.loads(output.with_suffix(".json").read_text())
        assert content.keys() == PARTS and {row["images"] for row in content["warm"]} == {"None"}
        assert output.with_suffix(".md").read_text() == page(content, "old")
        assert output.with_suffix(".svg").read_text().rstrip().endswith("</svg>")

    @pytest.mark.parametrize("stop", [RuntimeError("why"), KeyboardInterrupt()])
    def test_what_is_measured_is_kept_and_the_old_page_stays(
        self, output: Path, stop: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(performance, "growth", Mock(side_effect=stop))
        if isinstance(stop, KeyboardInterrupt):
            with pytest.raises(SystemExit) as ended:
                main(["benchmark", "all", "-o", str(output)])
            assert ended.value.code == 130
            last = capsys.readouterr().err.splitlines()[-1]
            assert last.startswith("interrupted; ") and last.endswith("the same command begins anew")
        else:
            assert main(["benchmark", "all", "-o", str(output)]) == 1
        assert json.loads(output.with_suffix(".json").read_text()).keys() == PARTS - {"growth"}
        assert output.with_suffix(".md").read_text() == "The old page."

    @pytest.mark.parametrize("fault", ["place", "folder", "matplotlib", "onnx", "data", "datalist"])
    def test_refuses_before_it_measures(
        self, output: Path, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(performance, "machine", Mock(side_effect=AssertionError("measures")))
        words, code = ["-o", str(output)], "MISSING_PACKAGE"
        if fault == "place":
            words, code = ["-o", str(output.with_suffix(".md") / "inside")], "CANNOT_WRITE"
        elif fault == "folder":
            output.with_suffix(".svg").mkdir()
            code = "CANNOT_WRITE"
        elif fault in ("matplotlib", "onnx"):
            monkeypatch.setitem(sys.modules, fault, None)
            monkeypatch.setattr(performance, "PACKAGES", {"JSON": "json"})
        elif fault == "data":
            words, code = [*words, "--data", str(output.parent / "typo")], "DATALIST_MISSING"
        else:
            monkeypatch.undo()
            monkeypatch.setattr(performance, "machine", Mock(side_effect=AssertionError("measures")))
            (output.parent / "acdc").mkdir()
            (output.parent / "acdc" / "datalist.json").write_text('{"val": []}')
            words, code = [*words, "--data", str(output.parent)], "DATALIST_EMPTY"
        assert main(["benchmark", "all", *words]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith(f"error[{code}]")
        assert output.with_suffix(".md").read_text() == "The old page." and not output.with_suffix(".json").exists()

    def test_what_data_lack_is_generated_and_named(self, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (output.parent / "ich").mkdir()
        (output.parent / "ich" / "datalist.json").touch()
        assert main(["benchmark", "all", "-o", str(output), "--data", str(output.parent)]) == 0
        images = {row["images"] for row in json.loads(output.with_suffix(".json").read_text())["warm"]}
        assert images == {"None", str(output.parent / "ich")}
