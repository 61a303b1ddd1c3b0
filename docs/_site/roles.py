"""Sphinx roles in docstrings, such as ``:class:`Bundle```, become links of the API pages."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([\w.]+)`")


class Roles(griffe.Extension):
    """Rewrites each docstring of a package; what has no place in the API pages stays plain code."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrites the docstrings."""
        self._rewrite(pkg)

    def _rewrite(self, obj: griffe.Object) -> None:
        if obj.docstring:
            obj.docstring.value = ROLE.sub(lambda match: _link(obj, *match.groups()), obj.docstring.value)
        for member in obj.members.values():
            if not member.is_alias:
                self._rewrite(member)  # type: ignore[arg-type]


def _link(obj: griffe.Object, short: str, name: str) -> str:
    path = name
    if not name.startswith(f"{obj.package.path}."):
        try:
            path = obj.resolve(name)
        except griffe.NameResolutionError:
            path = f"{obj.path}.{name}"
    text = name.rpartition(".")[2] if short else name
    return f'<autoref identifier="{path}" optional><code>{text}</code></autoref>'
