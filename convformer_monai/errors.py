"""The refusal of an input: one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import sys
from types import TracebackType

__all__ = ["InputRefused", "find_refusal", "report_refusals"]

EXIT_FAULT, EXIT_REFUSED, EXIT_INTERRUPTED = 1, 2, 130


class InputRefused(Exception):
    """An input that is not what the model was made for, or cannot be trusted.

    Args:
        code: short upper-case identifier, stable between versions, e.g. ``FILE_NOT_FOUND``.
        message: what is wrong, where, and what to do; one line, without personal data.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"error[{self.code}]: {self.message}"


def find_refusal(error: BaseException | None) -> InputRefused | None:
    """Finds the refusal at the root of an exception (MONAI wraps what its transforms and configs raise).

    Args:
        error: any exception.

    Returns:
        The first :class:`InputRefused` along the chain of causes, or ``None``.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, InputRefused):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def report_refusals() -> None:
    """Makes an uncaught refusal end the program with its one line on stderr and exit code 2, without traceback.

    The bundles call it when they are initialised, so ``python -m monai.bundle run`` ends as the command line does.
    Exceptions that are caught, and uncaught ones that are no refusals, are as before.
    """
    previous = sys.excepthook
    if getattr(previous, "reports_refusals", False):
        return

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        refusal = find_refusal(error)
        if refusal is None:
            previous(kind, error, traceback)
            return
        sys.stderr.write(f"{refusal}\n")
        sys.stderr.flush()
        raise SystemExit(EXIT_REFUSED)  # from inside the hook: the interpreter exits with this code

    hook.reports_refusals = True  # type: ignore[attr-defined]
    sys.excepthook = hook
