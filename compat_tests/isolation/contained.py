"""A program whose verdict was wrong: contained.py OBJECT APP LIBRARY, under guard and policy.

The verdict that was kept of the first load is given other code, which leaves its window."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from libbpf_shim import Object, ShimError
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit import isolated
from libbpf_shim.jit.kept import Kept
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.policy import SFI, Policy
from libbpf_shim.verifier.program import Program

OBJECT, APP, LIBRARY = sys.argv[1:4]
EPERM, ROUNDS, LIMIT = 1, 20, 20.0


def run() -> int:
    done = subprocess.run([APP, str(ROUNDS)], env={"LD_PRELOAD": LIBRARY}, text=True,
                          capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done
    return int(done.stdout)


def run_dir() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base, "libbpf_shim") if base else Path(f"/tmp/libbpf_shim-{os.getuid()}")


def spoil() -> int:
    """Other code for what was kept of isolated programs: *(u64 *)4096 = 1."""
    insns = encode([Insn(op.ALU64 | op.MOV, 1, 0, 0, 4096),
                    Insn(op.ST | op.MODE_MEM | 0x18, 1, 0, 0, 1),
                    Insn(op.ALU64 | op.MOV, 0, 0, 0, 0), Insn(op.JMP | op.EXIT, 0, 0, 0, 0)])
    facts = Facts((0,), (0,), b"\1" * (len(insns) // 8))
    policy = Policy("watch", "", b"", isolation=SFI)
    image = isolated.compile_program(Program(insns, 2, policy=policy), facts)
    kept, count = Kept(run_dir() / "verdicts"), 0
    for file in (run_dir() / "verdicts").iterdir():
        try:
            built = kept.get(file.name)
        except (TypeError, ValueError):  # of another build
            continue
        if built and built.image and built.image.window == "watch":
            kept.put(file.name, replace(built, image=image))
            count += 1
    return count


def main() -> None:
    with Object.open(OBJECT) as loaded:
        loaded.load()
        with loaded.programs["watch_uri"].attach_uprobe(APP, "app_handle"):
            assert run() == 200 * ROUNDS
        assert loaded.vars["hits"] == ROUNDS
    assert spoil() >= 1
    with Object.open(OBJECT) as loaded:
        loaded.load()
        watch = loaded.programs["watch_uri"]
        with watch.attach_uprobe(APP, "app_handle"):
            assert run() == 200 * ROUNDS, "the application goes on"
            end = time.monotonic() + LIMIT
            while time.monotonic() < end:
                try:
                    with watch.attach_uprobe(APP, "app_handle"):
                        continue
                except ShimError as error:
                    assert error.errno == EPERM, error
                    break
            else:
                raise AssertionError("the backend was not told")
            assert run() == 200 * ROUNDS
        assert loaded.vars["hits"] == 0
        row = json.loads((run_dir() / "contained.jsonl").read_text().splitlines()[-1])
        assert (row["verdict"], row["program"], row["class"], row["insn"]) == (
            "contained", "watch_uri", "watch", 1), row
    print("fine")


if __name__ == "__main__":
    main()
