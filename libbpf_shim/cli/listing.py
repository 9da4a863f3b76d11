"""prog, map, link, btf: the objects of all live sessions, in bpftool's manner."""

from __future__ import annotations

import argparse
import errno
import json
import sys
from typing import Any

from libbpf_shim.errors import ShimError

NOUNS = ("prog", "map", "link", "btf")
LEADING = ("id", "type", "name")
_KEYS = {"prog": ("id", "name", "tag", "pinned"), "map": ("id", "name", "pinned"),
         "link": ("id", "pinned"), "btf": ("id",)}

Row = dict[str, Any]


def rows(noun: str) -> tuple[list[Row], list[str]]:
    """The objects, ordered by id, each with its session; and what went wrong on the way."""
    from libbpf_shim.cli.sessions import all_sessions

    found: list[Row] = []
    wrong = []
    for session in all_sessions():
        if session.status is None:
            wrong.append(f"session {session.name}: {session.why}")
            continue
        for item in session.status.get(f"{noun}s", []):
            found.append({**item, "session": session.name})
    return sorted(found, key=lambda item: int(item.get("id", 0))), wrong


def wanted(noun: str, words: list[str]) -> list[Row]:
    """The objects that `id N`, `name NAME`, `tag TAG`, `pinned FILE` or a bare id mean; no words:
    all of them. ShimError EINVAL: no such words, ENOENT: no such object."""
    found, wrong = rows(noun)
    for text in wrong:
        print(f"bpf-shim: {text}", file=sys.stderr)
    if not words:
        return found
    key, value = ("id", words[0]) if len(words) == 1 else (words[0], words[1])
    if key not in _KEYS[noun] or len(words) > 2:
        raise ShimError("CL0001", errno.EINVAL, f"{noun} {' '.join(words)}: not understood",
                        f"bpf-shim {noun} show {' | '.join(k + ' ...' for k in _KEYS[noun])}")
    found = [item for item in found
             if (value in item.get(key, []) if key == "pinned" else str(item.get(key)) == value)]
    if not found:
        raise ShimError("CL0002", errno.ENOENT, f"{noun} {key} {value}: no such object",
                        f"bpf-shim {noun} list")
    return found


def one(noun: str, words: list[str]) -> Row:
    """The one object that the words mean. EINVAL: there are several."""
    found = wanted(noun, words)
    if len(found) > 1:
        ids = ", ".join(str(item["id"]) for item in found)
        raise ShimError("CL0003", errno.EINVAL, f"{noun} {' '.join(words)}: several, ids {ids}",
                        f"bpf-shim {noun} show id {found[0]['id']}")
    return found[0]


def line(item: Row) -> str:
    """`4: hash  name counts  key 8B` as bpftool writes it, with whatever else there is."""
    rest = "  ".join(f"{key} {value}" for key, value in item.items()
                     if key not in LEADING and value not in (None, "", [], {}))
    name = f"  name {item['name']}" if item.get("name") else ""
    kind = f" {item['type']}" if "type" in item else ""
    return f"{item.get('id', '?')}:{kind}{name}  {rest}".rstrip()


def show(chosen: argparse.Namespace) -> int:
    """Prints the list; a session that does not answer is one line on stderr."""
    found = wanted(chosen.noun, chosen.words)
    if chosen.json:
        print(json.dumps(found))
    else:
        for item in found:
            print(line(item))
    return 0


def add_verbs(verbs: Any) -> None:
    """Adds prog, map, link and btf."""
    from libbpf_shim.cli import code, contents

    for noun in NOUNS:
        verb = verbs.add_parser(noun, help=f"the {noun}s of all sessions")
        what = verb.add_subparsers(metavar="COMMAND", required=True)
        for word in ("list", "show"):
            asked = what.add_parser(word, help=f"every {noun} with its session, or some")
            asked.add_argument("-j", "--json", action="store_true", help="as JSON")
            asked.add_argument("words", nargs="*", metavar="id N",
                               help=" or ".join(f"{k} ..." for k in _KEYS[noun]))
            asked.set_defaults(handler=show, noun=noun)
        if noun == "prog":
            code.add_verb(what)
        if noun == "map":
            contents.add_verb(what)
