"""bpf-shim serve: loaders of other users extend an application as its manager's policy says."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import run
from compat_tests.guard import launch
from compat_tests.serve import attacks
from compat_tests.serve.intruder import Failed, Intruder
from compat_tests.serve.world import (
    ALICE,
    BOB,
    GRANTS,
    INTERFACE,
    MANAGER,
    World,
    as_user,
    shim,
)
from libbpf_shim.backend.serving import checked
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError
from libbpf_shim.token.claims import Claims

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="three users: needs root")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def extend(who: Intruder, world: World, *programs: str) -> None:
    who.do(attacks.extend, f"{world.folder}/ext.bpf.o", f"{world.folder}/app", *programs)


def refused(who: Intruder, world: World, program: str) -> int:
    """The errno with which the program is not loaded or attached."""
    with pytest.raises(Failed) as failed:
        extend(who, world, program)
    return failed.value.errno


def test_programs_of_two_users_run_under_their_classes_and_leave(world: World) -> None:
    alice, bob = world.begin(ALICE, "watch_uri"), world.begin(BOB, "mark_status")
    for loader in (alice, bob):
        assert loader.stdout and loader.stdout.readline() == "ready\n", loader.communicate()
    assert world.application.handle(7) == 403
    assert bob.communicate("", 60)[0] == "0 0\n"
    assert alice.communicate("", 60)[0] == "100 700\n"
    admitted = [(row["uid"], row["op"], row["what"], row["class"]) for row in world.log()
                if row["verdict"] == "admitted" and row["op"] in ("load", "attach")]
    assert (ALICE, "load", "watch_uri", "watch") in admitted
    assert (BOB, "load", "mark_status", "mark") in admitted
    places = [row for row in admitted if row[1] == "attach"]
    assert len(places) == 2 and all(f"{world.folder}/app+0x" in row[2] for row in places)


def test_a_loader_without_a_grant_attaches_to_nothing(world: World) -> None:
    done = world.loader(ALICE, "stranger")
    assert done.status == 1 and "EPERM" in done.err, done
    last = world.log()[-1]
    assert (last["verdict"], last["uid"], last["op"]) == ("refused", ALICE, "attach"), last
    assert len(last["tag"]) == 16 and "bound to no class" in last["missing"], last
    assert world.application.handle() == 200


def test_a_policy_that_changes_holds_for_what_is_loaded_next(world: World) -> None:
    with world.intruder(BOB) as before, world.intruder(BOB) as after:
        extend(before, world, "mark_status")
        try:
            world.grant(GRANTS.replace(f"users: [{BOB}]", f"users: [{ALICE}]"))
            assert refused(after, world, "mark_status") == errno.EACCES
            assert world.application.handle() == 403  # what is there stays
            world.grant(GRANTS.replace("read(r.uri.len)", "read(r.url)"))
            assert refused(after, world, "mark_status") == errno.EPERM
            assert "no field url" in world.refusal(BOB)["missing"]
        finally:
            world.grant(GRANTS)
        before.do(attacks.leave)
        extend(after, world, "mark_status")
        assert world.application.handle() == 403
        after.do(attacks.leave)
    assert world.application.handle() == 200


def _workers(backend: int) -> list[int]:
    children = Path(f"/proc/{backend}/task/{backend}/children").read_text().split()
    return [int(pid) for pid in children
            if b"workers import main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_program_whose_verification_takes_long_delays_no_other_user(world: World) -> None:
    with world.intruder(ALICE) as alice, world.intruder(BOB) as bob:
        alice.do(attacks.join)
        assert alice.do(attacks.load) == 0
        workers = _workers(world.backend(ALICE))
        assert workers
        try:
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            alice.begin(attacks.load)
            bob.do(attacks.join)
            assert bob.do(attacks.load) == 0 and not alice.done
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)
        assert alice.result() == 0


def test_where_nobody_serves_nothing_is_done_in_the_daemons_place(world: World) -> None:
    user = MANAGER + 5000
    done = run(as_user(user, ["bpftool", "prog", "list"], {
        "LIBBPF_SHIM_SERVER": f"{world.folder}/nothing", "LD_PRELOAD": str(launch.library())}))
    assert done.status and "nobody serves there" in done.err, done
    assert not Path(f"/tmp/libbpf_shim-{user}/sessions").exists()


def test_one_daemon_serves_at_a_place(world: World) -> None:
    done = run(as_user(MANAGER, shim("serve", "--policy", str(world.policy), "--at",
                                     str(world.at))))
    assert done.status == 3 and "another daemon serves there" in done.err, done


@pytest.mark.parametrize(("wrong", "says"), [
    ("a file that others can write", "others may write it"),
    ("a folder that others can write", "others may write it"),
    ("no binary", "does not name the application's binary"),
    ("no folder", "not a folder of grants"), ("no grants", "no grants are there"),
])
def test_a_policy_that_cannot_hold_others_is_not_served(
    world: World, tmp_path: Path, wrong: str, says: str
) -> None:
    interface = INTERFACE.format(folder=world.folder)
    if wrong == "no binary":
        interface = interface.replace("binary:", "doc:")
    (tmp_path / "app.yaml").write_text(interface)
    if wrong != "no grants":
        (tmp_path / "grants.yaml").write_text(GRANTS)
    if wrong.startswith("a "):
        (tmp_path / "grants.yaml" if "file" in wrong else tmp_path).chmod(0o777)
    with pytest.raises(ShimError, match=says):
        checked(tmp_path / "grants.yaml" if wrong == "no folder" else tmp_path)


def test_tokens_say_what_loaders_of_a_user_may_extend_and_the_daemons_death_ends_it() -> None:
    world = World(key=True)
    app, bash = (Module(path).build_id for path in (f"{world.folder}/app", "/bin/bash"))
    other, own = (world.token(Claims(build_ids=(one,))) for one in (bash, app))
    foreign = world.token(Claims(uids=(ALICE,)))
    try:
        for token, missing in ((None, "needs one"), (foreign, f"uid {BOB}")):
            env = {"LIBBPF_BPF_TOKEN_PATH": token} if token else {}
            with world.intruder(BOB, **env) as one, pytest.raises(Failed) as failed:
                one.do(attacks.join)
            assert failed.value.errno == errno.EPERM
            assert missing in str(world.refusal(BOB)["missing"])
        with world.intruder(BOB, LIBBPF_BPF_TOKEN_PATH=other) as one:
            assert refused(one, world, "mark_status") == errno.EPERM
            assert "build_id" in world.refusal(BOB)["missing"]
            assert world.application.handle() == 200
        with world.intruder(BOB, LIBBPF_BPF_TOKEN_PATH=own) as one:
            extend(one, world, "mark_status")
            assert world.application.handle() == 403
            backends = list(world.sessions())
            world.daemon.kill()
            for backend in backends:
                world.over(backend)
            assert world.application.handle() == 200
    finally:
        world.close()
