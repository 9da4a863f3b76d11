"""`bpf-shim load`: what it prints and its exit codes, as an unprivileged user."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.client import build
from compat_tests.clients.tool import Outcome, Session, run
from compat_tests.guard import launch
from compat_tests.victims.build import BPF_FLAGS, CLANG, VICTIM_FLAGS, make, private_copy

LIMIT = 60.0
SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__u64 hits;

SEC("uprobe/%s:work")
int on_work(void *ctx)
{
	__sync_fetch_and_add(&hits, 1);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """live.bpf.o, refused.bpf.o, a victim, and attached.bpf.o whose section names the victim."""
    victim = make("victim", [build.HERE / "victim.c"], VICTIM_FLAGS)
    place = private_copy({"live.bpf.o": build.own("live"), "victim": victim,
                          "refused.bpf.o": build.own("refused")})
    source = tmp_path / "attached.bpf.c"
    source.write_text(SOURCE % (place / "victim"))
    subprocess.run([CLANG, *BPF_FLAGS, source, "-o", place / "attached.bpf.o"], check=True)
    (place / "attached.bpf.o").chmod(0o644)
    yield place
    shutil.rmtree(place)


def command(*arguments: object, env: dict[str, str] | None = None) -> list[str]:
    python = str(launch.product() / ".venv" / "bin" / "python")
    code = ("import sys; sys.path.insert(0, sys.argv.pop(1)); "
            "from libbpf_shim.cli import main; sys.exit(main())")
    return launch.guarded([python, "-I", "-c", code, str(launch.product()), "load",
                           *map(str, arguments)], env=env)


def load(*arguments: object, env: dict[str, str] | None = None) -> Outcome:
    return run(command(*arguments, env=env), LIMIT)


def test_an_object_that_loads_is_shown(folder: Path) -> None:
    done = load(folder / "live.bpf.o")
    assert done.status == 0, done
    lines = done.out.splitlines()
    assert any(line.startswith("program hit: kprobe  SEC(uprobe)") for line in lines), done
    wanted = "map plain: hash  key 4B  value 4B  max_entries 4"
    assert any(line.startswith(wanted) for line in lines)
    assert "refused" not in done.out, "it is loaded on demand alone"


def test_as_json_it_is_one_object(folder: Path) -> None:
    done = load("-j", folder / "live.bpf.o")
    found = json.loads(done.out)
    assert {row["name"] for row in found["programs"]} >= {"hit", "sum", "tick"}
    assert {row["type"] for row in found["maps"]} >= {"hash", "queue", "array_of_maps"}


def test_a_refused_program_is_exit_1_with_the_verifiers_log(folder: Path) -> None:
    done = load(folder / "refused.bpf.o")
    assert done.status == 1 and not done.out, done
    assert "invalid mem access" in done.err and "processed" in done.err
    assert "program wild: not loaded" in done.err


@pytest.mark.parametrize("name", ["nosuch.bpf.o", "victim"])
def test_what_is_no_object_is_exit_2(name: str, folder: Path) -> None:
    done = load(folder / name)
    assert done.status == 2 and not done.out and name.split(".")[0] in done.err, done


def test_where_no_backend_can_be_it_is_exit_3(folder: Path) -> None:
    done = load(folder / "live.bpf.o", env={"XDG_RUNTIME_DIR": "/proc"})
    assert done.status == 3 and not done.out, done


def test_pins_are_there_for_other_loaders(folder: Path) -> None:
    pinned = "/sys/fs/bpf/loaded"
    done = load("--pin", "loaded", folder / "live.bpf.o")
    assert done.status == 0, done
    shown = run(launch.guarded(["bpftool", "map", "show", "pinned", f"{pinned}/plain"],
                               preload=True), LIMIT)
    assert shown.status == 0 and "name plain" in shown.out, shown
    again = load("--pin", "loaded", folder / "live.bpf.o")
    assert again.status == 1 and "File exists" in again.err, again
    gone = run(launch.guarded(["rm", "-r", pinned], preload=True), LIMIT)
    assert gone.status == 0, gone


def test_attached_it_stays_until_it_is_told_to_end(folder: Path) -> None:
    with Session(command("--attach", folder / "attached.bpf.o")) as loader:
        loader.until(b"attached")
        target = run(launch.guarded([str(folder / "victim"), "7"], preload=True), LIMIT)
        assert target.status == 0
        listed = run(launch.guarded(["bpftool", "link", "list"], preload=True), LIMIT)
        assert "perf_event" in listed.out, listed
        loader.child.send_signal(signal.SIGTERM)
        assert loader.end().status == 0
    assert "perf_event" not in run(
        launch.guarded(["bpftool", "link", "list"], preload=True), LIMIT).out


def test_what_cannot_be_attached_by_itself_is_exit_1(folder: Path) -> None:
    done = load("--attach", folder / "live.bpf.o")
    assert done.status == 1 and "attach_uprobe" in done.err, done
