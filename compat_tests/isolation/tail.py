"""Isolated programs that tail call: tail.py OBJECT APP LIBRARY, under guard and policy. Then the
verdict of the one that is called was wrong."""

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
EPERM, EINVAL, ROUNDS, LIMIT = 1, 22, 20, 20.0


def run() -> None:
    done = subprocess.run([APP, str(ROUNDS)], env={"LD_PRELOAD": LIBRARY}, text=True,
                          capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(200 * ROUNDS)), done


def run_dir() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base, "libbpf_shim") if base else Path(f"/tmp/libbpf_shim-{os.getuid()}")


def spoil() -> None:
    """Other code for what was kept of programs that reserve records: *(u64 *)4096 = 1."""
    insns = encode([Insn(op.ALU64 | op.MOV, 1, 0, 0, 4096),
                    Insn(op.ST | op.MODE_MEM | 0x18, 1, 0, 0, 1),
                    Insn(op.ALU64 | op.MOV, 0, 0, 0, 0), Insn(op.JMP | op.EXIT, 0, 0, 0, 0)])
    facts = Facts((0,), (0,), b"\1" * (len(insns) // 8))
    policy = Policy("tail", "", b"", isolation=SFI)
    image = isolated.compile_program(Program(insns, 2, policy=policy), facts)
    kept, count = Kept(run_dir() / "verdicts"), 0
    for file in (run_dir() / "verdicts").iterdir():
        try:
            built = kept.get(file.name)
        except (TypeError, ValueError):  # of another build
            continue
        facts_ = built.verdict.facts if built else None
        if built and built.image and built.image.window == "tail" and facts_ and \
                131 in facts_.helpers:
            kept.put(file.name, replace(built, image=image))
            count += 1
    assert count


def refused(loaded: Object, name: str) -> int:
    try:
        loaded.maps["progs"][0] = loaded.programs[name]
    except ShimError as error:
        return error.errno
    return 0


def main() -> None:
    with Object.open(OBJECT) as loaded:
        loaded.load()
        loaded.maps["progs"][1] = loaded.programs["is_called"]
        assert refused(loaded, "of_another") == EINVAL
        with loaded.programs["calls"].attach_uprobe(APP, "app_handle"):
            run()
        assert (loaded.vars["called"], loaded.vars["fell_through"]) == (ROUNDS, 0)
        assert loaded.vars["looped"] == 10 * ROUNDS
    spoil()
    with Object.open(OBJECT) as loaded:
        loaded.load()
        loaded.maps["progs"][1] = loaded.programs["is_called"]
        with loaded.programs["calls"].attach_uprobe(APP, "app_handle"):
            run()
            end = time.monotonic() + LIMIT
            while refused(loaded, "is_called") != EPERM:  # until the backend was told
                assert time.monotonic() < end
            before = loaded.vars["fell_through"]
            run()  # nobody calls it any more
            assert loaded.vars["fell_through"] == before + ROUNDS
        row = json.loads((run_dir() / "contained.jsonl").read_text().splitlines()[-1])
        assert (row["verdict"], row["program"], row["insn"]) == ("contained", "is_called", 1), row
    print("fine")


if __name__ == "__main__":
    main()
