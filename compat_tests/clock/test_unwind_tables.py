"""Unwind tables hold what readelf decodes of the same section, and the walker believes nothing."""

from __future__ import annotations

import random
import re
import subprocess
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.runtime.test_maps import Control
from compat_tests.runtime.test_stack import USER, Stack, get_stack
from compat_tests.victims import build
from libbpf_shim.elf import cfi
from libbpf_shim.elf.module import Module

HERE = Path(__file__).parent
LIBRARIES = ["/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libm.so.6",
             "/lib/x86_64-linux-gnu/libgcc_s.so.1"]
REGISTERS = {"rsp": cfi.RSP, "rbp": cfi.RBP}


def decoded(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Address and columns of each row of each function, as readelf prints them."""
    text = subprocess.run(["readelf", "--debug-dump=frames-interp", "-W", path],
                          capture_output=True, text=True).stdout
    columns: list[str] = []
    function = False
    for line in text.splitlines():
        if re.search(r"\b(FDE|CIE)\b", line):
            function = " FDE " in line
        elif line.startswith("   LOC"):
            columns = line.split()[1:]
        elif function and (found := re.match(r"([0-9a-f]{16}) (.*)", line)):
            yield int(found[1], 16), dict(zip(columns, found[2].split(), strict=False))


def expected(row: dict[str, str]) -> cfi.Rule | None:
    """The rule that such a row becomes; None: one of several that need more than rsp and rbp."""
    found = re.fullmatch(r"(rsp|rbp)\+(\d+)", row["CFA"])
    rbp = row.get("rbp", "u")
    if row["ra"] == "u":
        return cfi.Rule(0, cfi.SAME, cfi.END)
    if not found or not row["ra"].startswith("c-"):
        return None
    saved = (int(rbp[1:]) if rbp.startswith("c") else cfi.SAME if rbp in ("u", "s") else cfi.LOST)
    return cfi.Rule(int(found[2]), saved, REGISTERS[found[1]])


@pytest.mark.parametrize("path", LIBRARIES)
def test_rows_are_those_that_readelf_decodes(path: str) -> None:
    module = Module(path)
    table = cfi.table(module)
    assert not table.frame_pointers
    addresses = list(table.addresses)
    rules = list(ffi.cast("struct shim_unwind_rule *", ffi.from_buffer(table.rules))[0:len(table)])
    looked = 0
    for address, row in decoded(path):
        at = bisect_right(addresses, address - module.load_base) - 1
        rule = rules[at]
        want, got = expected(row), cfi.Rule(rule.cfa, rule.rbp, rule.how)
        if want is None:
            assert got.how in (cfi.NONE, cfi.PLT, cfi.RBP_AT, cfi.SIGNAL), (hex(address), row, got)
        elif got.how != cfi.SIGNAL:
            assert got == want, (hex(address), row)
            looked += 1
    assert looked > 500


def test_a_module_with_frame_pointers_is_left_to_them() -> None:
    flags = [*build.WARN, "-O1", "-shared", "-fPIC"]
    for more, framed in (("-fno-omit-frame-pointer", True), ("-fomit-frame-pointer", False)):
        library = build.make(f"libframes{more}.so", [HERE / "plug.c"], [*flags, more])
        table = cfi.table(Module(str(library)))
        assert table.frame_pointers is framed
        assert (len(table) == 0) is framed


class Code:
    """An unwind table for addresses from BASE on, given to the walker while it is open."""

    BASE = 0x10000000

    def __init__(self, rows: list[tuple[int, tuple[int, int, int]]], size: int = 1 << 16) -> None:
        count = len(rows)
        self.memory = ffi.new("u64[]", count * 2 + 2)
        at = ffi.cast("u32 *", self.memory)
        rules = ffi.cast("struct shim_unwind_rule *", at + (count + 1) // 2 * 2)
        for index, (address, (cfa, rbp, how)) in enumerate(rows):
            at[index] = address
            rules[index] = {"cfa": cfa, "rbp": rbp, "how": how, "pad": 0}
        self.module = ffi.new("struct shim_unwind_module[1]", [{
            "start": self.BASE, "end": self.BASE + size, "base": self.BASE, "rows": count,
            "table": int(ffi.cast("uintptr_t", self.memory))}])

    def __enter__(self) -> Code:
        lib.shim_unwind_set(3, self.module, 1, 0)
        return self

    def __exit__(self, *error: object) -> None:
        lib.shim_unwind_set(3, ffi.NULL, 0, 0)


@pytest.fixture
def control() -> Control:
    return Control()


def words(run: Any, stack: list[int], ip: int, rbp: int = 0) -> tuple[Any, int]:
    """run stands at ip with this stack; the memory, and its address."""
    memory = ffi.new("u64[]", stack)
    regs = ffi.new("struct shim_pt_regs *", {"ip": ip, "bp": rbp})
    regs.sp = int(ffi.cast("uintptr_t", memory))
    run.regs = int(ffi.cast("uintptr_t", regs))
    return (memory, regs), int(regs.sp)


B = Code.BASE


def test_each_kind_of_rule_finds_the_caller(control: Control) -> None:
    run = control.run()
    rows = [(0x0, (8, 0, cfi.RSP)), (0x100, (24, -16, cfi.RSP)), (0x200, (16, -16, cfi.RBP)),
            (0x300, (-8, 0, cfi.RBP_AT)), (0x400, (0x0B, 0, cfi.PLT)), (0x500, (0, 0, cfi.END)),
            (0x600, (0, 0, cfi.NONE)), (0x700, (8, cfi.LOST, cfi.RSP))]
    with Code(rows):
        keep, sp = words(run, [B + 0x101, 7, 0, B + 0x501], B)
        keep[0][2] = 0  # rbp, which 0x100 saved
        assert get_stack(run, 64, USER) == [B, B + 0x101, B + 0x501]
        # by rbp, from below the frame
        keep, sp = words(run, [1, 2, 3, 0, B + 0x501], B + 0x200)
        ffi.cast("struct shim_pt_regs *", run.regs).bp = sp + 24
        assert get_stack(run, 64, USER) == [B + 0x200, B + 0x501]
        # the CFA itself is in memory, below where rbp points
        keep, sp = words(run, [1, 0, 5, 6, B + 0x501], B + 0x300)
        keep[0][1], keep[0][2] = sp + 40, 0
        ffi.cast("struct shim_pt_regs *", run.regs).bp = sp + 16
        assert get_stack(run, 64, USER) == [B + 0x300, B + 0x501]
        # a stub before and after its push
        keep, sp = words(run, [B + 0x501, B + 0x502], B + 0x40A)
        assert get_stack(run, 64, USER) == [B + 0x40A, B + 0x501]
        keep, sp = words(run, [9, B + 0x502], B + 0x40B)
        assert get_stack(run, 64, USER) == [B + 0x40B, B + 0x502]
        # rbp decides where nothing is known, and ends the walk where it was lost
        keep, sp = words(run, [4, 4, 0, B + 0x501], B + 0x600)
        ffi.cast("struct shim_pt_regs *", run.regs).bp = sp + 16
        assert get_stack(run, 64, USER) == [B + 0x600, B + 0x501]
        keep, sp = words(run, [B + 0x601, 0, B + 0x501], B + 0x700)
        ffi.cast("struct shim_pt_regs *", run.regs).bp = sp + 8
        assert get_stack(run, 64, USER) == [B + 0x700, B + 0x601]


def test_what_calls_main_ends_a_stack_of_frame_pointers(control: Control) -> None:
    """As the kernel's; but whatever is called back from there is shown whole."""
    run = control.run()
    own = [0x400000, 0x400010]  # has frame pointers: there is no table
    for length in range(1, 7):
        with Code([(0x0, (16, 0, cfi.RSP)), (0x500, (0, 0, cfi.END))]):
            above = [B + 0x10 + n for n in range(length - 1)] + [B + 0x501]
            stack = [0] * (4 + 2 * length)
            keep, sp = words(run, stack, own[0])
            keep[0][0], keep[0][1] = 0, own[1]  # frame of own[0]
            frame = sp
            ffi.cast("struct shim_pt_regs *", run.regs).bp = frame
            keep[0][0] = sp + 16
            keep[0][2], keep[0][3] = 0, above[0]
            for n, address in enumerate(above[1:]):
                keep[0][4 + 2 * n + 1] = address
            whole = own + above
            want = whole if length > 4 else own + above[:1]
            assert get_stack(run, 512, USER) == want, length
            for most in range(1, len(whole) + 1):
                assert get_stack(run, most * 8, USER) == want[:most]


def test_garbled_tables_end_in_short_stacks(control: Control) -> None:
    chance = random.Random(9)
    run = control.run()
    for _ in range(300):
        rows = [(chance.randrange(1 << 16), (chance.choice([8, 16, -8, 0, chance.randrange(
            -1 << 31, 1 << 31)]), chance.randrange(-1 << 15, 1 << 15), chance.randrange(256)))
            for _ in range(chance.randrange(1, 40))]
        with Code(rows if chance.random() < 0.5 else sorted(rows)):
            stack = Stack([B + chance.randrange(1 << 16) for _ in range(8)])
            stack.of(run)
            got = get_stack(run, 1016, USER)
            assert isinstance(got, list) and 1 <= len(got) <= 127


def test_modules_of_one_session_leave_those_of_others(control: Control) -> None:
    run = control.run()
    with Code([(0x0, (8, 0, cfi.RSP)), (0x10, (0, 0, cfi.END))]) as code:
        more = ffi.new("struct shim_unwind_module[]", 600)
        for n, module in enumerate(more):
            module.start, module.end = B + (n + 1) * 0x100000, B + (n + 1) * 0x100000 + 16
        lib.shim_unwind_set(4, more, 600, 0)
        _, _ = keep = words(run, [B + 0x11], B)
        assert get_stack(run, 64, USER) == [B, B + 0x11]
        lib.shim_unwind_set(4, ffi.NULL, 0, 0)
        assert get_stack(run, 64, USER) == [B, B + 0x11]
        lib.shim_unwind_set(3, ffi.NULL, 0, 0)
        assert get_stack(run, 64, USER) == [B]
        lib.shim_unwind_set(4, code.module, 1, 0)
        assert get_stack(run, 64, USER) == [B, B + 0x11]
        lib.shim_unwind_set(4, ffi.NULL, 0, 0)
        assert keep
