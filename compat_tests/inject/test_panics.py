"""A displaced instruction that faults, in a program that lives on that: Go makes a panic of the
signal, which the program recovers from, with a probe as without."""

from __future__ import annotations

import shutil
import subprocess

from compat_tests.attach.conftest import host, runtime_dir
from compat_tests.attach.host import Host
from compat_tests.inject.targets import go_program
from compat_tests.rewrite.everywhere import Everywhere
from compat_tests.victims import build
from libbpf_shim.elf.module import Module

__all__ = ["host", "runtime_dir"]
NIL = "runtime error: invalid memory address or nil pointer dereference, true"
ZERO = "runtime error: integer divide by zero, true"


def test_a_go_program_recovers_from_what_a_displaced_instruction_does(host: Host) -> None:
    folder = build.private_copy({"panics": go_program("panics")})
    program = folder / "panics"
    found = [Module(str(program)).find(f"main.{name}") for name in ("value", "divide")]
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          bufsize=1) as process:
        assert process.stdin and process.stdout

        def say(line: str) -> str:
            assert process.stdin and process.stdout
            process.stdin.write(line + "\n")
            return process.stdout.readline().strip()

        try:
            assert process.stdout.readline() == "ready\n"
            probes = Everywhere(host, program)
            places = [symbol.vaddr for symbol in found if symbol]
            for place in places:
                assert probes.attach(place, process.pid), probes.refused
            for _ in range(20):
                assert say("nil") == f"{NIL}; {ZERO}"
                assert say("four") == "4; 6"
            assert [probes.count(place) for place in places] == [40, 40]
            for place in places:
                probes.detach(place)
            assert say("nil") == f"{NIL}; {ZERO}"
        finally:
            process.stdin.close()
            status = process.wait(20)
            shutil.rmtree(folder)
    assert status == 0
