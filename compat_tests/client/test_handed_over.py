"""The Python API hands bpf(2) what libbpf hands it: maps, their contents, instructions, records.

Objects: those of the libbpf-tools and 22 of our own, all their programs, against the machine's
BTF. libbpf runs as root on the kernel; its programs are not loaded (capture.c).
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from compat_tests.client import build, handed
from libbpf_shim.btf import synthetic
from libbpf_shim.elf.object import ElfObject
from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_core_relo_kind, bpf_map_type

pytestmark = pytest.mark.kernel
REFUSED = {"text"}  # a program without a type
# What libbpf 1.1 does, and we, and a later one does not: where that is there, nothing is compared
OTHERWISE = {
    "kfuncs": "a call of a weak kernel function that is nowhere has another number",
    "text": "a function in .text alone is a subprogram, and no program",
}
LATER = handed.version() > (1, 1)


def same(path: Path, btf: Path | None = None) -> int:
    """Compares; the number of programs."""
    theirs, skipped = handed.by_libbpf(path, btf)
    ours = handed.by_us(path, skipped, btf)
    assert bool(ours.refused) == bool(theirs.refused), (ours.refused, theirs.refused)
    if theirs.refused:
        return 0
    assert ours.btf == theirs.btf
    assert ours.maps == theirs.maps
    arrays = {i for i, (_, f) in enumerate(ours.maps)
              if f["map_type"] == bpf_map_type.BPF_MAP_TYPE_ARRAY}
    assert sorted(ours.updates) == sorted(u for u in theirs.updates if u[0] in arrays)
    assert sorted(ours.frozen) == sorted(theirs.frozen)
    assert [p[0] for p in ours.progs] == [p[0] for p in theirs.progs]
    for mine, its in zip(ours.progs, theirs.progs, strict=True):
        if LATER and its[1]["expected_attach_type"] == bpf_attach_type.BPF_TRACE_UPROBE_MULTI:
            its[1]["expected_attach_type"] = 0  # of USDT, by libbpf where the kernel has it
        assert mine == its, f"{path}: {mine[0]}"
    return len(ours.progs)


@pytest.mark.parametrize("name", [*build.OWN, "subprogs_v3", "linked"])
def test_an_object_of_ours_is_handed_over_as_libbpf_does(name: str) -> None:
    if LATER and name in OTHERWISE:
        pytest.skip(f"libbpf {handed.version()}: {OTHERWISE[name]}")
    count = same(build.all_own()[name])
    assert (count == 0) == (name in REFUSED)


def asking_for_matches(data: bytes) -> bytes:
    """An object whose questions "is this type there?" become "does it look like this?", which the
    compiler of these tests cannot ask."""
    section = ElfObject(data, "types").section(".BTF.ext")
    assert section
    out, head = bytearray(data), section.data
    start = section.offset + struct.unpack_from("<I", head, 4)[0]
    at, size = struct.unpack_from("<II", head, 24)
    record, _, count = struct.unpack_from("<III", data, start + at)
    assert record == 16 and size == 12 + count * record, "one section"
    for row in range(count):
        kind = start + at + 12 + row * record + 12
        if out[kind] == bpf_core_relo_kind.BPF_CORE_TYPE_EXISTS:
            out[kind] = bpf_core_relo_kind.BPF_CORE_TYPE_MATCHES
    assert bytes(out) != data
    return bytes(out)


def test_questions_for_types_that_match_are_answered_as_libbpf_does(tmp_path: Path) -> None:
    path = tmp_path / "matches.bpf.o"
    path.write_bytes(asking_for_matches(build.own("types").read_bytes()))
    assert same(path) == 1


@pytest.fixture
def tools(tmp_path: Path) -> list[Path]:
    """The objects of the libbpf-tools as files: 52 in Debian 12, more in later ones."""
    paths = []
    for name, data in build.tools().items():
        paths.append(tmp_path / f"{name}.bpf.o")
        paths[-1].write_bytes(data)
    assert len(paths) == 52 or LATER and len(paths) > 52
    return paths


def test_every_object_of_the_libbpf_tools_is_handed_over_as_libbpf_does(tools: list[Path]) -> None:
    count = sum(same(path) for path in tools)
    assert count == 215 or LATER and count > 215


def test_against_the_small_btf_they_are_relocated_as_libbpf_does(
    tools: list[Path], tmp_path: Path
) -> None:
    """Most of what they ask for is not in it: existence answers no, reads are poisoned."""
    small = tmp_path / "small.btf"
    small.write_bytes(synthetic.build())
    left = {*REFUSED, *(OTHERWISE if LATER else ())}
    own = [path for name, path in build.all_own().items() if name not in left]
    assert sum(same(path, small) for path in [*tools, *own]) > 280


def test_values_of_maps_are_the_programs_and_maps_that_libbpf_puts_there() -> None:
    from libbpf_shim.client.object import Object

    for name, owner, wanted in (("progarray", "jumps", {2: "tail_two", 4: "tail_four"}),
                                ("innermaps", "outer", {1: "one", 3: "two"})):
        theirs, _ = handed.by_libbpf(build.own(name))
        place = next(i for i, (n, _) in enumerate(theirs.maps) if n == owner)
        indices = [int.from_bytes(key, "little") for at, key, _ in theirs.updates if at == place]
        specs = Object.open(build.own(name)).specs
        assert specs[owner].slots == wanted
        assert sorted(indices) == sorted(wanted)
