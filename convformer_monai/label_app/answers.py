"""Refusals as answers of the server: 4xx with one clear line, never a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException

from convformer_monai.errors import InputRefused, RefusalCode, find_refusal

__all__ = ["answered", "status_of"]

STATUSES = {
    RefusalCode.IMAGE_NOT_FOUND: 404,
    RefusalCode.MODEL_NOT_FOUND: 404,
    RefusalCode.STRATEGY_NOT_FOUND: 404,
    RefusalCode.FORBIDDEN: 403,
    RefusalCode.EXISTS: 409,
    RefusalCode.CANNOT_WRITE: 507,
    RefusalCode.OUT_OF_MEMORY: 507,
}


def status_of(refusal: InputRefused) -> int:
    """The HTTP status of a refusal: 4xx for what was asked, 507 if this machine has no room for it."""
    return STATUSES.get(refusal.code, 400)


@contextmanager
def answered() -> Iterator[None]:
    """Turns refusals into HTTP answers.

    Raises:
        HTTPException: for an :class:`InputRefused` raised inside, or one that is the cause of what is.
    """
    try:
        yield
    except HTTPException:
        raise
    except Exception as error:
        refusal = find_refusal(error)
        if refusal is None:
            raise
        raise HTTPException(status_of(refusal), str(refusal)) from error
