"""verify FILE.bpf.o: the verdict on each program, what it cost, and why one is refused.
explain CODE: the page of an error.

No session and no privilege is needed: nothing is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from libbpf_shim.cli import told
from libbpf_shim.errors import ShimError

if TYPE_CHECKING:
    from collections.abc import Callable

    from libbpf_shim.btf.parse import Btf
    from libbpf_shim.client.offline import Named, Unjudged
    from libbpf_shim.verifier.policy import Policy
    from libbpf_shim.verifier.program import Program

EX_OK, EX_REJECTED, EX_USAGE = 0, 1, 2


def judged(named: Named, most: int) -> dict[str, Any]:
    """One program, as --json prints it. Times in ns, stack in bytes. counted: instructions that a
    run may take, of a program that could take more (budget: counter)."""
    from libbpf_shim.jit.input import failing
    from libbpf_shim.uapi.bpf import bpf_prog_type
    from libbpf_shim.verifier import verify
    from libbpf_shim.verifier.diagnose.report import diagnose, with_input

    began = time.perf_counter_ns()
    verdict = verify(named.program)
    spent = time.perf_counter_ns() - began
    kind = named.program.prog_type
    known = kind in list(bpf_prog_type)
    row: dict[str, Any] = {
        "name": named.name, "section": named.section,
        "type": bpf_prog_type(kind).name.removeprefix("BPF_PROG_TYPE_").lower() if known else kind,
        "accepted": not verdict.errno, "errno": verdict.errno,
        "insns": len(named.program.insns) // 8,
        "processed": verdict.stats.insns_processed, "states": verdict.stats.total_states,
        "peak_states": verdict.stats.peak_states, "time_ns": spent,
        "stack": list(verdict.facts.stack_depth) if verdict.facts else [], "errors": [],
    }  # fmt: skip
    if verdict.facts and verdict.facts.counted >= 0:
        row["counted"] = verdict.facts.counted
    if verdict.errno:
        found = diagnose(named.program, most)
        row["errors"] = [with_input(one, failing(named.program, one.at)) for one in found]
    return row


def _cost(row: dict[str, Any]) -> str:
    stack = f", stack {'+'.join(map(str, row['stack']))} bytes" if row["stack"] else ""
    return (f"{row['insns']} instructions, {row['processed']} processed, {row['states']} states "
            f"(peak {row['peak_states']}), {row['time_ns'] / 1e6:.1f} ms{stack}")


def _show(path: str, row: dict[str, Any]) -> None:
    from libbpf_shim.verifier.diagnose.report import render

    verdict = "accepted" if row["accepted"] else "rejected"
    why = "" if row["accepted"] else f" ({os.strerror(row['errno'])})"
    print(f"{row['name']}: {verdict}{why}: {_cost(row)}")
    if "counted" in row:
        print(f"  its runs are counted, and ended where {row['counted']} instructions are used up")
    for error in row["errors"]:
        print()
        print(render(path, error))
    if row["errors"]:
        print()


def _classes(
    chosen: argparse.Namespace,
) -> tuple[Callable[[Program], Policy | None] | None, Btf | None]:
    """How programs get a class, and the application's BTF. ShimError: the policy is wrong, or has
    no class for one."""
    if not chosen.policy:
        return None, None
    from libbpf_shim.eim import bind, check

    grants, wrong = check.grants(chosen.policy)
    if grants is None or wrong:
        raise wrong[0]
    name = getattr(chosen, "class")

    def of(program: Program) -> Policy | None:
        from libbpf_shim.object.prog import sha256

        given = name or bind.one(grants, program.name, sha256(program.insns), os.getuid())
        return bind.policy(grants, given)

    return of, grants.interface.btf


def verify_verb(chosen: argparse.Namespace) -> int:
    """The verb."""
    from libbpf_shim.client import offline
    from libbpf_shim.client.object import Object

    try:
        bind, host = _classes(chosen)
        found = offline.programs(Object.open(chosen.file, btf=chosen.btf), chosen.prog, bind,
                                 host)
    except ShimError as error:
        told(error)
        return EX_USAGE
    if not found:
        wanted = f"no program {chosen.prog}" if chosen.prog else "no program in it"
        print(f"bpf-shim: {chosen.file}: {wanted}", file=sys.stderr)
        return EX_USAGE
    rows = [judged(one, chosen.errors) for one in found if isinstance(one, offline.Named)]
    left: list[Unjudged] = [one for one in found if isinstance(one, offline.Unjudged)]
    if chosen.json:
        print(json.dumps({"file": chosen.file, "programs": [
            row | {"errors": [error.plain() for error in row["errors"]]} for row in rows],
            "not_judged": [{"name": one.name, "section": one.section, "why": one.why}
                           for one in left]}))
    else:
        for row in rows:
            _show(chosen.file, row)
        for one in left:
            print(f"{one.name}: not judged: {one.why}")
            if one.hint:
                print(f"hint: {one.hint}")
    if any(one.nowhere for one in left) or not all(row["accepted"] for row in rows):
        return EX_REJECTED
    return EX_OK if rows else EX_USAGE


def explain_verb(chosen: argparse.Namespace) -> int:
    """The page of a code, or the list of them."""
    from libbpf_shim.verifier.diagnose import codes, pages

    if not chosen.code:
        for row in sorted(codes.BY_CODE.values(), key=lambda row: row.code):
            print(f"{row.code}  {row.title}")
        return EX_OK
    code = chosen.code.upper()
    if code not in codes.BY_CODE:
        print(f"bpf-shim: {chosen.code}: no such code", file=sys.stderr)
        print("hint: bpf-shim explain", file=sys.stderr)
        return EX_USAGE
    print(pages.page(code))
    return EX_OK


def add_verbs(verbs: Any) -> None:
    verb = verbs.add_parser("verify", help="judge a .bpf.o, say why a program is refused")
    verb.add_argument("file", metavar="FILE.bpf.o")
    verb.add_argument("--prog", metavar="NAME", default="", help="this program only")
    verb.add_argument("--btf", metavar="FILE", help="BTF that CO-RE relocates against")
    verb.add_argument("--policy", metavar="GRANTS", default="", help="under its class there")
    verb.add_argument("--class", metavar="NAME", default="", help="this one, not what is bound")
    verb.add_argument("--errors", metavar="N", type=int, default=5, help="at most so many (5)")
    verb.add_argument("-j", "--json", action="store_true", help="as JSON")
    verb.set_defaults(handler=verify_verb)
    verb = verbs.add_parser("explain", help="what an error code of verify means")
    verb.add_argument("code", metavar="CODE", nargs="?", help="BV0301; all of them without it")
    verb.set_defaults(handler=explain_verb)
