"""Triton's interpreter, which runs kernels on the CPU, made to treat bfloat16 as a GPU does.

Of Triton 3.7, it rounds to bfloat16 towards zero, and multiplies matrices of bfloat16 as if their bits were integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest


def _bits(values: np.ndarray) -> np.ndarray:
    """float32 to the bits of bfloat16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _values(bits: np.ndarray) -> np.ndarray:
    return (bits.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def correct_bfloat16(patch: pytest.MonkeyPatch) -> None:
    """Does so until ``patch`` is undone."""
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float
    multiply = interpreter.InterpreterBuilder.create_dot

    def convert_float(data: np.ndarray, source: Any, target: Any, rounding_mode: Any) -> np.ndarray:
        if source == tl.float32 and target == tl.bfloat16:
            return _bits(data)
        if source == tl.bfloat16 and target == tl.float32:
            return _values(data).view(np.uint32)
        return convert(data, source, target, rounding_mode)  # type: ignore[no-any-return]

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (
            interpreter.TensorHandle(_values(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x
            for x in (a, b)
        )
        return multiply(self, a, b, *rest)

    patch.setattr(interpreter, "_convert_float", convert_float)
    patch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
