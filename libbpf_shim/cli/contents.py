"""map dump: keys and values, by their BTF types where the map has them."""

from __future__ import annotations

import argparse
import errno
import json
from collections.abc import Iterator
from typing import Any

from libbpf_shim.cli.listing import one
from libbpf_shim.errors import ShimError


def plain(value: Any) -> Any:
    """A value of client/values.py as JSON has it."""
    if isinstance(value, bytes):
        text = value.decode("ascii", "replace")
        return text if text.isprintable() else list(value)
    if hasattr(value, "keys"):
        return {name: plain(v) for name, v in dict(value).items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def hexadecimal(data: bytes) -> list[str]:
    return [f"0x{byte:02x}" for byte in data]


def spaced(data: bytes) -> str:
    """Sixteen bytes a line, a wider gap in the middle."""
    rows = (data[at : at + 16] for at in range(0, len(data), 16))
    return "\n".join("  ".join(half.hex(" ") for half in (row[:8], row[8:]) if half)
                     for row in rows)


class Entry:
    """One element: its bytes, and how its types read them. cpus: bytes of each CPU's value, in the
    order of CPUs; empty: one value for all."""

    def __init__(
        self, found: Any, key: bytes, value: bytes, key_typed: bool, typed: bool
    ) -> None:
        from libbpf_shim.client.map import PER_CPU

        self.key, self.value = key, value
        self.cpus: list[bytes] = []
        if found.type in PER_CPU:
            step = (found.value_size + 7) // 8 * 8
            self.cpus = [value[at : at + found.value_size] for at in range(0, len(value), step)]
        self.typed: dict[str, Any] | None = None
        if typed:
            read = plain(found.value_codec.unpack(value))
            if (name := getattr(found.value_codec, "name", "")).startswith("."):  # a section
                read = {name: [{variable: v} for variable, v in read.items()]}
            self.typed = {"key": plain(found.key_codec.unpack(key))} if key_typed else {}
            self.typed |= ({"values": [{"cpu": n, "value": v} for n, v in enumerate(read)]}
                           if self.cpus else {"value": read})

    def json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"key": hexadecimal(self.key)}
        if self.cpus:
            out["values"] = [{"cpu": n, "value": hexadecimal(v)}
                             for n, v in enumerate(self.cpus)]
        else:
            out["value"] = hexadecimal(self.value)
        return out | ({"formatted": self.typed} if self.typed else {})

    def text(self) -> str:
        if self.cpus:
            rows = [f"value (CPU {n:02}): {spaced(v)}" for n, v in enumerate(self.cpus)]
            return "\n".join(["key:", spaced(self.key), *rows])
        if max(len(self.key), len(self.value)) > 16 or len(self.key) + len(self.value) > 24:
            return f"key:\n{spaced(self.key)}\nvalue:\n{spaced(self.value)}"
        return f"key: {spaced(self.key)}  value: {spaced(self.value)}"


def entries(words: list[str]) -> Iterator[Entry]:
    """The elements of the map that the words mean. EINVAL: its type has none to list."""
    from libbpf_shim.backend.rundir import locate
    from libbpf_shim.client import handle
    from libbpf_shim.client.map import Map, opened
    from libbpf_shim.client.session import Session

    row = one("map", words)
    session = Session.of(locate() / "sessions" / row["session"])
    fd = handle.from_id(session, Map.GET_BY_ID, int(row["id"]))
    with opened(session, fd) as found:
        if not isinstance(found, Map):
            raise ShimError("CL0004", errno.EINVAL,
                            f"map {row['id']}: a {row['type']} has no keys",
                            f"bpf-shim run -- bpftool map peek id {row['id']}")
        types = found.info()
        typed = [bool(types[f"btf_{part}_type_id"]) for part in ("key", "value")]
        for key, value in found.raw_items():
            yield Entry(found, key, value, *typed)


def dump(chosen: argparse.Namespace) -> int:
    """Prints every element."""
    found = list(entries(chosen.words))
    if chosen.json:
        print(json.dumps([entry.json() for entry in found]))
    elif found and found[0].typed:
        print(json.dumps([entry.typed for entry in found], indent=4))
    else:
        for entry in found:
            print(entry.text())
        print(f"Found {len(found)} element{'s' * (len(found) != 1)}")
    return 0


def add_verb(verbs: Any) -> None:
    """Adds dump to map's commands."""
    verb = verbs.add_parser("dump", help="every key and value")
    verb.add_argument("words", nargs="+", metavar="id N", help="or name ..., pinned ...")
    verb.add_argument("-j", "--json", action="store_true", help="as JSON")
    verb.set_defaults(handler=dump)
