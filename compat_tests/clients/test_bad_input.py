"""What is asked wrongly is answered with the kernel's errno, and the host program goes on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.faults import survivors
from compat_tests.guard import launch
from compat_tests.victims import build

EXPECTED = Path(__file__).with_name("badcalls.expected").read_text().splitlines()
WAYS = [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
        pytest.param(SHIM, id="shim")]


def badcalls() -> Path:
    return build.make("badcalls", [build.HERE / "badcalls.c"], [*build.WARN, "-O1"])


@pytest.mark.parametrize("way", WAYS)
def test_every_wrong_call_has_the_kernels_errno(way: Way) -> None:
    outcome = run(way.tool([str(badcalls())]))
    assert outcome.status == 0, outcome
    assert outcome.out.splitlines() == EXPECTED


def test_an_object_that_is_no_elf_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    files = {**build.calls(), **build.eight(static=False)}
    folder = build.private_copy(files)
    (folder / "eight.bpf.o").write_bytes(b"\x7fELF" + bytes(60))
    outcome = run(SHIM.tool([f"{folder}/eight-shared", f"{folder}/eight.bpf.o",
                             f"{folder}/calls", f"{folder}/libvictim.so"]))
    assert outcome.status == 1 and "eight: open" in outcome.err
    survivors.nothing_left()


def test_an_unwritable_run_directory_is_one_line_and_an_errno(victim: Path) -> None:
    argv = launch.guarded([str(badcalls())], preload=True, env={"XDG_RUNTIME_DIR": "/proc/1"})
    outcome = run(argv)
    assert outcome.status == 0
    answers = dict(line.rsplit(" ", 1) for line in outcome.out.splitlines())
    assert answers["hash"] != "0" and answers["program"] != "0"
    said = [line for line in outcome.err.splitlines() if line.startswith("libbpf_shim:")]
    assert len(said) == 1, outcome.err
    survivors.nothing_left()


@pytest.mark.parametrize("way", WAYS)
def test_a_program_with_a_missing_target_is_refused(way: Way, victim: Path) -> None:
    program = f"uprobe:{victim}/absent:main {{ exit(); }}"
    outcome = run(way.tool(["bpftrace", "-e", program]))
    assert outcome.status != 0 and "absent" in outcome.err


SOCKET = """
import ctypes, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
text = ctypes.create_string_buffer(struct.pack("<QQ", 0xB7, 0x95))  # r0 = 0; exit
words = struct.pack("<IIQQ", 1, 2, ctypes.addressof(text), ctypes.addressof(text))
prog = libc.syscall(321, 5, ctypes.create_string_buffer(words, 144), 144)
assert prog >= 0
try:
    socket.socket(type=socket.SOCK_DGRAM).setsockopt(socket.SOL_SOCKET, 50, prog)
    print(0)
except OSError as error:
    print(error.errno)
"""


@pytest.mark.parametrize(("way", "number"), [
    pytest.param(KERNEL, 0, marks=pytest.mark.kernel, id="kernel"),
    pytest.param(SHIM, 22, id="shim")])  # docs/parity.md
def test_a_socket_takes_no_program(way: Way, number: int) -> None:
    outcome = run(way.tool([sys.executable, "-c", SOCKET]))
    assert outcome.out == f"{number}\n", outcome
