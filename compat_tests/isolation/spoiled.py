"""What a backend has kept of isolated programs gets other code, as if a verdict had been wrong;
and what it says of a program that has left its window."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit import isolated
from libbpf_shim.jit.kept import Kept
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.policy import SFI, Policy
from libbpf_shim.verifier.program import Program

ROUNDS, LIMIT = 20, 20.0  # of the application; seconds until a backend has been told


def run(app: str, library: str) -> None:
    """The application's rounds, with what it has to say."""
    done = subprocess.run([app, str(ROUNDS)], env={"LD_PRELOAD": library}, text=True,
                          capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(200 * ROUNDS)), done


def _run_dir() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base, "libbpf_shim") if base else Path(f"/tmp/libbpf_shim-{os.getuid()}")


def spoil(window: str, chosen: Callable[[Facts], bool] = lambda facts: True) -> None:
    """*(u64 *)4096 = 1 in place of the programs of a class that were kept, of those with such
    facts."""
    insns = encode([Insn(op.ALU64 | op.MOV, 1, 0, 0, 4096),
                    Insn(op.ST | op.MODE_MEM | 0x18, 1, 0, 0, 1),
                    Insn(op.ALU64 | op.MOV, 0, 0, 0, 0), Insn(op.JMP | op.EXIT, 0, 0, 0, 0)])
    policy = Policy(window, "", b"", isolation=SFI)
    image = isolated.compile_program(
        Program(insns, 2, policy=policy), Facts((0,), (0,), b"\1" * (len(insns) // 8)))
    kept, count = Kept(_run_dir() / "verdicts"), 0
    for file in (_run_dir() / "verdicts").iterdir():
        try:
            built = kept.get(file.name)
        except (TypeError, ValueError):  # of another build
            continue
        facts = built.verdict.facts if built else None
        if built and built.image and built.image.window == window and facts and chosen(facts):
            kept.put(file.name, replace(built, image=image))
            count += 1
    assert count


def told() -> dict[str, Any]:
    """The last program that left its window, as the backend tells of it."""
    row: dict[str, Any] = json.loads(
        (_run_dir() / "contained.jsonl").read_text().splitlines()[-1])
    return row
