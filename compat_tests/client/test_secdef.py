"""Section names mean what they mean to the system's libbpf, all of them."""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
from pathlib import Path

import pytest

from compat_tests.client import handed
from compat_tests.victims.build import WARN, make
from libbpf_shim.elf.secdef import SECTIONS, SecDef, find

LIST = r"""
#include <bpf/libbpf.h>
#include <stdarg.h>
#include <stdio.h>
static int print(enum libbpf_print_level level, const char *format, va_list args)
{
	return level == LIBBPF_WARN ? 0 : vprintf(format, args);
}
int main(void)
{
	enum bpf_prog_type type;
	enum bpf_attach_type attach;

	libbpf_set_print(print);
	libbpf_prog_type_by_name("no such section", &type, &attach);
	return 0;
}
"""


@functools.cache
def libbpf() -> ctypes.CDLL:
    return ctypes.CDLL("libbpf.so.1")


def said(name: str) -> tuple[int, int]:
    kind, attach = ctypes.c_int(-1), ctypes.c_int(-1)
    ret = libbpf().libbpf_prog_type_by_name(
        name.encode(), ctypes.byref(kind), ctypes.byref(attach))
    assert ret == 0, name
    return kind.value, attach.value


def test_the_table_has_every_section_that_libbpf_knows(tmp_path: Path) -> None:
    source = tmp_path / "list.c"
    source.write_text(LIST)
    text = subprocess.run([make("list", [source], WARN, ["-lbpf"])], capture_output=True,
                          text=True, check=True).stdout
    found = re.search(r"supported section\(type\) names are:(.*)", text)
    assert found
    ours, theirs = [row.name for row in SECTIONS], found[1].split()
    if handed.version() > (1, 1):  # which has more, among them
        theirs = [name for name in theirs if name in ours]
    assert theirs == ours


@pytest.mark.parametrize("row", SECTIONS, ids=lambda row: row.name)
def test_a_section_has_the_types_that_libbpf_gives_it(row: SecDef) -> None:
    plain = row.name.rstrip("+")
    for name in (plain, f"{plain}/x") if row.name.endswith("+") else (plain,):
        mine = find(name)
        assert mine and (mine.prog_type, mine.attach_type) == said(name)


@pytest.mark.parametrize("name", ["kprobes", "xdp/x", "tcx", "", "uprobe.s.", "tp_btfx/y"])
def test_a_name_that_is_nearly_one_is_none(name: str) -> None:
    assert find(name) is None
