"""policy check|explain|diff|init|suggest|key|sign: what may be extended, and who may do what."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libbpf_shim.cli import signing

if TYPE_CHECKING:
    from libbpf_shim.eim.document import PolicyError
    from libbpf_shim.eim.grants import Grants
    from libbpf_shim.eim.interface import Interface

EX_OK, EX_REJECTED, EX_USAGE = 0, 1, 2


def _told(wrong: list[PolicyError]) -> None:
    for error in wrong:
        print(error.message, file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)


def grants_of(path: str) -> tuple[Grants | None, list[PolicyError]]:
    """The grants of a file, every class looked at, and what is wrong."""
    from libbpf_shim.eim import check

    return check.grants(path)


def check_verb(chosen: argparse.Namespace) -> int:
    """Interfaces and grants: every error, and nothing where there is none."""
    from libbpf_shim.eim import check, document

    files = [one for path in chosen.files for one in document.within(path)]
    wrong = [error for path in files for error in check.file(path)]
    wrong += [document.PolicyError(path, 0, (), "no interface or grants in it")
              for path in chosen.files if not document.within(path)]
    if chosen.json:
        print(json.dumps([{"file": e.file, "line": e.line, "key": e.plain_where, "what": e.what,
                           "hint": e.hint} for e in wrong]))
    else:
        _told(wrong)
        for note in [n for path in files for n in check.here(path)] if not wrong else ():
            print(f"note: {note}", file=sys.stderr)
    return EX_REJECTED if wrong else EX_OK


def _rights(path: str) -> tuple[dict[str, list[str]], list[PolicyError]]:
    from libbpf_shim.eim import explain

    found, wrong = grants_of(path)
    if found is None or wrong:
        return {}, wrong
    return {name: explain.rights(found, name) for name in found.classes}, []


def explain_verb(chosen: argparse.Namespace) -> int:
    """Every class, or one, in words."""
    rows, wrong = _rights(chosen.file)
    if wrong:
        _told(wrong)
        return EX_REJECTED
    if chosen.of and chosen.of not in rows:
        print(f"bpf-shim: {chosen.file}: no class {chosen.of}", file=sys.stderr)
        print(f"hint: it has {', '.join(rows)}", file=sys.stderr)
        return EX_USAGE
    shown = {chosen.of: rows[chosen.of]} if chosen.of else rows
    if chosen.json:
        print(json.dumps(shown))
        return EX_OK
    for name, lines in shown.items():
        print(f"class {name}")
        for line in lines:
            print(f"  {line}")
    return EX_OK


def diff_verb(chosen: argparse.Namespace) -> int:
    """What programs may do after a change that they might not before (+), and no more (-)."""
    before, wrong = _rights(chosen.old)
    after, more = _rights(chosen.new)
    if wrong or more:
        _told(wrong + more)
        return EX_USAGE
    changed = False
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name, []), after.get(name, [])
        rows = [f"- {row}" for row in old if row not in new]
        rows += [f"+ {row}" for row in new if row not in old]
        if rows or (name in before) != (name in after):
            changed = True
            mark = "" if name in before and name in after else \
                " (new)" if name in after else " (gone)"
            print(f"class {name}{mark}")
            for row in rows:
                print(f"  {row}")
    return EX_REJECTED if changed else EX_OK


def init_verb(chosen: argparse.Namespace) -> int:
    """A draft of an interface."""
    from libbpf_shim.eim import draft

    header = Path(chosen.header) if chosen.header else None
    try:
        print(draft.draft(Path(chosen.binary), chosen.function, header, chosen.usdt), end="")
    except draft.DraftError as error:
        print(f"bpf-shim: {error}", file=sys.stderr)
        return EX_USAGE
    return EX_OK


def suggest_verb(chosen: argparse.Namespace) -> int:
    """Classes, as small as the programs of an object let them be."""
    from libbpf_shim.client import offline
    from libbpf_shim.client.object import Object
    from libbpf_shim.eim import interface
    from libbpf_shim.eim.suggest import suggest

    declared, wrong = interface.read(chosen.interface)
    if declared is None or wrong:
        _told(wrong)
        return EX_USAGE
    if unknown := [name for name in chosen.entry if name not in declared.entries]:
        print(f"bpf-shim: {chosen.interface}: no entry {unknown[0]}", file=sys.stderr)
        return EX_USAGE
    left = more = False
    print("classes:")
    found = offline.programs(Object.open(chosen.file), chosen.prog, None, declared.btf)
    for named in found:
        if isinstance(named, offline.Unjudged):
            continue
        entries = chosen.entry or _fitting(declared, named.section)
        row = suggest(declared, entries, replace(named.program, locked_down=False))
        print(row.text())
        if row.why:
            left = True
            print(f"bpf-shim: {named.name}: no class admits it: {row.why}", file=sys.stderr)
            more = more or not chosen.entry and len(entries) > 1
    if more:
        print("hint: a class with all entries was looked for; --entry NAME says which",
              file=sys.stderr)
    return EX_REJECTED if left else EX_OK


def _fitting(declared: Interface, section: str) -> list[str]:
    """Entries that a program of that section is written for: probes or functions, all of them; of
    none, all there are."""
    probe = section.partition("/")[0] == "usdt"
    found = [name for name, entry in declared.entries.items() if bool(entry.usdt) == probe]
    return found or list(declared.entries)


def add_verbs(verbs: Any) -> None:
    verb = verbs.add_parser("policy", help="interfaces and grants: who may extend what")
    inner = verb.add_subparsers(metavar="VERB", required=True)
    one = inner.add_parser("check", help="say what is wrong with interfaces and grants")
    one.add_argument("files", metavar="FILE", nargs="+", help="or a folder: all *.yaml in it")
    one.add_argument("-j", "--json", action="store_true", help="as JSON")
    one.set_defaults(handler=check_verb)
    one = inner.add_parser("explain", help="what programs of a class may do, in words")
    one.add_argument("file", metavar="GRANTS")
    one.add_argument("of", metavar="CLASS", nargs="?", default="")
    one.add_argument("-j", "--json", action="store_true", help="as JSON")
    one.set_defaults(handler=explain_verb)
    one = inner.add_parser("diff", help="rights that a change gives and takes; 1: there are some")
    one.add_argument("old", metavar="OLD")
    one.add_argument("new", metavar="NEW")
    one.set_defaults(handler=diff_verb)
    one = inner.add_parser("init", help="draft an interface of a binary")
    one.add_argument("binary", metavar="BINARY")
    one.add_argument("--function", metavar="NAME", action="append", default=[],
                     help="of this entry (with * and ?); may be given again")
    one.add_argument("--usdt", metavar="PROVIDER:NAME", action="append", default=[],
                     help="of this USDT probe (with * and ?); may be given again")
    one.add_argument("--header", metavar="FILE", help="where its types are")
    one.set_defaults(handler=init_verb)
    signing.add_verbs(inner)
    one = inner.add_parser("suggest", help="the smallest classes that admit an object's programs")
    one.add_argument("interface", metavar="INTERFACE")
    one.add_argument("file", metavar="FILE.bpf.o")
    one.add_argument("--entry", metavar="NAME", action="append", default=[],
                     help="where they run (everywhere); may be given again")
    one.add_argument("--prog", metavar="NAME", default="", help="this program only")
    one.set_defaults(handler=suggest_verb)
