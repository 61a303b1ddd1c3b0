"""What is refused before a network is loaded."""

from pathlib import Path

import pytest

from convformer_monai.errors import InputRefused
from convformer_monai.label_app.compat import serve_moved_uids
from convformer_monai.label_app.options import read_options

serve_moved_uids()

from convformer_monai.label_app.infer import SegmentTask  # noqa: E402 (MONAI Label needs the line above)


@pytest.mark.parametrize("wish", [{"result_extension": "/x.png"}, {"result_extension": ".png"}, {"phase": "first"}])
def test_wishes_that_cannot_be_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, str]) -> None:
    monkeypatch.setattr(SegmentTask, "segmenter", lambda *_: pytest.fail("a network is loaded"))
    task = SegmentTask(read_options({"bundle": "cardiac", "work": str(tmp_path / "w"), "device": "cpu"}, str(tmp_path)))
    with pytest.raises(InputRefused) as refusal:
        task({"image": str(tmp_path / "x.nii.gz"), **wish})
    assert refusal.value.code == "OPTION"
