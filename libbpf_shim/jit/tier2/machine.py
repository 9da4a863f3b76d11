"""From a program to an image, by LLVM."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from libbpf_shim.errors import ShimError
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.control import TAIL_CALL
from libbpf_shim.jit.features import has_bmi2
from libbpf_shim.jit.image import Image, Reloc, RelocKind
from libbpf_shim.jit.tier2 import elf, module
from libbpf_shim.jit.tier2.emit import emitted
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

_MAX_TEXT: Final = 1 << 20
_NOP: Final = b"\x90"
_OUTSIDE: Final = ("helper.", "sym.")  # code that is not the program's own


def compile_program(
    program: Program, facts: Facts, bmi: bool | None = None,
    emit: Callable[[str, bool], bytes] = emitted,
) -> Image:
    """The image of a verified program; its offsets tell of functions only. bmi: use BMI2; None:
    where this processor has it. emit: emit.emitted, or apart.py's. ShimError EOPNOTSUPP: what
    stands in the way."""
    bmi = has_bmi2() if bmi is None else bmi
    text, callbacks = module.text_of(program, facts)
    try:
        made = elf.parse(emit(text, bmi))
    except ValueError as error:
        raise elf.refused(str(error)) from error
    code = bytearray(made.text)
    if made.functions.get("f0") != 0:
        raise elf.refused("the program does not begin where its code does")
    entries = {}
    for slot in callbacks:  # the run is in r12, and goes to r9
        code += _NOP * (-len(code) % 16)
        entries[f"func.{slot}"] = len(code)
        code += x.mov(x.R9, x.R12) + b"\xe9"
        code += x.imm32(made.functions[f"f{slot}"] - len(code) - 4)
    if len(code) > _MAX_TEXT:
        raise ShimError("JT0002", errno.E2BIG, f"program: {len(code)} bytes of code")
    return Image(
        bytes(code),
        tuple(_reloc(at, name, addend, entries) for at, name, addend in made.symbols),
        facts.percpu or TAIL_CALL in facts.helpers,
        max(facts.stack_depth, default=0),
        "",
        _places(program, facts, made, len(code)),
        bare=not any(name.startswith(_OUTSIDE) for _, name, _ in made.symbols),
    )


def _reloc(at: int, name: str, addend: int, entries: dict[str, int]) -> Reloc:
    if name in entries:
        return Reloc(at, RelocKind.ABS64, "text", entries[name] + addend)
    kind, _, rest = name.partition(".")
    if kind not in ("helper", "map", "mapval", "sym"):
        raise elf.refused(f"a call of {name}")
    return Reloc(at, RelocKind.ABS64, f"{kind}:{rest}", addend)


def _places(program: Program, facts: Facts, made: elf.Object, end: int) -> tuple[int, ...]:
    """Where functions begin; one that is part of others: at the end."""
    places = [-1] * (len(program.insns) // 8)
    for slot in facts.subprogs:
        places[slot] = made.functions.get(f"f{slot}", end)
    return tuple(places)
