"""What is kept of a case that failed by a fault of ours: a text beside its results."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from convformer_monai.errors import DEBUG, InputRefused, printable
from convformer_monai.outputs.atomic import write_text
from convformer_monai.outputs.case import folder_for
from convformer_monai.outputs.writer import path_for
from convformer_monai.readers.cases import Case

__all__ = ["FAULT", "keep_fault", "keep_text"]

FAULT = "_fault.txt"


def keep_fault(error: BaseException, output_dir: Path, case: Case) -> str:
    """Writes the traceback of a fault beside the results, with the debug variable to stderr, too.

    Args:
        error: the fault.
        output_dir: output folder.
        case: that failed.

    Returns:
        The line for users.
    """
    text = "".join(traceback.format_exception(error))
    if os.environ.get(DEBUG):
        sys.stderr.write(printable(text, keep="\n"))
    return keep_text(text, f"{type(error).__name__}, a fault of ours", output_dir, case.name)


def keep_text(text: str, what: str, output_dir: Path, name: str) -> str:
    """Writes a text beside the results of a case.

    Args:
        text: to keep.
        what: happened, for the line.
        output_dir: output folder.
        name: of the case.

    Returns:
        The line for users.
    """
    message = f"error[FAULT]: {what}"
    path = path_for(folder_for(output_dir, name), FAULT)
    try:
        write_text(path, text, overwrite=True)
    except InputRefused:
        return message
    return f"{message}; report {path}"
