"""Stacks by build-id and file offset are the kernel's, where the module has one."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.victims import build
from libbpf_shim.elf.module import Module

HERE = Path(__file__).parent


@pytest.mark.parametrize("way", [SHIM, pytest.param(KERNEL, marks=[pytest.mark.kernel])],
                         ids=lambda way: way.name)
def test_frames_are_offsets_in_the_files_they_are_of(way: Way) -> None:
    flags = [*build.WARN, "-O1", "-fcf-protection=none", "-rdynamic", "-fno-omit-frame-pointer",
             "-Wl,--build-id=sha1"]
    folder = build.private_copy({
        "load": build.make("load", [HERE / "load.c"], [*build.WARN, "-O1"], ["-lbpf"]),
        "spoken": build.make("spoken", [HERE / "spoken.c"], flags),
        "where.bpf.o": build.make("where.bpf.o", [HERE / "where.bpf.c"], build.BPF_FLAGS,
                                  compiler=build.CLANG)})
    try:
        outcome = run(way.tool([f"{folder}/load", f"{folder}/where.bpf.o", f"{folder}/spoken",
                                f"{folder}/spoken 3"]))
        assert outcome.status == 0, outcome
        out = {int(at): int(n) for at, n in re.findall(r"out\[(\d)\] (\d+)", outcome.out)}
        module = Module(str(folder / "spoken"))
        flooded = module.find("flooded")
        head = int.from_bytes(module.build_id[:8], "little")
        assert flooded and len(module.build_id) == 20
        assert out[0] == 64 and out[7] == 1
        assert (out[1], out[2], out[3]) == (1, module.vaddr_to_offset(flooded.vaddr), head)
        # the caller, or (where flooded has no frame yet) the caller's, which is in libc
        libc = Module(os.path.realpath("/lib/x86_64-linux-gnu/libc.so.6"))
        heads = {head: module, int.from_bytes(libc.build_id[:8], "little"): libc}
        assert out[4] == 1 and heads[out[6]].offset_to_vaddr(out[5])
    finally:
        shutil.rmtree(folder)
