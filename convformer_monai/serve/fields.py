"""Values out of a YAML file, each checked, and every fault named with its key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from convformer_monai.errors import InputRefused, RefusalCode

__all__ = ["REQUIRED", "ConfigRefused", "Fields", "load_yaml"]

T = TypeVar("T")
MAX_FILE_BYTES = 2**20


class ConfigRefused(InputRefused):
    """A configuration with faults.

    Args:
        path: the file.
        faults: each with the key that it is at; at least one.
    """

    def __init__(self, path: Path, faults: Sequence[tuple[str, str]]) -> None:
        self.lines = [f"{path}: {key}: {text}" if key else f"{path}: {text}" for key, text in faults]
        more = f" (and {len(self.lines) - 1} more)" if len(self.lines) > 1 else ""
        super().__init__(RefusalCode.CONFIG, self.lines[0] + more)

    def each(self) -> list[InputRefused]:
        """A refusal for each fault."""
        return [InputRefused(RefusalCode.CONFIG, line) for line in self.lines]


def load_yaml(path: Path) -> Any:
    """Reads a YAML file of plain values.

    Raises:
        ConfigRefused: if it cannot be read, is not YAML, or names a key twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """A key that is there twice would silently replace the first."""

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str):
                raise ConfigRefused(path, [(f"line {node.start_mark.line + 1}", f"the key {key!r} must be text")])
            if keys.count(key) > 1:
                raise ConfigRefused(path, [(key, f"is there twice, from line {node.start_mark.line + 1} on")])
        return {
            key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)
        }

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigRefused(path, [("", "is larger than 1 MiB, so it is no configuration")])
        return yaml.load(path.read_text(encoding="utf-8"), Loader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise ConfigRefused(path, [("", f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigRefused(path, [("", "is not UTF-8 text")]) from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}" if mark else ""
        raise ConfigRefused(
            path, [(where, f"is not YAML: {getattr(error, 'problem', None) or 'cannot be parsed'}")]
        ) from error


class Fields:
    """One mapping of the file: each value is taken once, and what nobody takes is a fault.

    Args:
        content: the mapping.
        key: where it is.
        faults: gets what is wrong.
        folder: of the file, from which relative paths lead.
    """

    def __init__(self, content: Any, key: str, faults: list[tuple[str, str]], folder: Path) -> None:
        self.key, self.faults, self.folder = key, faults, folder
        if content is not None and not isinstance(content, Mapping):
            self.fault("", f"must be a mapping of keys to values, got {_shown(content)}")
            content = None
        self._left: dict[str, Any] = dict(content or {})
        self._known: set[str] = set()

    def fault(self, name: str, text: str) -> None:
        """Notes what is wrong with a value."""
        self.faults.append((".".join(filter(None, [self.key, name])), text))

    def _take(self, name: str, default: T, convert: Callable[[Any], T]) -> T:
        self._known.add(name)
        if name not in self._left:
            if default is REQUIRED:
                self.fault(name, "is missing")
                return None  # type: ignore[return-value]  # the fault ends the reading
            return default
        value = self._left.pop(name)
        try:
            return convert(value)
        except ValueError as error:
            self.fault(name, str(error))
            return default

    def text(self, name: str, default: Any = None, choices: Sequence[str] = ()) -> Any:
        """A text, one of ``choices`` if there are any."""
        return self._take(name, default, lambda value: _text(value, choices))

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number from ``low`` to ``high``."""
        return self._take(name, default, lambda value: _number(value, low, high))

    def whole(self, name: str, default: Any, low: int, high: int) -> Any:
        """A whole number from ``low`` to ``high``."""
        return self._take(name, default, lambda value: _whole(value, low, high))

    def switch(self, name: str, default: bool) -> bool:
        """True or false."""

        def convert(value: Any) -> bool:
            if not isinstance(value, bool):
                raise ValueError(f"must be true or false, got {_shown(value)}")
            return value

        return self._take(name, default, convert)

    def texts(self, name: str, default: Any = ()) -> tuple[str, ...]:
        """A text or a list of them."""

        def convert(value: Any) -> tuple[str, ...]:
            values = value if isinstance(value, list) else [value]
            if not values:
                raise ValueError("is an empty list; leave it out, or give a value")
            return tuple(_text(one, ()) for one in values)

        found = self._take(name, default, convert)
        return () if found is None else found

    def path(self, name: str, default: Any = None) -> Any:
        """A path; a relative one leads from the folder of the file."""

        def convert(value: Any) -> Path:
            return self.folder / Path(_text(value, ())).expanduser()

        return self._take(name, default, convert)

    def file(self, name: str, default: Any = None) -> Any:
        """A path of a file that is there."""
        path = self.path(name, default)
        if path is not None and path is not REQUIRED and not path.is_file():
            self.fault(name, f"{path} is not a file")
        return path

    @contextmanager
    def inner(self, name: str) -> Iterator[Fields]:
        """The fields of a mapping within this one; an empty one if it is not there."""
        self._known.add(name)
        fields = Fields(self._left.pop(name, None), ".".join(filter(None, [self.key, name])), self.faults, self.folder)
        yield fields
        fields.end()

    def __iter__(self) -> Iterator[str]:
        """The keys that are left."""
        return iter(tuple(self._left))

    def has(self, name: str) -> bool:
        """Whether the value is there and is not null."""
        return self._left.get(name) is not None

    def items(self, name: str) -> Iterator[Fields]:
        """The fields of each mapping of a list; an entry that is a plain text is that of its key ``ae``."""
        self._known.add(name)
        content = self._left.pop(name, None) or []
        if not isinstance(content, list):
            self.fault(name, f"must be a list, got {_shown(content)}")
            content = []
        for number, one in enumerate(content):
            key = ".".join(filter(None, [self.key, f"{name}[{number}]"]))
            fields = Fields({"ae": one} if isinstance(one, str) else one, key, self.faults, self.folder)
            yield fields
            fields.end()

    def end(self) -> None:
        """Notes the keys that nobody knows."""
        for name in self._left:
            self.fault(name, f"is unknown; known are {', '.join(sorted(self._known))}")


class _Required:
    """Stands for a value that must be given."""


REQUIRED: Any = _Required()


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) < 60 else type(value).__name__


def _text(value: Any, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or not value.strip():
        hint = '; put it into quotes: "..."' if isinstance(value, bool | int | float) else ""
        raise ValueError(f"must be text, got {_shown(value)}{hint}")
    if choices and value not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}, got {value!r}")
    return value.strip()


def _number(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"must be a number from {low:g} to {high:g}, got {_shown(value)}")
    return float(value)


def _whole(value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"must be a whole number from {low} to {high}, got {_shown(value)}")
    return value
