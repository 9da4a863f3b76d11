"""prog dump xlated, prog dump jited: a program's instructions, and the machine code of them.

Machine code is the image before it is put into a process: what a process fills in there is named
behind the instruction that it goes into.
"""

from __future__ import annotations

import argparse
import bisect
import json
from collections.abc import Iterator
from typing import Any

from libbpf_shim.cli.listing import one

Code = dict[str, Any]
Rows = list[tuple[int, Any, str]]  # offset, as JSON, as text
Heads = dict[int, tuple[str, str]]  # by offset: a function's name, a line of source


def helper(number: int) -> str:
    """bpf_NAME of a helper."""
    from libbpf_shim.uapi.bpf_func import bpf_func_id

    try:
        return bpf_func_id(number).name.replace("BPF_FUNC_", "bpf_")
    except ValueError:
        return "unknown"


def fetch(words: list[str]) -> Code:
    """The code of the program that the words mean (backend/status.py)."""
    from libbpf_shim.backend.rundir import locate
    from libbpf_shim.cli.sessions import ask

    row = one("prog", words)
    return ask(locate() / "sessions" / row["session"] / "sock", int(row["id"]))


def xlated(code: Code) -> Iterator[tuple[int, str]]:
    """Number and text of each instruction."""
    from libbpf_shim.isa import disasm
    from libbpf_shim.isa import insn as op

    insns = op.decode(bytes.fromhex(code["insns"]))
    at = 0
    while at < len(insns):
        i = insns[at]
        if i.code == op.LD_IMM64 and i.src in (op.PSEUDO_MAP_FD, op.PSEUDO_MAP_VALUE,
                                               op.PSEUDO_MAP_IDX, op.PSEUDO_MAP_IDX_VALUE):
            value = i.src in (op.PSEUDO_MAP_VALUE, op.PSEUDO_MAP_IDX_VALUE)
            place = f"[0]+{insns[at + 1].imm}" if value else ""
            text = f"({i.code:02x}) r{i.dst} = map[id:{code['map_ids'][i.imm]}]{place}"
        else:
            text = disasm.disassemble(insns, at, helper)
        yield at, text
        at += 2 if i.code == op.LD_IMM64 else 1


def symbol(name: str, code: Code) -> str:
    """What a relocation names, for a reader."""
    kind, _, rest = name.partition(":")
    if kind == "helper":
        return helper(int(rest))
    if kind in ("map", "mapval"):
        return f"map[id:{code['map_ids'][int(rest)]}]" + ("[0]" if kind == "mapval" else "")
    return rest or kind


def jited(code: Code) -> Iterator[tuple[int, str, str, list[str]]]:
    """Offset, operation, operands and what is filled in, for each machine instruction."""
    import capstone

    engine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    relocs = sorted(tuple(r) for r in code["relocs"])
    places = [r[0] for r in relocs]
    for at, size, operation, operands in engine.disasm_lite(bytes.fromhex(code["text"]), 0):
        first, last = bisect.bisect_left(places, at), bisect.bisect_left(places, at + size)
        filled = [symbol(r[1], code) + (f"+{r[2]}" if r[2] > 0 else "")
                  for r in relocs[first:last]]
        yield at, operation, operands, filled


def _headings(code: Code, places: dict[int, int]) -> Heads:
    """Where a function begins, where a line of source: (function, line) by place. places: of each
    instruction."""
    found: Heads = {}
    for number, name in code["functions"]:
        if number in places:
            found[places[number] if number else 0] = (name, "")
    for number, text in code["lines"]:
        if number in places:
            found[places[number]] = (found.get(places[number], ("", ""))[0], text)
    return found


def _inlined(code: Code) -> list[str]:
    """Names of functions that are parts of others in machine code."""
    end = len(code["text"]) // 2
    return [name for number, name in code["functions"] if code["insn_offsets"][number] == end > 0]


def dump(chosen: argparse.Namespace) -> int:
    """Prints one program's code."""
    code = fetch(chosen.words)
    inlined: list[str] = []
    if chosen.what == "xlated":
        rows: Rows = [
            (at, {"disasm": text}, f"{at:4}: {text}") for at, text in xlated(code)]
        places = {at: at for at, _, _ in rows}
    else:
        rows = [(at, {"pc": hex(at), "operation": operation,
                      "operands": [o.strip() for o in operands.split(",") if o.strip()],
                      **({"filled": filled} if filled else {})},
                 f"{at:4x}:\t{operation}\t{operands}".rstrip()
                 + (f"\t# {', '.join(filled)}" if filled else ""))
                for at, operation, operands, filled in jited(code)]
        places = {n: at for n, at in enumerate(code["insn_offsets"]) if at >= 0}
        inlined = _inlined(code)
    heads = _headings(code, places)
    (as_json if chosen.json else as_text)(code, rows, heads, inlined)
    return 0


def as_text(code: Code, rows: Rows, heads: Heads, inlined: list[str]) -> None:
    for at, _, text in rows:
        function, source = heads.get(at, ("", ""))
        if function:
            print(f"{function}:")
        if source:
            print(f"; {source}")
        print(text)
    for name in inlined:
        print(f"{name}:\n; no code of its own: part of what calls it")


def as_json(code: Code, rows: Rows, heads: Heads, inlined: list[str]) -> None:
    functions: list[dict[str, Any]] = []
    for at, row, _ in rows:
        name, source = heads.get(at, ("", ""))
        if name or not functions:
            functions.append({"name": name or code["name"], "insns": []})
        functions[-1]["insns"].append({**({"src": source} if source else {}), **row})
    print(json.dumps(functions + [{"name": name, "insns": []} for name in inlined]))


def add_verb(verbs: Any) -> None:
    """Adds dump to prog's commands."""
    verb = verbs.add_parser("dump", help="instructions (xlated) or machine code (jited)")
    verb.add_argument("what", choices=("xlated", "jited"))
    verb.add_argument("words", nargs="+", metavar="id N", help="or name ..., tag ..., pinned ...")
    verb.add_argument("-j", "--json", action="store_true", help="as JSON")
    verb.set_defaults(handler=dump)
