"""USDT notes and arguments: as a compiler writes them, as programs read them."""

from __future__ import annotations

import struct

import pytest

from compat_tests.client import build
from compat_tests.victims.build import VICTIM_FLAGS, make
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.usdt import CONST, DEREF, REG, SPEC_SIZE, Argument, argument, probes
from libbpf_shim.errors import ShimError

DI, BP, R9 = 112, 32, 64  # offsets in struct pt_regs

READ = [
    ("8@%rdi", Argument(REG, 0, DI, 8, False)),
    ("-4@%edi", Argument(REG, 0, DI, 4, True)),
    ("1@%dil", Argument(REG, 0, DI, 1, False)),
    ("-2@%r9w", Argument(REG, 0, R9, 2, True)),
    ("-4@-20(%rbp)", Argument(DEREF, -20, BP, 4, True)),
    ("8@(%rdi)", Argument(DEREF, 0, DI, 8, False)),
    ("-4@$-7", Argument(CONST, -7, 0, 4, True)),
]


@pytest.mark.parametrize(("text", "wanted"), READ)
def test_an_operand_is_where_it_says(text: str, wanted: Argument) -> None:
    assert argument(text) == wanted


@pytest.mark.parametrize("text", ["3@%rdi", "8@%xmm0", "8@16(%rax,%rdi,4)", "%rdi", "8@x", "",
                                  "8@16(%nosuch)", "16@%rdi", "8@$x"])
def test_an_operand_that_programs_cannot_read_is_refused(text: str) -> None:
    with pytest.raises(ShimError):
        argument(text)


def test_the_probe_of_a_binary_is_found_with_its_arguments() -> None:
    module = Module(str(make("victim", [build.HERE / "victim.c"], VICTIM_FLAGS)))
    found, = probes(module)
    assert (found.provider, found.name, found.semaphore) == ("victim", "told", 0)
    assert module.read_at(found.offset, 1) == b"\x90", "a nop"
    spec = found.spec(cookie=77)
    assert len(spec) == SPEC_SIZE
    assert struct.unpack_from("<Qh", spec, SPEC_SIZE - 16) == (77, 4)
    assert struct.unpack_from("<QI", spec, 3 * 16) == ((1 << 64) - 7, CONST)


def test_a_binary_without_probes_has_none() -> None:
    assert probes(Module("/bin/true")) == []
