"""Classes that are isolated in a session with a policy: loader, backend and application are those
that there are."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import Outcome, run
from compat_tests.eim.session.test_session import (
    CODE,
    GRANTS,
    INTERFACE,
    SKIP_GRANTS,
    SKIP_INTERFACE,
)
from compat_tests.eim.session.test_session import HERE as SESSION
from compat_tests.guard import launch
from compat_tests.victims import build
from libbpf_shim.uapi import machine

HERE = Path(__file__).parent
SFI = "sfi" if machine.has_keys() else "auto"  # which is mpk where there are keys


def isolated(grants: str) -> str:
    """All classes of it that do not say how."""
    return re.sub(r"(?m)^(  \w+: \{)(?!.*isolation:)", rf"\1isolation: {SFI}, ", grants)


ISOLATED = isolated(GRANTS)
SKIPS = isolated(SKIP_GRANTS).replace("interface: app.yaml", "interface: skip.yaml")
TAIL = """grants: test
interface: app.yaml
classes:
  tail: {entries: [handle], isolation: sfi, allow: ["helper(*)", "map(*)"]}
  other: {extends: tail, isolation: sfi}
bindings:
- {class: tail, name: "*call*"}
- {class: other, name: of_another}
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    found = build.private_copy({
        "app": build.make("eim-app", [SESSION / "app.c"], ["-g", "-O1"]),
        "ext.bpf.o": build.make("eim-ext.bpf.o", [SESSION / "ext.bpf.c"], build.BPF_FLAGS,
                                compiler=build.CLANG),
        "tail.bpf.o": build.make("isolation-tail.bpf.o", [HERE / "tail.bpf.c"], build.BPF_FLAGS,
                                 compiler=build.CLANG),
        "skip.bpf.o": build.make("eim-skip.bpf.o", [SESSION / "skip.bpf.c"], build.BPF_FLAGS,
                                 compiler=build.CLANG),
        "skip": build.make("eim-skip-app", [SESSION / "skip_app.c"], ["-g", "-O1"]),
        "checks.py": SESSION / "checks.py", "contained.py": HERE / "contained.py",
        "spoiled.py": HERE / "spoiled.py", "tail.py": HERE / "tail.py",
        "skips.py": SESSION / "skips.py"})
    for name, text in (("app.yaml", INTERFACE), ("grants.yaml", ISOLATED), ("tail.yaml", TAIL),
                       ("skip.yaml", SKIP_INTERFACE.replace("dwarf: app", "dwarf: skip")),
                       ("skips.yaml", SKIPS)):
        (found / name).write_text(text)
        (found / name).chmod(0o644)
    yield found
    shutil.rmtree(found)


def checked(folder: Path, script: str, grants: str = "grants.yaml", object_: str = "ext.bpf.o",
            app: str = "app") -> Outcome:
    product = launch.product()
    return run(launch.guarded(
        [str(product / ".venv/bin/python"), "-I", "-c", CODE, str(product),
         *(f"{folder}/{name}" for name in (script, object_, app)),
         str(launch.library())], env={"LIBBPF_SHIM_POLICY": f"{folder}/{grants}"}))


def test_isolated_programs_do_what_others_do(folder: Path) -> None:
    done = checked(folder, "checks.py")
    assert (done.status, done.out) == (0, "fine\n"), done


def test_one_that_leaves_its_window_is_ended_detached_and_told_of(folder: Path) -> None:
    done = checked(folder, "contained.py")
    assert (done.status, done.out) == (0, "fine\n"), done


def test_isolated_programs_skip_functions(folder: Path) -> None:
    done = checked(folder, "skips.py", "skips.yaml", "skip.bpf.o", "skip")
    assert (done.status, done.out) == (0, "fine\n"), done


def test_isolated_programs_call_those_of_their_class(folder: Path) -> None:
    """One that is called and leaves its window is taken out of the array, and not put back."""
    done = checked(folder, "tail.py", "tail.yaml", "tail.bpf.o")
    assert (done.status, done.out) == (0, "fine\n"), done
