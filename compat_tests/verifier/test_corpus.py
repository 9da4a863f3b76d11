"""The verdicts of 2,514 programs of ../shared/data/corpus.tar.xz, ours beside the kernel's.

Soundness first: nothing that the kernel refuses is accepted. What the kernel accepts and we do not
is counted, and must be of a program type, helper or instruction that the log says is not there;
the few others are listed. A sample in the suite, all of it with --long.
"""

from __future__ import annotations

import functools
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from libbpf_shim.verifier import verify
from libbpf_shim.verifier.facts import Verdict
from libbpf_shim.verifier.program import MapDesc, Program

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "corpus.tar.xz"
EVERY = 12  # of the suite's sample
NOT_SCORED = {"unresolved_kfunc", "core_relo_poison", "blocked_by_vm_policy"}
LARGEST = 3000  # instructions that the kernel processed, of the suite's sample
NOT_THERE = "not supported here"
AGREED = 0.93  # of what is modelled: the rest are refusals of programs that the kernel accepts

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


def map_desc(m: dict[str, Any], btf: bytes | None) -> MapDesc:
    """A map with what the loader puts into it before BPF_PROG_LOAD: .rodata, the inner map."""
    contents = None
    if m.get("frozen") and m["type"] == 2:  # BPF_MAP_TYPE_ARRAY
        contents = bytes.fromhex(m.get("data_hex") or "").ljust(m["value_size"], b"\0")
    return MapDesc(
        type=m["type"], key_size=m["key_size"], value_size=m["value_size"],
        max_entries=m["max_entries"], map_flags=m.get("map_flags") or 0,
        map_extra=m.get("map_extra") or 0, contents=contents,
        inner=map_desc(m["inner"], btf) if m.get("inner") else None,
        btf=btf, btf_value_type_id=m.get("btf_value_type_id") or 0,
    )  # fmt: skip


def program(row: dict[str, Any], blobs: dict[str, bytes]) -> Program:
    btf = blobs.get(row.get("btf_file") or "")
    maps = tuple(map_desc(m, btf) for m in row["maps"])
    return Program(
        insns=bytes.fromhex(row["insns_hex"]), prog_type=row["prog_type"],
        expected_attach_type=row.get("expected_attach_type") or 0,
        prog_flags=row.get("prog_flags") or 0, license=row.get("license") or "", maps=maps,
        log_level=1, btf=btf,
        func_info=bytes.fromhex(row.get("func_info_hex") or ""),
        func_info_rec_size=row.get("func_info_rec_size") or 0,
    )  # fmt: skip


def compare(rows: list[dict[str, Any]], blobs: dict[str, bytes]) -> None:
    unsound, refused, same = [], [], 0
    for row in rows:
        verdict: Verdict = verify(program(row, blobs))
        if row["kernel_verdict"] == ("reject" if verdict.errno else "accept"):
            same += 1
        elif not verdict.errno:
            unsound.append(row["name"])
        elif NOT_THERE not in verdict.log:
            refused.append((row["name"], verdict.log[-300:]))
    assert not unsound
    assert same / (same + len(refused)) > AGREED, refused


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
