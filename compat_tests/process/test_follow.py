"""Process trees that `bpf-shim run` starts: programs get the library whatever environment their
parents give them, and nothing else of theirs changes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM, Terminal, run
from compat_tests.guard import launch
from compat_tests.process import programs

WAYS = ("execve", "execv", "execvp", "execvpe", "execl", "execlp", "execle", "fexecve",
        "execveat", "vfork", "spawn", "spawnp")  # fmt: skip


def sections(text: str) -> dict[str, list[str]]:
    """The environment that each function's program printed."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line in WAYS:
            name = line
            found[name] = []
        else:
            found[name].append(line)
    return found


@pytest.fixture(scope="module")
def plain() -> dict[str, list[str]]:
    outcome = run(launch.guarded([str(programs.spawner())]))
    assert outcome.status == 0, outcome
    return sections(outcome.out)


def test_the_spawner_gives_an_environment_of_two(plain: dict[str, list[str]]) -> None:
    assert plain == {name: [f"EMPTY={name}", "LAST=1"] for name in WAYS}


def test_each_way_to_start_a_program_keeps_the_library(plain: dict[str, list[str]]) -> None:
    outcome = run(launch.shim_run([str(programs.spawner())]))
    assert outcome.status == 0, outcome
    ours = [f"LD_PRELOAD={launch.library()}", "LIBBPF_SHIM_FOLLOW=1"]
    wanted = {name: [lines[0], *ours, lines[1]] for name, lines in plain.items()}
    assert sections(outcome.out) == wanted


def test_without_run_an_empty_environment_stays_empty(plain: dict[str, list[str]]) -> None:
    outcome = run(launch.guarded([str(programs.spawner())], preload=True))
    assert outcome.status == 0, outcome
    assert sections(outcome.out) == plain


def test_another_preloaded_library_is_kept() -> None:
    other = "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libdl.so.2"
    outcome = run(launch.shim_run(["env", "-i", other, "/usr/bin/env"]))
    assert outcome.out.splitlines() == [
        f"LD_PRELOAD={launch.library()}:{other.partition('=')[2]}", "LIBBPF_SHIM_FOLLOW=1"]


def test_programs_behind_env_i_are_counted(victim: Path) -> None:
    """One in the tree, three levels deep, each with an empty environment."""
    counted = f"uprobe:{victim}/calls:v_tick {{ @ = count(); }} BEGIN {{ printf(\"READY\\n\"); }}"
    with Terminal(SHIM.tool(["bpftrace", "-e", counted])) as tool:
        tool.until(b"READY")
        script = f"env -i /bin/sh -c 'exec env -i {victim}/calls -n 25'"
        outcome = run(launch.shim_run(["env", "-i", "/bin/sh", "-c", script]))
        assert outcome.status == 0, outcome
        out = tool.interrupt()
    assert re.search(r"^@: 25\s*$", out, re.M), out


@pytest.mark.parametrize("order", ["1", "0"])
def test_a_sanitized_program_wants_to_be_told_of_the_library(order: str) -> None:
    """It ends if anything is loaded before its own runtime: docs/parity.md."""
    program = programs.alone("sanitized")
    argv = ["bpftrace", "-e", f"uprobe:{program}:mark {{ @ = count(); }}", "-c", str(program)]
    outcome = run(launch.guarded(argv, preload=True, env={
        "ASAN_OPTIONS": f"verify_asan_link_order={order}:detect_leaks=0"}))
    assert ("does not come first" in outcome.err) == (order == "1"), outcome
    assert ("\n@: 5\n" in outcome.out) == (order == "0"), outcome
