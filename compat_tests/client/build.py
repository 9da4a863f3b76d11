"""The objects of these tests: 22 of our own, and those inside the libbpf-tools."""

from __future__ import annotations

import functools
import hashlib
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.victims import build

HERE = Path(__file__).resolve().parent
OBJECTS = HERE / "objects"
FLAGS = build.BPF_FLAGS
OWN = sorted(p.name.removesuffix(".bpf.c") for p in OBJECTS.glob("*.bpf.c"))
EM_BPF, ET_REL = 247, 1


@functools.cache
def own(name: str, cpu: str = "") -> Path:
    """One object of objects/; cpu: the -mcpu it is compiled for, "" being the compiler's own."""
    flags = [f for f in FLAGS if not (name == "untyped" and f == "-g")]
    flags += [f"-I{OBJECTS}", *([f"-mcpu={cpu}"] if cpu else [])]
    core = OBJECTS / "core.h"
    digest = hashlib.sha256(core.read_bytes()).hexdigest()[:16]
    return build.make(f"{name}.bpf.o", [OBJECTS / f"{name}.bpf.c"],
                      [*flags, f"-DCORE_H=0x{digest}"], compiler=build.CLANG)


@functools.cache
def linked() -> Path:
    """Two files made one by libbpf's static linker."""
    parts = [build.make(f"{n}.o", [OBJECTS / "linked" / f"{n}.bpf.c"], [*FLAGS, f"-I{OBJECTS}"],
                        compiler=build.CLANG) for n in "ab"]
    target = parts[0].with_name("linked.bpf.o")
    if not target.exists():
        subprocess.run(["bpftool", "gen", "object", target, *parts], check=True, timeout=60)
    return target


def all_own() -> dict[str, Path]:
    """Name -> file of every object of ours."""
    return {**{name: own(name) for name in OWN}, "subprogs_v3": own("subprogs", "v3"),
            "linked": linked()}


def embedded(binary: Path) -> Iterator[bytes]:
    """The BPF objects inside a binary: its skeletons' data."""
    data, at = binary.read_bytes(), 1
    while (at := data.find(b"\x7fELF\x02\x01\x01", at)) >= 0:
        if struct.unpack_from("<HH", data, at + 16) == (ET_REL, EM_BPF):
            headers = struct.unpack_from("<Q", data, at + 40)[0]
            count = struct.unpack_from("<H", data, at + 60)[0]
            yield data[at : at + headers + 64 * count]
        at += 1


@functools.cache
def tools() -> dict[str, bytes]:
    """Name -> object of each distinct one in the libbpf-tools."""
    listing = subprocess.run(["dpkg", "-L", "libbpf-tools"], capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("libbpf-tools is not installed")
    found: dict[str, bytes] = {}
    seen: set[str] = set()
    for line in sorted(listing.stdout.split()):
        path = Path(line)
        if "sbin" not in path.parts or not path.is_file():
            continue
        for data in embedded(path):
            digest = hashlib.sha256(data).hexdigest()
            if digest not in seen:
                seen.add(digest)
                found[path.name] = data
    return found
