"""LLVM in a process of its own, for one program: what it dies of is no more than a refusal.

LLVM ends its process where one of its assertions fails, which some programs bring about (the
scheduler of 22.1 at loads that are folded into a comparison). Who compiles at the load of a
program answers everybody else, too.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
from typing import Final

from libbpf_shim.errors import ShimError
from libbpf_shim.jit.image import Image
from libbpf_shim.jit.tier2 import elf, machine
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

_SECONDS: Final = 60  # for one program


def compile_program(program: Program, facts: Facts) -> Image:
    """As machine.py's. ShimError EOPNOTSUPP: that, or that LLVM ended."""
    machine.prepare()
    read_end, write_end = os.pipe()
    parent, child = os.getpid(), os.fork()
    if child == 0:
        _compile(program, facts, parent, write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as results:
        data = results.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise elf.refused(f"LLVM ended with status {status:#x}")
    found = pickle.loads(data)
    if isinstance(found, Image):
        return found
    raise ShimError(*found)


def _compile(program: Program, facts: Facts, parent: int, out: int) -> None:
    """The child, which has copies of all that its parent has, and touches none of it."""
    from libbpf_shim._native import lib

    try:
        if lib.shim_native_die_with(parent):
            return
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_SECONDS)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # LLVM's last words
        found: Image | tuple[str, int, str, str]
        try:
            found = machine.compile_program(program, facts)
        except ShimError as error:
            found = error.code, error.errno, error.message, error.hint
        with os.fdopen(out, "wb") as file:
            pickle.dump(found, file)
        os._exit(0)
    finally:
        os._exit(1)
