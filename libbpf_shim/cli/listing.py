"""prog list, map list, link list: the objects of all live sessions, in bpftool's manner."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

NOUNS = ("prog", "map", "link")
LEADING = ("id", "type", "name")


def rows(noun: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The objects, ordered by id, each with its session; and what went wrong on the way."""
    from libbpf_shim.cli.sessions import all_sessions

    found: list[dict[str, Any]] = []
    wrong = []
    for session in all_sessions():
        if session.status is None:
            wrong.append(f"session {session.name}: {session.why}")
            continue
        for item in session.status.get(f"{noun}s", []):
            found.append({**item, "session": session.name})
    return sorted(found, key=lambda item: int(item.get("id", 0))), wrong


def line(item: dict[str, Any]) -> str:
    """`4: hash  name counts  key 8B` as bpftool writes it, with whatever else there is."""
    rest = "  ".join(f"{key} {value}" for key, value in item.items()
                     if key not in LEADING and value not in (None, "", [], {}))
    name = f"  name {item['name']}" if item.get("name") else ""
    return f"{item.get('id', '?')}: {item.get('type', '?')}{name}  {rest}".rstrip()


def show(chosen: argparse.Namespace) -> int:
    """Prints the list; a session that does not answer is one line on stderr."""
    found, wrong = rows(chosen.noun)
    if chosen.json:
        print(json.dumps(found))
    else:
        for item in found:
            print(line(item))
    for text in wrong:
        print(f"bpf-shim: {text}", file=sys.stderr)
    return 0


def add_verbs(verbs: Any) -> None:
    """Adds prog, map and link."""
    for noun in NOUNS:
        verb = verbs.add_parser(noun, help=f"list the {noun}s of all sessions")
        what = verb.add_subparsers(metavar="list", required=True)
        for word in ("list", "show"):
            asked = what.add_parser(word, help=f"every {noun} with its session")
            asked.add_argument("-j", "--json", action="store_true", help="as JSON")
            asked.set_defaults(handler=show, noun=noun)
