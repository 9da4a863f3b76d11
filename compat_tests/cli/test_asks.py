"""`bpf-shim run STATIC`: which static programs are loaders, whose bpf(2) is served, and how the
others are started."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compat_tests.clients import test_bad_input
from compat_tests.clients.tool import Session, run
from compat_tests.guard import launch
from compat_tests.process import programs
from compat_tests.victims import build
from libbpf_shim.cli.asks import asks, has_asked
from libbpf_shim.cli.static import program

go = pytest.mark.skipif(not shutil.which("go"), reason="go: not installed")


@pytest.mark.parametrize("libc", ["glibc", "musl", pytest.param("go", marks=go)])
def test_a_loader_is_seen_by_its_call(libc: str) -> None:
    assert asks(str(programs.loader(libc)))


@pytest.mark.parametrize("how", ["glibc", "musl"])
def test_a_program_without_the_call_is_none(how: str) -> None:
    """glibc has the number elsewhere: as the line of an assert."""
    assert not asks(str(programs.alone(how)))
    assert not asks(str(programs.ways(how)))


@go
def test_a_program_of_go_without_the_call_is_none() -> None:
    assert not asks(str(programs.starter()))


@go
def test_a_program_of_go_that_is_linked_to_libc_is_a_loader_too() -> None:
    assert program(str(programs.loader("go-dynamic"))) == ""
    assert asks(str(programs.loader("go-dynamic")), alone=False)


@go
@pytest.mark.parametrize("how", ["inside", "beside"])
def test_a_program_of_go_that_has_libbpf_make_the_call_is_seen(how: str) -> None:
    assert has_asked(str(programs.lifts(how)))
    assert not has_asked(str(programs.loader("go-dynamic")))


@pytest.mark.parametrize("path", ["/usr/sbin/bpftool", "/bin/sh"])
def test_no_other_that_has_libbpf_make_it_is_meant(path: str) -> None:
    assert not has_asked(path)


@pytest.mark.parametrize("path", [sys.executable, "/bin/sh", str(test_bad_input.badcalls())])
def test_others_that_are_linked_to_libc_call_that(path: str) -> None:
    assert not asks(path, alone=False)


NUMBER = b"\x41\x01\0\0"


@pytest.mark.parametrize(("before", "found"), [
    (b"\xb8", True), (b"\xbf", True), (b"\x41\xbc", True), (b"\x68", True),
    (b"\x48\xc7\xc0", True), (b"\x48\xc7\x04\x24", True), (b"\xc7\x44\x24\x08", True),
    (b"\xba", False), (b"\xb9", False), (b"\xe8", False), (b"\x48\x81\xc4", False)])
def test_an_instruction_with_the_number(before: bytes, found: bool, tmp_path: Path) -> None:
    """mov, push and stores are how a call gets its number; a line of an assert, a jump and a
    sum are not."""
    image = bytearray(programs.alone("musl").read_bytes())
    at = image.index(b"\xcc" * 16) if b"\xcc" * 16 in image else image.index(b"\x0f\x05")
    image[at : at + 16] = b"\x90" * (16 - len(before + NUMBER)) + before + NUMBER
    changed = tmp_path / "changed"
    changed.write_bytes(image)
    assert asks(str(changed)) == found


@pytest.mark.parametrize("linker", [True, False])
def test_a_dynamic_linker_called_by_hand_makes_no_call(linker: bool, tmp_path: Path) -> None:
    """Whatever its instructions look like. It is a library, with a name of its own."""
    source = tmp_path / "entry.S"
    source.write_text(".globl _start\n_start: mov $321, %eax\nsyscall\n")
    flags = ["-shared", "-Wl,-soname,ld.so.1"] if linker else ["-static-pie"]
    made = build.make("entry", [source], ["-nostdlib", "-Wl,-e,_start", *flags])
    assert program(str(made)) == str(made)
    assert asks(str(made)) is not linker


def test_of_a_script_its_interpreter_counts(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(f"#!{programs.alone('musl')} -x\n")
    assert program(str(script)) == str(programs.alone("musl"))
    script.write_text("#!/bin/sh\n")
    assert program(str(script)) == ""


def test_a_file_without_program_headers_is_left_to_the_kernel(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF\2\1\1".ljust(18, b"\0") + b"\x3e\0" + bytes(44))
    assert program(str(broken)) == ""


def test_a_program_without_the_call_is_served_where_it_is_said_to_be_a_loader() -> None:
    """Which cannot be where ptrace is refused and a filter refuses bpf(2)."""
    folder = build.private_copy({"alone": programs.alone("musl")})
    argv = launch.shim_run([str(folder / "alone")], no_ptrace=True)
    assert run(argv).status == 3
    argv.insert(argv.index("run") + 1, "--loader")
    outcome = run(argv)
    assert outcome.status == 126 and "filter further out" in outcome.err, outcome
    shutil.rmtree(folder)


def test_what_a_target_begins_with_is_its_own() -> None:
    """Its arguments, the environment of a tree that is followed; no filter, no tracer of ours."""
    folder = build.private_copy({"ways": programs.ways("musl")})
    argv = [str(folder / "ways"), "raw", "/bin/true", "asked"]
    with Session(launch.shim_run(argv), stdin=subprocess.PIPE) as ways:
        ways.until(b"\n")
        place = Path(f"/proc/{int(ways.seen.removeprefix(b'pid '))}")
        assert (place / "cmdline").read_text().split("\0") == [*argv, ""]
        variables = dict(line.split("=", 1) for line in
                         (place / "environ").read_text().split("\0") if line)
        # LC_CTYPE is Python's, in a C locale (PEP 538)
        assert variables.keys() - {"LC_CTYPE"} == {"PATH", "LD_PRELOAD", "LIBBPF_SHIM_FOLLOW"} | {
            name for name in ("LIBBPF_SHIM_TIER",) if name in os.environ}
        assert variables["LD_PRELOAD"] == str(launch.library())
        status = (place / "status").read_text()
        assert "\nTracerPid:\t0\n" in status
        assert "\nSeccomp_filters:\t1\n" in status  # the guard's
    shutil.rmtree(folder)


def test_a_program_that_cannot_be_executed_is_named() -> None:
    folder = build.private_copy({"alone": programs.alone("musl")})
    (folder / "alone").chmod(0o644)
    outcome = run(launch.shim_run([str(folder / "alone")]))
    shutil.rmtree(folder)
    assert outcome.status == 126
    assert outcome.err == f"bpf-shim run: {folder}/alone: {os.strerror(errno.EACCES)}\n"
