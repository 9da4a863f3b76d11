"""A first interface for a binary: `policy init`. Everything in it is to be looked at."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

from libbpf_shim.btf import kinds
from libbpf_shim.eim import ctype, types
from libbpf_shim.elf import usdt
from libbpf_shim.elf.module import Module

_MOST = 40  # entries of a draft
_WORDS = {"1": "char", "2": "short", "4": "int", "8": "long"}  # by bytes


class DraftError(Exception):
    """Why there is none."""


def draft(binary: Path, patterns: Sequence[str], header: Path | None,
          probes: Sequence[str] = ()) -> str:
    """YAML of an interface with the functions whose names fit one of the patterns, and USDT probes
    (PROVIDER:NAME) that fit one of `probes` (neither: functions that the binary shows, and whose
    types are known). DraftError."""
    binary = binary.resolve()
    names = _functions(binary)
    chosen = [n for n in names if not (patterns or probes)
              or any(fnmatch.fnmatchcase(n, p) for p in patterns)]
    module = Module(str(binary))
    found = {f"{p.provider}:{p.name}": p for p in usdt.probes(module)}
    wanted = [n for n in found if any(fnmatch.fnmatchcase(n, p) for p in probes)]
    if probes and not wanted:
        raise DraftError(f"{binary}: no USDT probe {' or '.join(probes)} "
                         f"(it has {', '.join(found) or 'none'})")
    if not chosen and not wanted:
        raise DraftError(f"{binary}: no function {' or '.join(patterns) or 'at all'} "
                         f"(it shows {len(names)})")
    source, blob = _types(binary, chosen, header)
    lines = [f"interface: {re.sub(r'[^A-Za-z0-9_]', '_', binary.name)}", f"binary: {binary}",
             f"types: {{{source}}}"]
    if module.build_id:
        lines.append(f"# build_id: {module.build_id.hex()}  # with it, for this very build alone")
    lines.append("entries:")
    known, unknown = _entries(blob, chosen, bool(patterns))
    if not known and not wanted:
        lines[-1] = "entries: {}"
    for name in wanted[:_MOST]:
        lines += [f"  {re.sub(r'[^A-Za-z0-9_]', '_', name)}:",
                  f'    {{usdt: "{name}", prototype: "{_passed(found[name])}"}}']
    for name, words in known[:_MOST]:
        lines += [f"  # {words}", f"  {name}: {{where: before}}"]
    if len(known) > _MOST:
        lines.append(f"  # {len(known) - _MOST} more: name those that you want with --function")
    for name in unknown[:_MOST]:
        lines += [f"  # {name}: its type is not known; with a prototype it is",
                  f'  # {name}: {{where: before, prototype: "int (struct NAME *r)"}}']
    if found and not wanted:
        few = ", ".join(list(found)[:8]) + (", ..." if len(found) > 8 else "")
        lines.append(f"# USDT probes: {few}: name those that you want with --usdt")
    lines += ["# where: before, after or instead (then programs may override what it returns,",
              '# override: "in {0, -1}"). functions: what programs may call. state: variables.']
    return "\n".join([*lines, ""])


def _passed(probe: usdt.Probe) -> str:
    """A prototype by the sizes of what one place of the probe passes; names and structures are for
    the developer to say."""
    rows = []
    for at, text in enumerate(probe.arguments.split()):
        size = re.match(r"(-?)(\d+)@", text)
        words = _WORDS.get(size[2], "long") if size else "long"
        rows.append(f"{'' if size and size[1] else 'unsigned '}{words} arg{at}")
    return f"void ({', '.join(rows) or 'void'})"


def _functions(binary: Path) -> list[str]:
    try:
        module = Module(str(binary))
        found = {s.name for s in module.symbols if s.size}
    except OSError as error:
        raise DraftError(f"{binary}: {error.strerror}") from error
    return sorted(found)


def _types(binary: Path, names: Sequence[str], header: Path | None) -> tuple[str, bytes]:
    """How the interface names its types, and what of them is known now."""
    if header is not None:
        return f"header: {header.resolve()}", b""
    try:
        return f"btf: {binary}", types.from_btf(binary)
    except types.TypesError:
        pass
    try:
        return f"dwarf: {binary}", types.from_dwarf(binary, names, (), ())
    except types.TypesError:
        return "header: FILE.h", b""


def _entries(blob: bytes, names: Sequence[str],
             asked: bool) -> tuple[list[tuple[str, str]], list[str]]:
    """(name, prototype in words) of those whose types are known, if somebody asked for them or an
    object is passed; the others."""
    known, unknown = [], []
    btf = types.parsed(blob) if blob else None
    for name in names:
        found = ctype.prototype_of(btf, name) if btf and btf.find(name, kinds.FUNC) else None
        if found is None:
            unknown.append(name)
        elif asked or any(type.target for _, type in found.params):
            args = ", ".join(f"{t.words} {n}".replace("* ", "*") for n, t in found.params)
            known.append((name, f"{found.result.words} ({args})"))
    return known, unknown if asked or not known else []
