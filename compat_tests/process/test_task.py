"""What programs find behind bpf_get_current_task(): each field is what the thread itself says, and
what the kernel shows."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Session, Way, run
from compat_tests.process import programs
from compat_tests.victims import build

WAYS = [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
        pytest.param(SHIM, id="shim")]
STAGES = 9
VMLINUX = "/sys/kernel/btf/vmlinux"
EFAULT = 14
TICK = 10_000_000  # ns: what /proc tells a start in
_SEEN = struct.Struct("<3Q8i10I4i16s16s16s16s")
_NAMES = ("hits", "start", "none", "pid", "tgid", "parent", "leader", "prio", "static_prio",
          "exit_code", "same", "state", "mnt", "uts", "user", "uid", "euid", "suid", "fsuid",
          "gid", "egid", "bad", "bad_user", "legacy", "pad", "comm", "leader_comm",
          "parent_comm", "own_comm")  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """What the thread said of itself, and what the program saw."""

    said: dict[str, str]
    seen: dict[str, int | str]


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy(programs.tasks())
    yield place
    shutil.rmtree(place)


def _said(text: str) -> dict[int, dict[str, str]]:
    """By stage; values may hold blanks, names do not."""
    found = {}
    for line in text.splitlines():
        if line.startswith("stage="):
            values: dict[str, str] = {}
            name = ""
            for word in line.split(" "):
                if "=" in word:
                    name, _, values[name] = word.partition("=")
                else:
                    values[name] += f" {word}"
            found[int(values["stage"])] = values
    return found


def _seen(line: str) -> dict[str, int | str]:
    values = _SEEN.unpack(bytes.fromhex(line))
    return {name: value.split(b"\0")[0].decode() if isinstance(value, bytes) else value
            for name, value in zip(_NAMES, values, strict=True)}


def stages(way: Way, folder: Path, before: list[str] | None = None) -> list[Stage]:
    """All of them, of one run of the victim. before: what the loader is to be started by."""
    watch = [str(folder / "watch"), str(folder / "task.bpf.o"), str(folder / "tasks"), "mark",
             "seen", str(_SEEN.size), str(STAGES)]
    with Session([*(before or []), *way.tool(watch)], stdin=subprocess.PIPE) as session:
        session.until(b"READY\n")
        target = run(way.target([str(folder / "tasks")]))
        assert target.status == 0, target
        session.seen = b""
        session.send(b"\n")
        session.until(b"END\n")
        lines = session.seen.decode().splitlines()[:STAGES]
    said = _said(target.out)
    assert sorted(said) == list(range(STAGES)), target
    return [Stage(said[n], _seen(line)) for n, line in enumerate(lines)]


def check(stage: Stage) -> None:
    """Field by field."""
    said, seen = stage.said, stage.seen
    assert seen["hits"] == 1, stage
    for name in ("pid", "tgid", "parent", "leader", "prio", "static_prio", "mnt", "uts", "user",
                 "uid", "euid", "suid", "fsuid", "gid", "egid"):  # fmt: skip
        assert seen[name] == int(said[name]), (name, stage)
    for name in ("comm", "leader_comm", "parent_comm"):
        assert seen[name] == said[name], (name, stage)
    assert seen["own_comm"] == said["comm"], stage
    assert (seen["exit_code"], seen["state"]) == (0, 0), stage
    assert seen["same"] == 1, stage
    assert (seen["bad"], seen["bad_user"]) == (-EFAULT, -EFAULT), stage
    assert seen["legacy"] == seen["pid"], stage
    start = int(said["start"]) * TICK
    assert start - TICK <= int(seen["start"]) < start + 2 * TICK, stage


@pytest.mark.parametrize("way", WAYS)
def test_a_task_is_what_its_thread_says_of_itself(way: Way, folder: Path) -> None:
    """At its start, under another name, in a thread, a fork child, an orphan, as another user, in
    namespaces of its own, after an exec."""
    for stage in stages(way, folder):
        check(stage)


@pytest.mark.skipif(os.getuid() != 0, reason="hides a file: needs root")
def test_a_task_is_the_same_where_the_machine_hides_its_types(folder: Path) -> None:
    """Loaders are then shown the synthetic BTF, whose layout is another one."""
    hidden = folder / "hidden"
    hidden.write_bytes(b"")
    hidden.chmod(0)
    before = ["unshare", "-m", "sh", "-c", f"mount --bind {hidden} {VMLINUX}; exec \"$@\"", "sh"]
    for stage in stages(SHIM, folder, before):
        check(stage)
