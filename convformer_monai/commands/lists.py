"""Lists on the command line: their items are separated by commas."""

from __future__ import annotations

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["names_in", "numbers_in", "positive_in"]


def names_in(text: str | None) -> list[str]:
    """The names in a list such as ``SETR,TransUNet``, each once."""
    return list(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))


def numbers_in(text: str, option: str, least: int = 0) -> list[int]:
    """The numbers in a list such as ``0,1,2``.

    Raises:
        InputRefused: if an item is not a whole number of at least ``least``.
    """
    items = names_in(text)
    if not items or not all(item.isascii() and item.isdigit() and int(item) >= least for item in items):
        raise InputRefused(
            RefusalCode.OPTION, f"{option} must be whole numbers from {least} on, such as 1,2, got {text!r}"
        )
    return [int(item) for item in items]


def positive_in(text: str | None, option: str) -> list[float]:
    """The numbers in a list such as ``0.002,0.0005``; none of an empty one.

    Raises:
        InputRefused: if an item is not a number above 0, or there is only one.
    """
    items = names_in(text)
    try:
        numbers = [float(item) for item in items]
    except ValueError:
        numbers = []
    if items and (len(numbers) < 2 or not all(0 < number < float("inf") for number in numbers)):
        raise InputRefused(
            RefusalCode.OPTION, f"{option} must be two or more numbers above 0, such as 0.002,0.0005, got {text!r}"
        )
    return numbers
