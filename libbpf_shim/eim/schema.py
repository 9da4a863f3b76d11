"""The published schemas (JSON Schema 2020-12), and a reader that holds a document to one.

The keywords used: type, enum, pattern, minimum, items, minItems, uniqueItems, required,
properties, additionalProperties, propertyNames, anyOf, $ref into $defs. `x-unsupported` is ours:
keys of the design that are not enforced here, which are therefore refused, with the reason.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libbpf_shim.eim.document import Document, PolicyError, Where

Schema = dict[str, Any]
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "boolean": bool,
    "null": type(None),
}
_WORDS = {"object": "a mapping", "array": "a list", "string": "text", "integer": "a whole number",
          "boolean": "true or false", "null": "nothing"}


@functools.cache
def load(name: str) -> Schema:
    """`interface` or `grants`."""
    text = (Path(__file__).parent / f"{name}.schema.json").read_text()
    found: Schema = json.loads(text)
    return found


def check(document: Document, name: str) -> list[PolicyError]:
    """All that is wrong."""
    schema = load(name)
    return list(_Checker(document, schema).problems(document.value, schema, ()))


def _is(value: object, kind: str) -> bool:
    if kind == "integer" and isinstance(value, bool):
        return False
    return isinstance(value, _TYPES[kind])


class _Checker:
    def __init__(self, document: Document, root: Schema) -> None:
        self._document, self._root = document, root

    def _kinds(self, schema: Schema) -> list[str]:
        kinds = schema.get("type", [])
        return [kinds] if isinstance(kinds, str) else list(kinds)

    def _meant(self, schema: Schema) -> Schema:
        if "$ref" in schema:
            found: Schema = self._root["$defs"][schema["$ref"].rpartition("/")[2]]
            return found
        return schema

    def problems(self, value: Any, schema: Schema, where: Where) -> Iterator[PolicyError]:
        schema = self._meant(schema)
        if "anyOf" in schema and "type" not in schema:  # else of required keys: interface.py's
            yield from self._any(value, [self._meant(one) for one in schema["anyOf"]], where)
            return
        kinds = self._kinds(schema)
        if kinds and not any(_is(value, kind) for kind in kinds):
            wanted = " or ".join(_WORDS[kind] for kind in kinds)
            yield self._document.error(where, f"{wanted} is expected")
            return
        if "enum" in schema and value not in schema["enum"]:
            words = ", ".join(str(one) for one in schema["enum"] if isinstance(one, str))
            yield self._document.error(where, f"{value!r} is not one of {words}")
        if isinstance(value, str) and "pattern" in schema:
            if not re.search(schema["pattern"], value):
                what = schema.get("description", f"text like {schema['pattern']}")
                yield self._document.error(where, f"{value!r}: {what} is expected")
        if _is(value, "integer") and value < schema.get("minimum", value):
            yield self._document.error(where, f"{value}: {schema['minimum']} at least")
        if isinstance(value, list):
            yield from self._list(value, schema, where)
        if isinstance(value, dict):
            yield from self._mapping(value, schema, where)

    def _any(self, value: Any, choices: list[Schema], where: Where) -> Iterator[PolicyError]:
        found: list[PolicyError] = []
        for choice in choices:
            found = list(self.problems(value, choice, where))
            if not found:
                return
            if any(_is(value, kind) for kind in self._kinds(choice)):
                yield from found
                return
        words = " or ".join(_WORDS[kind] for choice in choices for kind in self._kinds(choice))
        yield self._document.error(where, f"{words} is expected" if words else found[0].what)

    def _list(self, value: list[Any], schema: Schema, where: Where) -> Iterator[PolicyError]:
        if len(value) < schema.get("minItems", 0):
            yield self._document.error(where, f"{schema['minItems']} at least")
        for n, one in enumerate(value):
            if schema.get("uniqueItems") and one in value[:n]:
                yield self._document.error((*where, n), f"{one!r} stands twice")
            yield from self.problems(one, schema.get("items", {}), (*where, n))

    def _mapping(self, value: Schema, schema: Schema, where: Where) -> Iterator[PolicyError]:
        rows, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        for key in schema.get("required", ()):
            if key not in value:
                yield self._document.error(where, f"{key} is missing")
        for key, one in value.items():
            at = (*where, key)
            if key in rows:
                yield from self.problems(one, rows[key], at)
            elif why := schema.get("x-unsupported", {}).get(key):
                yield self._document.error(at, f"not supported: {why}",
                                           "nothing is granted that would not be held")
            elif rest is False:
                near = ", ".join(sorted(rows))
                yield self._document.error(at, "no such key", f"keys here: {near}")
            elif isinstance(rest, dict):
                if "propertyNames" in schema:
                    yield from self.problems(key, schema["propertyNames"], at)
                yield from self.problems(one, rest, at)
