"""The commands of README.md and of docs/howto/inspect-with-bpftool.md, as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import run
from compat_tests.guard import launch
from compat_tests.victims.build import BPF_FLAGS, CLANG

ROOT = Path(__file__).resolve().parents[2]
README, INSPECT = ROOT / "README.md", ROOT / "docs" / "howto" / "inspect-with-bpftool.md"
TOOL = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} limits SEC(".maps");
SEC("uprobe") int on_open(void *ctx)
{
	__u32 key = 7;
	__u64 one = 1;
	return bpf_map_update_elem(&counts, &key, &one, 0);
}
SEC("xdp") int parse(struct xdp_md *ctx)
{
	__u32 key = 1, *limit = bpf_map_lookup_elem(&limits, &key);
	return limit && *limit == 9 ? XDP_DROP : XDP_PASS;
}
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture
def desk() -> Iterator[Path]:
    """A folder of the guard's user with the files that the pages name, bpf-shim beside it."""
    top = Path(tempfile.mkdtemp(prefix="pages-", dir="/tmp"))
    top.chmod(0o755)
    for name in ("bin", "work", "run"):
        (top / name).mkdir(mode=0o755)
    product = launch.product()
    (top / "bin" / "bpf-shim").write_text(
        f"#!/bin/sh\nPYTHONPATH={product} exec {product}/.venv/bin/python -m libbpf_shim \"$@\"\n")
    (top / "bin" / "bpf-shim").chmod(0o755)
    work = top / "work"
    (work / "x.sh").write_text("for ((i = 0; i < 3; i++)); do :; done\n")
    (work / "packet.bin").write_bytes(bytes(64))
    (work / "tool.bpf.c").write_text(TOOL)
    subprocess.run([CLANG, *BPF_FLAGS, work / "tool.bpf.c", "-o", work / "tool.bpf.o"],
                   check=True)
    for path in work.iterdir():
        path.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(top / "run", launch.UID, launch.UID)
        os.chown(work, launch.UID, launch.UID)
    yield top
    shutil.rmtree(top)


def in_shell(desk: Path, *lines: str) -> str:
    """What they print, each line's status checked."""
    script = "\n".join([f"cd {desk}/work; PATH={desk}/bin:$PATH; set -e", *lines])
    done = run(launch.guarded(["/bin/bash", "-c", script],
                              env={"XDG_RUNTIME_DIR": str(desk / "run")}), 120)
    assert done.status == 0, (lines, done)
    return done.out


def commands(page: Path) -> list[str]:
    return re.findall(r"^\t(bpf-shim .*)$", page.read_text(), re.M)


def test_first_command_of_the_readme(desk: Path) -> None:
    first = next(line for line in commands(README) if " run " in line)
    out = in_shell(desk, first)
    assert "@[i < 3]: 4" in out and "@[i++]: 3" in out


@pytest.mark.timeout(120)
def test_inspecting_with_bpftool(desk: Path) -> None:
    look, use, ours = (re.findall(r"^\t(bpf-shim .*)$", part, re.M) for part in
                       re.split(r"^It also|^## Without", INSPECT.read_text(), flags=re.M))
    assert (len(look), len(use), len(ours)) == (5, 5, 4)
    load = "bpf-shim load tool.bpf.o --pin other"
    fill = "bpf-shim run -- bpftool map update name counts key 7 0 0 0 value 1 0 0 0 0 0 0 0"
    end = "bpf-shim run -- rm -r /sys/fs/bpf/other"
    out = in_shell(desk, load, fill, *look, *ours, end)
    assert '"key": 7' in out and "bpf_map_update_elem" in out and "typedef" in out
    assert "\tpush\t" in out or "\tmov\t" in out  # dump jited
    out = in_shell(desk, *use[:3], use[1], *use[3:], "bpf-shim run -- rm -r /sys/fs/bpf/maps")
    assert re.findall(r"Return value: (\d)", out) == ["2", "1"]
    assert out.endswith("on_open\nparse\n")
    assert in_shell(desk, "bpf-shim prog list", "bpf-shim map list") == ""
