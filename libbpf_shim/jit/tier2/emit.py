"""LLVM itself: from text to an object, here or in a process that does nothing else (apart.py)."""

from __future__ import annotations

import functools
import os
import pickle
import resource
import signal
from typing import Any, Final

_NEVER: Final = "-sse,-sse2,-avx,-mmx,-x87"
_SECONDS: Final = 60  # for one program


@functools.cache
def machine(bmi: bool) -> Any:
    """A target machine for the plainest x86-64, with BMI2 or without."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    features = _NEVER + (",+bmi2" if bmi else "")
    return target.create_target_machine(
        cpu="x86-64", features=features, opt=2, reloc="static", codemodel="small")


def optimised(text: str, bmi: bool) -> Any:
    """The module after LLVM's passes. ValueError: LLVM does not take it."""
    import llvmlite.binding as llvm

    parsed = llvm.parse_assembly(text)
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine(bmi), options)
    builder.getModulePassManager().run(parsed, builder)
    return parsed


def emitted(text: str, bmi: bool) -> bytes:
    """The object. ValueError: why LLVM makes none."""
    try:
        made: bytes = machine(bmi).emit_object(optimised(text, bmi))
        return made
    except (RuntimeError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from error


def main(fd_in: int, fd_out: int, parent: int) -> None:
    """Answers emitted()'s arguments with what it returns, or a str: why not; until they end."""
    from libbpf_shim._native import lib

    if lib.shim_native_die_with(parent):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the loader
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]  # a worker's own is for one program
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    with os.fdopen(fd_in, "rb") as asked, os.fdopen(fd_out, "wb") as answers:
        while True:
            try:
                text, bmi = pickle.load(asked)
            except EOFError:
                return
            signal.alarm(_SECONDS)
            found: bytes | str
            try:
                found = emitted(text, bmi)
            except ValueError as error:
                found = str(error)
            signal.alarm(0)
            pickle.dump(found, answers)
            answers.flush()
