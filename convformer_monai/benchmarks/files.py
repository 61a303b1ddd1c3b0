"""Names of the files that a benchmark writes."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

__all__ = ["file_name"]

LONGEST = 150  # bytes, which leaves room for endings


def file_name(case: str) -> str:
    """The name of a case's files, without ending: no two cases share one, and none leads into another folder.

    Args:
        case: its id, which is unique within a list.

    Returns:
        The id, with what is no letter, digit or one of ``_.-~`` percent-encoded; a long one is cut, and ends in a hash.
    """
    name = quote(case, safe="", errors="surrogatepass")
    if len(name) <= LONGEST:
        return name
    digest = hashlib.sha256(case.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{name[: LONGEST - len(digest) - 1]}-{digest}"
