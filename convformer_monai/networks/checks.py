"""Checks of constructor arguments: a ValueError names the argument, its value and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def check_positive(**arguments: int) -> None:
    """Requires whole numbers of at least 1.

    Raises:
        ValueError: one is not.
    """
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_numbers(name: str, values: Sequence[int], number: int | None = None, minimum: int = 1) -> None:
    """Requires a sequence of whole numbers.

    Args:
        name: of the argument.
        values: its value.
        number: how many it must hold; None for any number of at least one.
        minimum: of each.

    Raises:
        ValueError: it is something else.
    """
    whole = all(isinstance(value, int) and not isinstance(value, bool) and value >= minimum for value in values)
    if not whole or not values or number not in (None, len(values)):
        many = "whole numbers" if number is None else f"{number} whole numbers"
        raise ValueError(f"{name} must hold {many} of at least {minimum}, got {tuple(values)}")


def check_fraction(**arguments: float) -> None:
    """Requires numbers in [0, 1).

    Raises:
        ValueError: one is not.
    """
    for name, value in arguments.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {value!r}")


def check_spatial_dims(spatial_dims: int) -> None:
    """Requires 2 or 3.

    Raises:
        ValueError: it is neither.
    """
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims!r}")


def check_known(arguments: Iterable[str], allowed: Iterable[str]) -> None:
    """Requires names among those allowed.

    Raises:
        ValueError: one is not.
    """
    unknown = sorted(set(arguments) - set(allowed))
    if unknown:
        raise ValueError(f"unknown arguments {', '.join(unknown)}; allowed are also {', '.join(sorted(allowed))}")
