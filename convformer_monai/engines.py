"""What can run a bundle's network. Checks it before torch is imported."""

from __future__ import annotations

from importlib.util import find_spec

from convformer_monai.bundle import Bundle
from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["ENGINES", "check_engine", "need_openvino"]

ENGINES = ("torch", "openvino")


def check_engine(engine: str, bundle: Bundle, device: str = "auto") -> None:
    """Refuses an engine that cannot run the network of a bundle; imports nothing.

    Args:
        engine: one of :data:`ENGINES`.
        bundle: whose metadata name the other ``engines`` that give the same masks as torch.
        device: see :func:`choose_device`.

    Raises:
        InputRefused: if it cannot.
    """
    if engine == "torch":
        return
    if engine not in ENGINES:
        raise InputRefused(RefusalCode.OPTION, f"{engine!r} is not an engine: give {' or '.join(ENGINES)}")
    if engine not in bundle.metadata.get("engines", []):
        raise InputRefused(
            RefusalCode.OPTION,
            f"{bundle.name} is not known to give the same masks with {engine} (engines in its metadata.json); "
            "use torch",
        )
    if device not in ("auto", "cpu"):
        raise InputRefused(RefusalCode.OPTION, f"{engine} runs on the CPU, not on {device}; leave out --device")
    need_openvino()


def need_openvino() -> None:
    """Refuses to go on where OpenVINO is not installed; imports nothing.

    Raises:
        InputRefused: ``MISSING_PACKAGE``.
    """
    if find_spec("openvino") is None:
        raise InputRefused(
            RefusalCode.MISSING_PACKAGE,
            "this engine needs the package openvino: pip install 'convformer_monai[openvino]'",
        )
