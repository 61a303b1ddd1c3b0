"""node.yaml: every fault is named with its key, before anything starts."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from convformer_monai.serve.config_file import read_config
from convformer_monai.serve.fields import ConfigRefused

GOOD: dict[str, Any] = {
    "ae_title": "CONVFORMER",
    "folder": "state",
    "callers": [{"ae": "PACS", "hosts": ["10.0.0.0/8", "127.0.0.1"]}, "CT1"],
    "rules": [
        {
            "name": "cine",
            "match": {"modality": "MR", "series_description": ["*sax*", "*short axis*"]},
            "bundle": "cardiac",
            "outputs": ["dicom-seg", "dicom-sr", "dicom-sc", "preview"],
            "send_to": ["pacs", "share"],
        }
    ],
    "destinations": [
        {"name": "pacs", "kind": "dicom", "ae": "PACS", "host": "127.0.0.1", "port": 4242},
        {"name": "share", "kind": "folder", "path": "out"},
    ],
}
REMOVED = object()


def write(folder: Path, content: Any) -> Path:
    path = folder / "node.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good configuration with one value changed, named as faults name it."""
    content: Any = copy.deepcopy(GOOD)
    inner = content
    *parts, last = [
        int(part) if part.isdigit() else part for part in path.replace("[", ".").replace("]", "").split(".")
    ]
    for part in parts:
        inner = inner.setdefault(part, {}) if isinstance(inner, dict) else inner[part]
    if value is REMOVED:
        del inner[last]
    else:
        inner[last] = value
    return dict(content)


def test_a_good_configuration(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, GOOD))
    assert config.folder == tmp_path / "state" and config.destinations["share"].path == tmp_path / "out"
    (rule,) = config.rules
    assert rule.options.formats == ("dicom-seg", "dicom-sr", "dicom-sc") and rule.options.preview
    assert rule.match == {"modality": ("MR",), "series_description": ("*sax*", "*short axis*")}
    assert config.callers[1].ae == "CT1" and config.callers[1].may_call_from("192.0.2.1")
    assert config.callers[0].may_call_from("10.1.2.3") and not config.callers[0].may_call_from("192.0.2.1")
    assert config.destinations["pacs"].calling_ae == "CONVFORMER"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("ae_title", REMOVED, "is missing"),
        ("ae_title", "SEVENTEEN_LETTERS", "is not an AE title"),
        ("ae_title", 12345, "put it into quotes"),
        ("port", 70000, "whole number from 0 to 65535"),
        ("port", True, "whole number"),
        ("quiet_seconds", "soon", "must be a number"),
        ("unmatched", "ignore", "must be one of drop, keep"),
        ("device", "gpu", "give auto, cpu, cuda, cuda:N or mps"),
        ("rulez", [], "is unknown; known are ae_title"),
        ("callers", [], "nobody may send"),
        ("callers[0].hosts", ["pacs.example"], "neither an IP address nor a network"),
        ("callers[1]", {"ae": "PACS"}, "there twice"),
        ("rules", [], "nothing would be segmented"),
        ("rules[0].match", {}, "is empty"),
        ("rules[0].match.colour", "red", "is unknown"),
        ("rules[0].bundle", "spleen", "is not a bundle"),
        ("rules[0].outputs", ["dicom-rtplan"], "is unknown"),
        ("rules[0].send_to", ["archive"], "is not a destination"),
        ("rules[0].when_grown", "shrink", "must be one of"),
        ("rules[0].phase", "diastole", "is unknown"),
        ("rules[0].seg_type", "fractional", "must be one of binary, labelmap"),
        ("destinations[0].port", REMOVED, "is missing"),
        ("destinations[0].kind", "ftp", "must be one of dicom, stow, folder"),
        ("destinations[1].name", "pacs", "same name"),
        ("destinations[1]", {"name": "web", "kind": "stow", "url": "pacs/dicom-web"}, "is not an address"),
        ("destinations[1]", {"name": "web", "kind": "stow", "url": "http://u:p@pacs"}, "holds a password"),
        ("tls.cert", "nowhere.pem", "is not a file"),
        ("web.port", 8042, "is missing"),
        ("limits.associations", 0, "whole number from 1"),
        ("keep.images_hours", -1, "from 0"),
    ],
)
def test_a_fault_is_named_with_its_key(key: str, value: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused) as caught:
        read_config(write(tmp_path, changed(key, value)))
    lines = [str(one) for one in caught.value.each()]
    fitting = [line for line in lines if words in line]
    assert fitting and all(line.startswith("error[CONFIG]: ") and "\n" not in line for line in lines), lines
    first = key.split(".")[0].split("[")[0]
    assert any(f"node.yaml: {first}" in line for line in fitting)


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    content = changed("port", -1) | {"quiet_seconds": 0, "nonsense": 1}
    with pytest.raises(ConfigRefused) as caught:
        read_config(write(tmp_path, content))
    assert len(caught.value.each()) == 3 and "(and 2 more)" in str(caught.value)


@pytest.mark.parametrize("word", ["labelmap", "LABELMAP"])
def test_the_kind_of_segmentation_is_written_as_of_segment(word: str, tmp_path: Path) -> None:
    (rule,) = read_config(write(tmp_path, changed("rules[0].seg_type", word))).rules
    assert rule.options.seg_type == "LABELMAP"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "is not YAML"),
        ("- 1", "must be a mapping"),
        ("", "is missing"),
        ("port: 1\nport: 2", "is there twice"),
        ("1: 2", "must be text"),
        ("a: !!python/object/apply:os.system [echo]", "is not YAML"),
        ("\x00", "is not YAML"),
        ("[" * 5000, "is not YAML"),
    ],
)
def test_files_that_are_no_configuration(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigRefused, match=words):
        read_config(write(tmp_path, text))
    with pytest.raises(ConfigRefused, match="cannot be read"):
        read_config(tmp_path / "nowhere.yaml")


def test_a_token_comes_from_a_file_and_is_shown_nowhere(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("short\n")
    content = GOOD | {"web": {"token_file": "token"}}
    with pytest.raises(ConfigRefused, match="at least 16 characters"):
        read_config(write(tmp_path, content))
    token.write_text("0123456789abcdef\nanother line\n")
    config = read_config(write(tmp_path, content))
    assert config.web is not None and config.web.token == "0123456789abcdef"
    assert "0123456789" not in repr(config)
