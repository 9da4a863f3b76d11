"""Classes that are isolated in a session with a policy: loader, backend and application are those
that there are."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import Outcome, run
from compat_tests.eim.session.test_session import CODE, GRANTS, INTERFACE
from compat_tests.eim.session.test_session import HERE as SESSION
from compat_tests.guard import launch
from compat_tests.victims import build

HERE = Path(__file__).parent
ISOLATED = re.sub(r"(?m)^(  \w+: \{)", r"\1isolation: auto, ", GRANTS)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    found = build.private_copy({
        "app": build.make("eim-app", [SESSION / "app.c"], ["-g", "-O1"]),
        "ext.bpf.o": build.make("eim-ext.bpf.o", [SESSION / "ext.bpf.c"], build.BPF_FLAGS,
                                compiler="clang-14"),
        "checks.py": SESSION / "checks.py", "contained.py": HERE / "contained.py"})
    (found / "app.yaml").write_text(INTERFACE)
    (found / "grants.yaml").write_text(ISOLATED)
    for path in ("app.yaml", "grants.yaml"):
        (found / path).chmod(0o644)
    yield found
    shutil.rmtree(found)


def checked(folder: Path, script: str) -> Outcome:
    product = launch.product()
    return run(launch.guarded(
        [str(product / ".venv/bin/python"), "-I", "-c", CODE, str(product),
         *(f"{folder}/{name}" for name in (script, "ext.bpf.o", "app")),
         str(launch.library())], env={"LIBBPF_SHIM_POLICY": f"{folder}/grants.yaml"}))


def test_isolated_programs_do_what_others_do(folder: Path) -> None:
    done = checked(folder, "checks.py")
    assert (done.status, done.out) == (0, "fine\n"), done


def test_one_that_leaves_its_window_is_ended_detached_and_told_of(folder: Path) -> None:
    done = checked(folder, "contained.py")
    assert (done.status, done.out) == (0, "fine\n"), done
