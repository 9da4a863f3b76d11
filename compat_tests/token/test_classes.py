"""Tokens that name classes, in a session with a key and a policy (compat_tests/eim/session)."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import Outcome, run
from compat_tests.eim.session import test_session as session
from compat_tests.guard import launch
from compat_tests.token.test_surface import Desk
from compat_tests.victims import build
from libbpf_shim.token.claims import Claims

FREE = session.GRANTS.partition("bindings:")[0] + "bindings: []\n"


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    made = Desk()
    made.folder.chmod(0o711)
    for name, path in {
            "app": build.make("eim-app", [session.HERE / "app.c"], ["-g", "-O1"]),
            "ext.bpf.o": build.make("eim-ext.bpf.o", [session.HERE / "ext.bpf.c"],
                                    build.BPF_FLAGS, compiler=build.CLANG),
            "one.py": Path(__file__).with_name("one_program.py")}.items():
        shutil.copy(path, made.folder / name)
        (made.folder / name).chmod(0o755)
    (made.folder / "app.yaml").write_text(session.INTERFACE)
    (made.folder / "app.yaml").chmod(0o644)
    yield made
    shutil.rmtree(made.folder)


def attached(desk: Desk, grants: str, program: str, *steps: tuple[str, ...]) -> Outcome:
    """The program loaded and attached to app_handle by a loader whose token's steps name these."""
    policy = desk.folder / "grants.yaml"
    policy.write_text(grants)
    policy.chmod(0o644)
    product = launch.product()
    token = desk.token("token", *(Claims(classes=one) for one in steps))
    return run(launch.guarded(
        [str(product / ".venv/bin/python"), "-I", "-c", session.CODE, str(product),
         *(str(desk.folder / name) for name in ("one.py", "ext.bpf.o", "app")), program],
        env={"LIBBPF_SHIM_POLICY": str(policy), "LIBBPF_SHIM_TOKEN_KEY": str(desk.key),
             "LIBBPF_BPF_TOKEN_PATH": str(token)}))


@pytest.mark.parametrize(("grants", "program", "classes", "said"), [
    # bound by the policy, and granted
    (session.GRANTS, "watch_uri", ("mark", "watch"), "attached"),
    # bound by the policy, and not granted
    (session.GRANTS, "watch_uri", ("mark",), "not loaded 1"),
    # bound by the token alone: its one class decides what the program may do
    (FREE, "watch_uri", ("watch",), "attached"),
    pytest.param(FREE, "mark_status", ("mark",), "attached", marks=pytest.mark.long),
    (FREE, "mark_status", ("watch",), "not loaded 13"),
    # several, or one that is not there: it runs nowhere
    (FREE, "stranger", ("mark", "watch"), "not attached 1"),
    pytest.param(FREE, "stranger", ("other",), "not attached 1", marks=pytest.mark.long),
], ids=["bound", "bound to another", "by token", "by token too", "held to it", "several",
        "unknown"])
def test_a_program_has_the_class_that_policy_and_token_give_it(
    desk: Desk, grants: str, program: str, classes: tuple[str, ...], said: str
) -> None:
    done = attached(desk, grants, program, classes)
    assert (done.status, done.out.strip()) == (0, said), done


def test_a_later_step_gives_no_class(desk: Desk) -> None:
    """Of a program that the first one leaves without."""
    done = attached(desk, FREE, "stranger", ("mark", "watch"), ("watch",))
    assert (done.status, done.out.strip()) == (0, "not attached 1"), done


def test_the_log_names_the_class_that_is_missing(desk: Desk) -> None:
    attached(desk, session.GRANTS, "watch_uri", ("mark",))
    lines = [json.loads(line) for line in
             desk.key.with_name("key.audit").read_text().splitlines()]
    last = [line for line in lines if line["op"] == "load"][-1]
    assert (last["verdict"], last["missing"]) == ("refused", "class watch")
    assert last["what"] == "watch_uri" and last["uid"] == launch.UID and len(last["tag"]) == 16
    assert os.stat(desk.key.with_name("key.audit")).st_mode & 0o077 == 0
