"""A session with a policy: programs run under their classes, in the application, nowhere else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import Outcome, run
from compat_tests.guard import launch
from compat_tests.victims import build

HERE = Path(__file__).parent
INTERFACE = """interface: app
types: {dwarf: app}
entries:
  handle: {function: app_handle, where: before, nonnull: [r],
           offers: [read(r.uri), read(r.peer.port), "read(*r.peer.name.data)", write(r.status)]}
bytes:
- {type: struct text, pointer: data, length: len, most: 64}
"""
GRANTS = """grants: test
interface: app.yaml
classes:
  watch: {entries: [handle], allow: [read(r.uri), read(r.peer.port), map(array)],
          instructions: 100}
  name: {entries: [handle], allow: ["read(*r.peer.name.data)", map(array)]}
  mark: {entries: [handle], allow: [write(r.status), map(array)]}
bindings:
- {class: watch, name: watch_uri}
- {class: watch, name: watch_many}
- {class: name, name: watch_name}
- {class: mark, name: mark_status}
"""
SKIP_INTERFACE = """interface: skip
types: {dwarf: app}
entries:
  rule: {function: app_rule, where: instead, nonnull: [item], override: "in [400, 499]"}
  caller: {function: app_caller, where: instead, nonnull: [item], override: "in [400, 499]"}
  bump: {function: app_bump, where: instead, nonnull: [item], override: skip}
  done: {function: app_rule, where: after}
  called: {function: app_caller, where: after}
"""
SKIP_GRANTS = """grants: test
interface: app.yaml
classes:
  see: {entries: [rule, caller], allow: [read(item.number), map(array)]}
  refuse: {extends: see, override: "in {403, 404}"}
  bumps: {entries: [bump], allow: [read(item.number)], override: true}
  counted: {extends: refuse, allow: [helper(loop)], instructions: 1000, budget: counter,
            default: 403}
  within: {extends: refuse, instructions: 200, budget: counter, default: 403, isolation: sfi}
  results: {entries: [done, called], allow: [read(rtn), map(array)]}
bindings:
- {class: refuse, name: skip_rule}
- {class: refuse, name: skip_many}
- {class: refuse, name: skip_all}
- {class: bumps, name: skip_bump}
- {class: see, name: "see_[ab]*"}
- {class: see, name: plain}
- {class: counted, name: spin}
- {class: within, name: spin_within}
- {class: results, name: see_return}
"""
# What it imports is in the product, or beside it
CODE = ("import os, runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(0); "
        "sys.path.append(os.path.dirname(sys.argv[0])); "
        "runpy.run_path(sys.argv[0], run_name='__main__')")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    found = build.private_copy({
        "app": build.make("eim-app", [HERE / "app.c"], ["-g", "-O1"]),
        "ext.bpf.o": build.make("eim-ext.bpf.o", [HERE / "ext.bpf.c"], build.BPF_FLAGS,
                                compiler=build.CLANG),
        "checks.py": HERE / "checks.py"})
    (found / "app.yaml").write_text(INTERFACE)
    yield found
    shutil.rmtree(found)


@pytest.fixture(scope="module")
def skips() -> Iterator[Path]:
    found = build.private_copy({
        "app": build.make("eim-skip-app", [HERE / "skip_app.c"], ["-g", "-O1"]),
        "ext.bpf.o": build.make("eim-skip.bpf.o", [HERE / "skip.bpf.c"], build.BPF_FLAGS,
                                compiler=build.CLANG),
        "checks.py": HERE / "skips.py"})
    (found / "app.yaml").write_text(SKIP_INTERFACE)
    yield found
    shutil.rmtree(found)


def checked(folder: Path, grants: str, name: str = "grants.yaml") -> Outcome:
    (folder / name).write_text(grants)
    for path in ("app.yaml", name):
        (folder / path).chmod(0o644)
    product = launch.product()
    return run(launch.guarded(
        [str(product / ".venv/bin/python"), "-I", "-c", CODE, str(product),
         *(f"{folder}/{name}" for name in ("checks.py", "ext.bpf.o", "app")),
         str(launch.library())], env={"LIBBPF_SHIM_POLICY": f"{folder}/{name}"}))


def test_programs_run_under_their_classes_and_nowhere_else(folder: Path) -> None:
    done = checked(folder, GRANTS)
    assert (done.status, done.out) == (0, "fine\n"), done
    lines = [line for line in done.err.splitlines() if "not an entry of the class" in line]
    for who in ("watch_uri of class watch", "watch_many of class watch"):
        mine = [line for line in lines if f"program {who}: {folder}/app+0x" in line]
        assert len(mine) == 2 and all("(it has handle)" in line for line in mine), done.err
    assert "program stranger: " in done.err and "bound to no class" in done.err


def test_what_is_not_granted_is_not_loaded(folder: Path) -> None:
    done = checked(folder, GRANTS.replace("read(r.peer.port), ", ""))
    assert done.status and "classes.watch.allow: - read(r.peer)" in done.err, done


def test_who_is_not_let_in_for_want_of_a_class_is_told_so(folder: Path) -> None:
    """What the verifier says, and the log, is of the memory that no class grants."""
    done = checked(folder, GRANTS.replace("name: watch_uri", "name: nobody"), "nobody.yaml")
    line = f"libbpf_shim: program watch_uri: not loaded: bound to no class in {folder}/nobody.yaml"
    assert done.status and done.err.splitlines().count(line) == 1, done


def test_a_policy_with_a_mistake_serves_nobody(folder: Path) -> None:
    done = checked(folder, GRANTS.replace("read(r.uri)", "read(r.url)"), "wrong.yaml")
    assert done.status and "struct request has no field url" in done.err, done


def test_a_function_is_skipped_and_returns_what_its_class_may_say(skips: Path) -> None:
    done = checked(skips, SKIP_GRANTS)
    assert (done.status, done.out) == (0, "fine\n"), done
