"""A YAML file as plain values, with the line of each, and the errors that name them.

Only what a policy needs: mappings with text keys, lists, text, whole numbers, booleans. A key that
stands twice, an alias or a fraction is an error, not a surprise.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libbpf_shim.errors import ShimError

Where = tuple[str | int, ...]
_MOST = 1 << 20  # bytes of a file
_DEEPEST = 32


class PolicyError(ShimError):
    """A policy that cannot be held. file, line (from 1; 0: the whole file), where: the path of the
    key in it."""

    def __init__(self, file: str, line: int, where: Where, what: str, hint: str = "") -> None:
        at = f"{file}:{line}" if line else file
        path = dotted(where)
        super().__init__("EP0001", errno.EINVAL, f"{at}: {path + ': ' if path else ''}{what}",
                         hint)
        self.file, self.line, self.where, self.what = file, line, where, what

    @property
    def plain_where(self) -> str:
        """The key, as text."""
        return dotted(self.where)


def dotted(where: Where) -> str:
    """`classes.observe.allow[0]`."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


@dataclass(frozen=True, slots=True)
class Document:
    """path: as it was given. lines: of each value, by its path in the file."""

    path: str
    value: Any
    lines: dict[Where, int]

    def error(self, where: Where, what: str, hint: str = "") -> PolicyError:
        """To be raised or collected, at the innermost value that is there."""
        at = where
        while at and at not in self.lines:
            at = at[:-1]
        return PolicyError(self.path, self.lines.get(at, 0), where, what, hint)

    def beside(self, name: str) -> Path:
        """A file that this one names: relative to it."""
        return Path(self.path).parent / name


def within(path: str) -> list[str]:
    """The documents of a folder; of a file, that one."""
    if not os.path.isdir(path):
        return [path]
    return [str(one) for one in sorted(Path(path).iterdir())
            if one.suffix in (".yaml", ".yml") and not one.name.startswith(".")]


def read(path: str) -> Document:
    """PolicyError: no file, or not such a file."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise PolicyError(path, 0, (), error.strerror or "cannot be read") from error
    if len(data) > _MOST:
        raise PolicyError(path, 0, (), f"{len(data)} bytes, {_MOST} at most")
    return parse(path, data)


def parse(path: str, data: bytes) -> Document:
    """PolicyError."""
    import yaml

    try:
        node = yaml.compose(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        what = getattr(error, "problem", None) or str(error)
        text = data.decode(errors="replace").splitlines()[line - 1 : line] if line else []
        raise PolicyError(path, line, (), f"not YAML: {what}", _quote(*text)) from error
    if node is None:
        raise PolicyError(path, 0, (), "the file is empty")
    lines: dict[Where, int] = {}
    value = _Values(path, lines).plain(node, (), set())
    return Document(path, value, lines)


def _quote(text: str = "") -> str:
    """A hint for a line that cannot be read: what a path may have and plain text in lists not."""
    plain = re.search(r"""(?:^|[\[,\s])((?:read|write)\([\w.*]*\[[^\])]*\][^)]*\))""", text)
    return f'write it in quotes: "{plain[1]}"' if plain else ""


class _Values:
    def __init__(self, path: str, lines: dict[Where, int]) -> None:
        self._path, self._lines = path, lines

    def plain(self, node: Any, where: Where, seen: set[int]) -> Any:
        import yaml

        self._lines[where] = node.start_mark.line + 1
        if id(node) in seen:
            raise self._error(node, where, "an alias: write it out")
        seen.add(id(node))
        if len(where) > _DEEPEST:
            raise self._error(node, where, "too deep")
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    raise self._error(key, where, "a key is text")
                if key.value in found:
                    raise self._error(key, (*where, key.value), "the key stands twice")
                found[key.value] = self.plain(value, (*where, key.value), seen)
                at: Where = (*where, key.value)
                self._lines[at] = key.start_mark.line + 1
            return found
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(one, (*where, n), seen) for n, one in enumerate(node.value)]
        return self._scalar(node, where)

    def _scalar(self, node: Any, where: Where) -> Any:
        kind = node.tag.rpartition(":")[2]
        if kind == "str":
            return node.value
        if kind == "bool":
            return node.value.lower() in ("true", "yes", "on")
        if kind == "null":
            return None
        if kind == "int":
            try:
                return int(node.value.replace("_", ""), 0)
            except ValueError:
                pass
        raise self._error(node, where, f"{node.value!r} is no text, whole number or boolean",
                          )

    def _error(self, node: Any, where: Where, what: str) -> PolicyError:
        return PolicyError(self._path, node.start_mark.line + 1, where, what)
