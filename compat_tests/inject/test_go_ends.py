"""A goroutine ends by a return to a place inside of what one jump would replace: Go's runtime
writes the address behind the first byte of the function that ends it."""

from __future__ import annotations

import os
import subprocess

import pytest

from compat_tests.attach.conftest import host, runtime_dir
from compat_tests.attach.host import Host
from compat_tests.inject.targets import go_program
from compat_tests.rewrite.everywhere import Everywhere
from libbpf_shim.elf.module import Module
from libbpf_shim.rewrite import targets

__all__ = ["host", "runtime_dir"]
ENDS = ("runtime.goexit.abi0", "runtime.goexit")


def goexit(module: Module) -> int:
    found = [symbol.vaddr for name in ENDS if (symbol := module.find(name))]
    if not found or module.read(found[0], 1) != b"\x90":
        pytest.skip("a Go whose goroutines end elsewhere")
    return found[0]


def test_who_is_returned_to_behind_its_first_byte_is_a_target_there() -> None:
    module = Module(str(go_program("ends")))
    at = goexit(module)
    assert targets.inside(targets.jump_targets(module), at + 1, at + 5) == at + 1


def test_goroutines_end_while_a_probe_is_asked_for_where_they_do(host: Host) -> None:
    program = go_program("ends")
    at = goexit(Module(str(program)))
    wanted, ask = os.pipe()
    os.set_blocking(wanted, False)  # so that no thread waits on a goroutine's stack
    with (open(ask, "w", buffering=1, encoding="ascii") as asked,
          subprocess.Popen([program], stdin=wanted, stdout=subprocess.PIPE, text=True) as process):
        os.close(wanted)
        assert process.stdout
        try:
            assert process.stdout.readline() == "ready\n"
            probes = Everywhere(host, program)
            attached = probes.attach(at, process.pid)
            for _ in range(20):
                asked.write("\n")
                assert process.stdout.readline() == "1225\n"
            if attached:  # else there is no room for another kind of jump
                assert probes.count(at) == 0
                probes.detach(at)
        finally:
            asked.close()
            status = process.wait(20)
    assert status == 0
