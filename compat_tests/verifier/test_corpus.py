"""The verdicts of 2,514 programs of ../shared/data/corpus.tar.xz, ours beside the kernel's.

Soundness first: nothing that the kernel refuses is accepted. What the kernel accepts and we do not
is either said by the log not to be there (a program type, helper or instruction), or stands in
STRICTER with its reason, or in BY_NUMBER; a program that leaves STRICTER must be struck off it.
The rules were written with this corpus at hand, so agreement here proves little of other programs:
test_mutants.py asks about those. A sample in the suite, all of it with --long.
"""

from __future__ import annotations

import functools
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf
from libbpf_shim.object.btf import MACHINE
from libbpf_shim.object.map_btf import MapTypes
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.facts import Verdict
from libbpf_shim.verifier.program import MapDesc, Program

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "corpus.tar.xz"
EVERY = 12  # of the suite's sample
NOT_SCORED = {"unresolved_kfunc", "core_relo_poison", "blocked_by_vm_policy"}
LARGEST = 3000  # instructions that the kernel processed, of the suite's sample
NOT_THERE = "not supported here"

_V = "st72v3:verifier_"
# What the kernel knows and we do not, and the programs that we refuse for it.
STRICTER: dict[str, tuple[str, ...]] = {
    "6.18 overlooks that a tail call ends a function that would have written its caller's stack": (
        f"{_V}live_stack:caller_stack_write_tail_call",
    ),
    "6.18 takes a packet pointer for one behind the end that has come back": (
        f"{_V}direct_packet_access:pkt_range_clear_after_sub",
        f"{_V}direct_packet_access:pkt_range_clear_after_add",
    ),
    "6.18 forgets what a slice was taken from where its address is added to a number": (
        "st72v3:dynptr_fail:dynptr_slice_commuted_invalidate",
    ),
}  # fmt: skip
# In a register of these is the number of a type of the kernel that was asked. Under it the kernel
# of this machine may have one that will do, or one that will not: either is right.
BY_NUMBER = frozenset((
    "st72v3:verifier_global_ptr_args:anything_to_untrusted",
    "st72v3:cgroup_ancestor:log_cgroup_id", "st72v3:connect_unix_prog:connect_unix_prog",
    "st72v3:mem_rdonly_untrusted:mixed_mem_type", "st72v3:mptcp_subflow:_getsockopt_subflow",
    "st72v3:sendmsg_unix_prog:sendmsg_unix_prog", "st72v3:type_cast:md_skb",
))  # fmt: skip

pytestmark = pytest.mark.skipif(not CORPUS.exists(), reason=f"no {CORPUS.name}")


@functools.cache
def corpus() -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Programs, and BTF blobs by their file's name."""
    with tarfile.open(CORPUS) as archive:
        files = {m.name: archive.extractfile(m) for m in archive if m.isfile()}
        rows, blobs = [], {}
        for name, file in files.items():
            assert file
            if name.endswith("verdicts.jsonl"):
                rows = [json.loads(line) for line in file]
            elif name.endswith(".btf"):
                blobs[name.split("corpus/")[1]] = file.read()
    return [r for r in rows if not NOT_SCORED & set(r.get("labels") or ())], blobs


def mapped(start: int, pages: int) -> tuple[int, int]:
    """An arena, as its loader mapped it."""
    start = start or 1 << 44
    return start, start + pages * 4096


def map_desc(m: dict[str, Any], btf: bytes | None) -> MapDesc:
    """A map with what the loader puts into it before BPF_PROG_LOAD: .rodata, the inner map."""
    contents = None
    if m.get("frozen") and m["type"] == 2:  # BPF_MAP_TYPE_ARRAY
        contents = bytes.fromhex(m.get("data_hex") or "").ljust(m["value_size"], b"\0")
    return MapDesc(
        type=m["type"], key_size=m["key_size"], value_size=m["value_size"],
        max_entries=m["max_entries"], map_flags=m.get("map_flags") or 0,
        map_extra=m.get("map_extra") or 0, contents=contents,
        arena=mapped(m.get("map_extra") or 0, m["max_entries"]) if m["type"] == 33 else (0, 0),
        inner=map_desc(m["inner"], btf) if m.get("inner") else None,
        btf=btf, btf_value_type_id=m.get("btf_value_type_id") or 0, fields=fields(m, btf),
    )  # fmt: skip


def fields(m: dict[str, Any], btf: bytes | None) -> tuple[tuple[str, int], ...]:
    """What is special in its values."""
    if not btf or not m.get("btf_value_type_id"):
        return ()
    found = MapTypes(Btf(btf), m["type"], m.get("map_flags") or 0, m["max_entries"], m["key_size"],
                     m["value_size"], 0, m["btf_value_type_id"]).fields
    return tuple((field.name, field.offset) for field in found)


CALL, LD_IMM64 = 0x85, 0x18
BY_ID = {(CALL, 2): "kfuncs", (LD_IMM64, 3): "ksyms"}  # opcode and src_reg


@functools.cache
def kernel_id(name: str) -> int:
    """Of a type of this machine's kernel; the corpus was recorded on another build of it."""
    btf = MACHINE.btf
    found = btf.find(name, kinds.FUNC, kinds.VAR, kinds.TYPEDEF) or btf.find(name)
    return found.id if found else 0


def instructions(row: dict[str, Any]) -> bytes:
    """With this kernel's ids of the functions and variables that are named."""
    code = bytearray.fromhex(row["insns_hex"])
    for at in range(0, len(code), 8):
        names = row.get(BY_ID.get((code[at], code[at + 1] >> 4), "")) or {}
        name = names.get(str(int.from_bytes(code[at + 4 : at + 8], "little")))
        if name:
            code[at + 4 : at + 8] = kernel_id(name).to_bytes(4, "little")
    return bytes(code)


def program(row: dict[str, Any], blobs: dict[str, bytes]) -> Program:
    btf = blobs.get(row.get("btf_file") or "")
    maps = tuple(map_desc(m, btf) for m in row["maps"])
    return Program(
        insns=instructions(row), prog_type=row["prog_type"],
        expected_attach_type=row.get("expected_attach_type") or 0,
        prog_flags=row.get("prog_flags") or 0, license=row.get("license") or "", maps=maps,
        log_level=1, btf=btf, kernel_btf=MACHINE,
        attach_btf_id=kernel_id(row.get("attach_btf_name") or ""),
        func_info=bytes.fromhex(row.get("func_info_hex") or ""),
        func_info_rec_size=row.get("func_info_rec_size") or 0,
    )  # fmt: skip


def compare(rows: list[dict[str, Any]], blobs: dict[str, bytes]) -> None:
    expected = {name for names in STRICTER.values() for name in names}
    unsound, refused, accepted = [], {}, 0
    for row in rows:
        verdict: Verdict = verify(program(row, blobs))
        if row["kernel_verdict"] == "reject":
            if not verdict.errno:
                unsound.append(row["name"])
        elif not verdict.errno:
            accepted += 1
        elif NOT_THERE not in verdict.log:
            refused[row["name"]] = verdict.log[-300:]
    assert not unsound
    assert accepted  # a verifier that refuses everything is no oracle's match
    assert set(refused) - BY_NUMBER == expected & {row["name"] for row in rows}, refused


def judged(row: dict[str, Any]) -> bool:
    return row["kernel_verdict"] in ("accept", "reject")


def test_a_sample_agrees_with_the_kernel() -> None:
    rows, blobs = corpus()
    small = [r for r in rows[::EVERY] if judged(r)
             and ((r.get("stats") or {}).get("processed") or 0) < LARGEST]  # fmt: skip
    assert len(small) > 100
    compare(small, blobs)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_all_agree_with_the_kernel() -> None:
    rows, blobs = corpus()
    compare([r for r in rows if judged(r)], blobs)
