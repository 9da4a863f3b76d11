"""What a PROG_LOAD checks before it verifies: logs, tags, maps in instructions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from libbpf_shim.errors import ShimError
from libbpf_shim.jit.image import absent
from libbpf_shim.object.map import object_name
from libbpf_shim.object.prog import (
    MapFinder,
    ProgObject,
    check_log,
    cut_log,
    log_size,
    sha256,
    tag,
)
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

EXCLUSIVE = "program's hash doesn't match map's excl_prog_hash"
EXIT = bytes.fromhex("b700000000000000 9500000000000000")


def ld_map(src: int, number: int) -> bytes:
    return bytes([0x18, src << 4 | 1, 0, 0]) + number.to_bytes(4, "little", signed=True) + bytes(8)


@pytest.mark.parametrize(
    ("level", "size", "buffer", "fine"),
    [(0, 0, 0, True), (1, 128, 8, True), (7, 1 << 24, 8, True), (0, 128, 8, False),
     (1, 0, 0, True), (1, 128, 0, False), (16, 128, 8, False), (1, 1 << 31, 8, False)],
)
def test_log_fields_must_fit_together(level: int, size: int, buffer: int, fine: bool) -> None:
    if fine:
        check_log(level, size, buffer)
        return
    with pytest.raises(ShimError) as caught:
        check_log(level, size, buffer)
    assert caught.value.errno == 22


def test_a_log_that_fits_is_whole() -> None:
    assert cut_log("abc", 4, 1) == (b"abc\0", True)


def test_a_log_that_does_not_fit_keeps_its_end() -> None:
    assert cut_log("abcdef", 4, 1) == (b"def\0", False)


def test_a_fixed_log_keeps_its_beginning() -> None:
    assert cut_log("abcdef", 4, 1 | 8) == (b"abc\0", False)


@pytest.mark.parametrize("size", range(1, 16))
def test_a_log_is_cut_by_bytes(size: int) -> None:
    text = "a\u00e9\u20acbc\u00fc"
    whole = text.encode() + b"\0"
    assert log_size(text) == len(whole)
    fits = size >= len(whole)
    assert cut_log(text, size, 1) == (whole[-size:], fits)
    assert cut_log(text, size, 1 | 8) == (whole if fits else whole[: size - 1] + b"\0", fits)


def test_the_tag_does_not_depend_on_a_maps_number() -> None:
    assert tag(ld_map(1, 3) + EXIT) == tag(ld_map(1, 7) + EXIT) != tag(EXIT)


def test_a_map_named_twice_has_one_index() -> None:
    maps = {fd: SimpleNamespace(exclusive=b"", fd=fd) for fd in (5, 6)}
    finder = MapFinder(lambda fd: maps[fd], lambda index: index)  # type: ignore
    out = finder.resolve(ld_map(1, 6) + ld_map(2, 5) + ld_map(1, 6) + EXIT)
    assert [out[at + 4] for at in (0, 16, 32)] == [0, 1, 0]
    assert finder.maps == [maps[6], maps[5]]


def test_a_descriptor_that_is_no_map_is_told_in_the_log() -> None:
    def none(fd: int) -> None:
        raise ShimError("OB0002", 9, "not open")

    finder = MapFinder(none, none)  # type: ignore[arg-type]
    finder.resolve(EXIT + ld_map(1, 999) + EXIT)
    assert finder.bad == {2: (9, "fd 999 is not pointing to valid bpf_map")}


@pytest.mark.parametrize("mine", [True, False])
def test_a_map_may_be_for_one_program_only(mine: bool) -> None:
    insns = ld_map(1, 5) + EXIT
    found = SimpleNamespace(exclusive=sha256(insns if mine else EXIT))
    finder = MapFinder(lambda fd: found, lambda index: index)  # type: ignore
    finder.resolve(insns)
    assert finder.bad == ({} if mine else {0: (13, EXCLUSIVE)})


@pytest.mark.parametrize("raw", [b"count\0", b"a.b_C9" + bytes(10), bytes(16)])
def test_names_of_letters_digits_dots_and_underscores(raw: bytes) -> None:
    assert object_name(raw) == raw.rstrip(b"\0").decode()


@pytest.mark.parametrize("raw", [b"has space\0", b"x" * 16, b"new\n\0"])
def test_other_names_are_refused(raw: bytes) -> None:
    with pytest.raises(ShimError) as caught:
        object_name(raw)
    assert caught.value.errno == 22


def test_what_cannot_be_compiled_is_loaded_and_refused_where_it_is_to_run() -> None:
    facts = Facts(subprogs=(0,), stack_depth=(0,), seen=b"\1\1")
    image = absent(2, "insn 0: a kernel function cannot be compiled")
    prog = ProgObject(1, Program(EXIT, 1, name="mine"), image, facts, (), 2)
    with pytest.raises(ShimError, match="mine: insn 0: a kernel function") as caught:
        prog.require_runnable()
    assert caught.value.errno == 95
