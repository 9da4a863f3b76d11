"""BTF: what is written parses back, what is refused is what the kernel refuses."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import subprocess
from collections.abc import Callable

import pytest

from compat_tests.btf.mutants import every_kind, mutants
from libbpf_shim.btf import kinds, log
from libbpf_shim.btf.check import MAX_NAME, check, identifier
from libbpf_shim.btf.parse import Btf
from libbpf_shim.btf.synthetic import PT_REGS, build
from libbpf_shim.btf.write import SIGNED, Writer
from libbpf_shim.errors import ShimError

NR_BPF, BPF_BTF_LOAD = 321, 18


def small() -> Writer:
    """int; int *; struct pair { int a; int b; }; typedef struct pair pair_t; int f(int x);"""
    out = Writer()
    number = out.integer("int", 4, SIGNED)
    out.ref(kinds.PTR, number)
    pair = out.struct("pair", 8, [("a", number, 0), ("b", number, 4)])
    out.ref(kinds.TYPEDEF, pair, "pair_t")
    proto = out.proto(number, [("x", number)])
    out.func("f", proto)
    return out


def verdict(blob: bytes) -> int:
    """0, or the errno with which our check refuses the blob."""
    try:
        check(blob)
    except ShimError as error:
        return error.errno
    return 0


def kernel_verdict(blob: bytes) -> int:
    """0, or the errno of the running kernel's BPF_BTF_LOAD."""
    libc = ctypes.CDLL(None, use_errno=True)
    data = ctypes.create_string_buffer(blob, len(blob))
    raw = struct.pack("<QQIII", ctypes.addressof(data), 0, len(blob), 0, 0)
    attr = ctypes.create_string_buffer(raw, len(raw))
    fd = libc.syscall(ctypes.c_long(NR_BPF), ctypes.c_long(BPF_BTF_LOAD), attr, len(raw))
    if fd < 0:
        return ctypes.get_errno()
    os.close(fd)
    return 0


def test_what_is_written_parses_back() -> None:
    btf = check(small().blob())
    pair = btf.find("pair", kinds.STRUCT)
    assert pair and [(m.name, m.offset) for m in pair.members] == [("a", 0), ("b", 32)]
    alias = btf.find("pair_t")
    assert alias and btf.sizeof(alias.id) == 8
    assert btf.find("pair", kinds.TYPEDEF) is None


def test_split_btf_continues_ids_and_strings_of_its_base() -> None:
    base = Btf(small().blob())
    out = Writer(base.end_id, base.end_string)
    pair = base.find("pair", kinds.STRUCT)
    assert pair
    out.struct("holder", 8, [("inner", pair.id, 0)])
    split = Btf(out.blob(), base)
    holder = split.find("holder")
    assert holder and holder.id == base.end_id
    assert split.type(holder.members[0].type).name == "pair"


def test_the_synthetic_btf_has_the_real_layout_of_pt_regs() -> None:
    btf = check(build())
    regs = btf.find("pt_regs", kinds.STRUCT)
    assert regs and regs.size == 168
    assert [m.offset // 64 for m in regs.members] == list(range(len(PT_REGS)))


def test_task_struct_pointers_lead_back_to_task_struct() -> None:
    btf = check(build())
    task = btf.find("task_struct", kinds.STRUCT)
    assert task
    parent = next(m for m in task.members if m.name == "real_parent")
    assert btf.type(btf.type(parent.type).ref) == task


def test_bpftool_reads_the_synthetic_btf(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "vmlinux.btf")
    with open(path, "wb") as file:
        file.write(build())
    tool = "/usr/sbin/bpftool"
    if not os.path.exists(tool):
        pytest.skip("bpftool is not installed")
    text = subprocess.run(
        [tool, "btf", "dump", "file", path, "format", "c"],
        capture_output=True, text=True, check=True, timeout=30,
    ).stdout  # fmt: skip
    assert "struct task_struct *real_parent;" in text


def with_header(**fields: int) -> bytes:
    """The small blob with header fields replaced."""
    blob = small().blob()
    names = ("magic", "version", "flags", "hdr_len", "type_off", "type_len", "str_off", "str_len")
    values = dict(zip(names, struct.unpack_from("<HBBIIIII", blob), strict=True)) | fields
    return struct.pack("<HBBIIIII", *values.values()) + blob[kinds.HEADER_SIZE :]


def looped() -> bytes:
    """struct a { struct a inner; };"""
    out = Writer()
    out.struct("a", 8, [("inner", 1, 0)])
    return out.blob()


def far_reference() -> bytes:
    out = Writer()
    out.ref(kinds.PTR, 9)
    return out.blob()


REFUSED: dict[str, tuple[Callable[[], bytes], int]] = {
    "empty": (lambda: b"", errno.EINVAL),
    "another magic": (lambda: with_header(magic=0x1234), errno.EINVAL),
    "another version": (lambda: with_header(version=2), 524),
    "flags set": (lambda: with_header(flags=1), 524),
    "no data": (lambda: with_header()[: kinds.HEADER_SIZE], errno.EINVAL),
    "sections overlap": (lambda: with_header(str_off=4), errno.EINVAL),
    "strings do not end in NUL": (lambda: small().blob()[:-1] + b"x", errno.EINVAL),
    "reference outside": (far_reference, errno.EINVAL),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_errno_of_the_table(name: str) -> None:
    make, code = REFUSED[name]
    assert verdict(make()) == code


@pytest.mark.kernel
@pytest.mark.parametrize("name", REFUSED)
def test_the_kernel_refuses_it_with_the_same_errno(name: str) -> None:
    make, code = REFUSED[name]
    assert kernel_verdict(make()) == code


def test_a_structure_that_contains_itself_is_refused() -> None:
    assert verdict(looped()) != 0


def test_a_blob_with_every_kind_is_accepted() -> None:
    assert verdict(every_kind()) == 0


@pytest.mark.kernel
def test_the_log_of_a_blob_is_the_kernels() -> None:
    blob, room = every_kind(), 16384
    data, text = ctypes.create_string_buffer(blob, len(blob)), ctypes.create_string_buffer(room)
    raw = struct.pack("<QQIII", ctypes.addressof(data), ctypes.addressof(text), len(blob), room, 1)
    libc = ctypes.CDLL(None, use_errno=True)
    attr = ctypes.create_string_buffer(raw, len(raw))
    fd = libc.syscall(ctypes.c_long(NR_BPF), ctypes.c_long(BPF_BTF_LOAD), attr, len(raw))
    assert fd >= 0
    os.close(fd)
    assert log.accepted(check(blob)) == text.value.decode()


@pytest.mark.kernel
def test_mutants_get_the_kernels_errno() -> None:
    wrong = []
    for mutant in mutants(20261124, 4000):
        ours, theirs = verdict(mutant), kernel_verdict(mutant)
        if ours != theirs:
            wrong.append((mutant.hex(), ours, theirs))
    assert not wrong, wrong[:5]


def test_a_name_is_an_identifier_by_its_bytes() -> None:
    """btf_name_valid_identifier(): isalpha() of the kernel takes Latin-1 letters."""
    rule = re.compile(rb"[A-Za-z_.\xC0-\xD6\xD8-\xF6\xF8-\xFF]"
                      rb"[A-Za-z0-9_.\xC0-\xD6\xD8-\xF6\xF8-\xFF]*")
    names = [b"", *(bytes([one]) for one in range(256)),
             *(bytes((first, one)) for first in b"a0_.\xd7" for one in range(256))]
    for name in names:
        assert identifier(name) == bool(rule.fullmatch(name)), name
    assert identifier(b"a" * MAX_NAME) and not identifier(b"a" * (MAX_NAME + 1))
