"""The trace pipe shows what the kernel's shows of the same programs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.clients.tool import KERNEL, SHIM, Outcome, Way, run
from compat_tests.runtime.test_maps import Control
from compat_tests.runtime.test_stack import call
from compat_tests.victims import build

HERE = Path(__file__).parent
PIPE = "/sys/kernel/debug/tracing/trace_pipe"
FLOOD = 20000  # lines: no more than the kernel has room for
HEAD = re.compile(r"^ *spoken-(\d+) +\[\d{3}\] \.[.\w]\.11 +\d+\.\d{6}: bpf_trace_printk: ", re.M)


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({
        "load": build.make("load", [HERE / "load.c"], [*build.WARN, "-O1"], ["-lbpf"]),
        "spoken": build.make("spoken", [HERE / "spoken.c"],
                             [*build.WARN, "-O1", "-fcf-protection=none", "-rdynamic"]),
        "printer.bpf.o": build.make("printer.bpf.o", [HERE / "printer.bpf.c"], build.BPF_FLAGS,
                                    compiler=build.CLANG, headers=[HERE / "note.h"])})
    yield place
    shutil.rmtree(place)


def printed(way: Way, folder: Path, command: str) -> Outcome:
    """The command beside the program. The kernel's trace may hold what others have printed."""
    clear = f": > {PIPE.removesuffix('_pipe')}; " * (way is KERNEL)
    argv = [f"{folder}/load", f"{folder}/printer.bpf.o", f"{folder}/spoken",
            clear + command.replace("$V", f"{folder}/spoken")]
    outcome = run(way.tool(argv))
    assert outcome.status == 0, outcome
    return outcome


def lines(way: Way, folder: Path) -> str:
    """What readers find that come after the event, one until the last line is there, and one for
    a moment more; heads checked and taken off."""
    read = f"{folder}/read"
    folder.chmod(0o777)
    outcome = printed(way, folder, f"$V & pid=$!; wait; cat {PIPE} > {read} & cat=$!; "
                      f"until [ $(grep -c '11 12$' {read}) = 4 ]; do sleep 0.02; done; kill $cat; "
                      f"wait $cat; cat {read}; timeout 0.2 cat {PIPE}; echo pid $pid")
    found = re.search(r"pid (\d+)", outcome.out)
    assert found and set(HEAD.findall(outcome.out)) == {found[1]}, outcome
    return re.sub(r"pid \d+", "", HEAD.sub("", outcome.out))


EXPECTED = """\
plain {n} some words of t

{x} {u} {lx}
[{n:>5}] [{n:<5}] [{n:05}] [{n:+}] [{n: }] %
[   right] [left    ] [c] {lx} {X}
115.111.109.101 115.111.109.101 {plain} {colons}
[] [some words of this] [{p}]
-1 -2 4294967293 -4 -5 6 7 8 9 10 11 12
"""


@pytest.mark.parametrize("way", [SHIM, pytest.param(KERNEL, marks=[pytest.mark.kernel])],
                         ids=lambda way: way.name)
def test_lines_are_those_of_the_kernel(folder: Path, way: Way) -> None:
    text = lines(way, folder)
    wanted, plain = "READY\n", b"some words of t\0".hex()
    colons = ":".join(plain[at : at + 4] for at in range(0, 32, 4))
    for n in (-1000, 0, 1000, 2000):
        x, lx = n & 0xFFFFFFFF, n & 2**64 - 1
        wanted += EXPECTED.format(n=n, x=f"{x:x}", u=x, lx=f"{lx:x}", X=f"{x:X}",
                                  p=f"{lx:016x}", plain=plain, colons=colons)
    wanted += "out[0] 27\nout[1] 12\nout[2] 22\nout[3] 22\nout[4] 22\n"
    assert [line for line in text.splitlines() if line] == [
        line for line in wanted.splitlines() if line]


def test_a_pipe_that_nobody_reads_keeps_the_last_lines(folder: Path) -> None:
    outcome = printed(SHIM, folder, f"$V 60000; timeout 2 cat {PIPE}; true")
    numbers = [int(n) for n in re.findall(r"bpf_trace_printk: flood (\d+)$", outcome.out, re.M)]
    lost = sum(int(n) for n in re.findall(r"^CPU:\d+ \[LOST (\d+) EVENTS\]$", outcome.out, re.M))
    assert numbers == sorted(set(numbers)) and len(numbers) > 2000
    assert len(numbers) + lost <= 60000


def test_a_reader_has_all_of_a_flood(folder: Path) -> None:
    """However late the backend and the reader come: there is room for all."""
    reader = f"cat {PIPE} > {folder}/read & "
    folder.chmod(0o777)
    printed(SHIM, folder, reader + f"cat=$!; $V {FLOOD}; until grep -q 'flood {FLOOD}$' "
            f"{folder}/read; do sleep 0.05; done; kill $cat")
    # before it, what an earlier test has left there
    text = (folder / "read").read_text().rpartition(": flood 1\n")[2]
    assert "LOST" not in text
    assert re.findall(r"bpf_trace_printk: flood (\d+)$", text, re.M) == [
        str(n) for n in range(2, FLOOD + 1)]


def test_a_reader_waits_for_lines(folder: Path) -> None:
    reader = f"cat {PIPE} > {folder}/read & "
    folder.chmod(0o777)
    printed(SHIM, folder, reader + f"cat=$!; $V 3; until grep -q 'flood 3' {folder}/read; do "
            "sleep 0.05; done; kill $cat")
    assert len(HEAD.findall((folder / "read").read_text())) == 3


def test_bcc_reads_the_pipe(folder: Path) -> None:
    headers = sorted(Path("/lib/modules").glob("*/build"))
    if not headers or not Path("/usr/lib/python3/dist-packages/bcc").exists():
        pytest.skip("bcc, or headers of a kernel, are not installed")
    release = headers[-1].parent.name
    uname = build.make("uname.so", [HERE.parent / "compat" / "uname.c"],
                       [*build.WARN, "-O2", "-shared", "-fPIC", f'-DRELEASE="{release}"'])
    for source in (uname, HERE / "printer.py"):
        shutil.copy(source, folder)
    outcome = run(SHIM.tool([
        "sh", "-c", 'LD_PRELOAD="$LD_PRELOAD $0" exec "$@"', f"{folder}/uname.so",
        "/usr/bin/python3", f"{folder}/printer.py", f"{folder}/spoken"]))
    assert outcome.status == 0, outcome
    assert outcome.out.splitlines() == [f"spoken number {n}" for n in (1, 2, 3)]


SNPRINTF = 165
CASES = [
    ("%d|%u|%x|%X", [-5 & 2**64 - 1, 1 << 32 | 7, 255, 255], "-5|7|ff|FF"),
    ("%ld|%lu|%llx", [-5 & 2**64 - 1, 2**64 - 1, 2**63], "-5|18446744073709551615|8" + "0" * 15),
    ("%05d|%-4d|%+d|% d|%-+4d|", [-42 & 2**64 - 1, 1, 2, 3, 4], "-0042|1   |+2| 3|+4  |"),
    ("%3c|%-3c|%%|%p|%20p", [97, 98, 0xABC, 0xABC],
     f"  a|b  |%|0000000000000abc|{0xABC:20x}"),
    ("%ps %pS %pB %pK", [1, 2, 3, 4], "0x1 0x2 0x3 0000000000000004"),
    ("no arguments", [], "no arguments"),
]


@pytest.mark.parametrize(("form", "values", "want"), CASES, ids=[case[0] for case in CASES])
def test_a_format_is_printed_as_by_the_kernel(form: str, values: list[int], want: str) -> None:
    control = Control()
    for room in (64, len(want) + 1, len(want), 5, 1, 0):
        out = ffi.new("char[80]", b"#" * 79)
        data = ffi.new("u64[]", values or [0])
        got = call(SNPRINTF, out, room, ffi.new("char[]", form.encode()), data, len(values) * 8,
                   run=control.run())
        assert got == len(want) + 1
        if room:
            assert ffi.string(out).decode() == want[: room - 1]
        assert ffi.buffer(out)[room] == b"#"


@pytest.mark.parametrize("form", [
    b"%d", b"%", b"%q", b"%s8", b"%p1", b"%pi5", b"%lls", b"%hd", b"%*d", b"\x01", b"\xc3\xa9"])
def test_a_format_that_the_kernel_does_not_know_writes_nothing(form: bytes) -> None:
    out = ffi.new("char[16]", b"#" * 15)
    taken = 0 if form == b"%d" else 8
    got = call(SNPRINTF, out, 16, ffi.new("char[]", form), ffi.new("u64[2]"), taken,
               run=Control().run())
    assert got == -22 and ffi.string(out) == b"#" * 15


def test_helpers_are_there() -> None:
    assert all(lib.shim_helper(number) for number in (6, 56, 165, 177))
