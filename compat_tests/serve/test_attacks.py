"""Attacks of another user's on the daemon, the application and each other: the rows of
docs/security.md, `As another user`. Each is refused, written down where there is somebody to tell,
and changes nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.guard import launch
from compat_tests.serve import attacks
from compat_tests.serve.intruder import Failed, Intruder
from compat_tests.serve.world import ALICE, BOB, MANAGER, World, as_user
from libbpf_shim.backend.audit import BURST
from libbpf_shim.uapi.bpf import bpf_cmd, bpf_map_type

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="three users: needs root")
LIMITS = ("--maps", "6", "--programs", "3", "--map-bytes", "1M", "--events", "5", "--loaders", "4")
STRANGER, EVE, LOUD = MANAGER + 3000, MANAGER + 4000, MANAGER + 6000


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World(*LIMITS)
    anchors = [made.intruder(uid) for uid in (ALICE, BOB)]
    for one in anchors:  # a loader of each is there all the time: no session begins anew
        one.do(attacks.join)
    yield made
    for one in anchors:
        one.close()
    made.close()


@pytest.fixture
def alice(world: World) -> Iterator[Intruder]:
    with world.intruder(ALICE) as made:
        yield made


@pytest.fixture
def bob(world: World) -> Iterator[Intruder]:
    with world.intruder(BOB) as made:
        yield made


def extend(who: Intruder, world: World, *programs: str) -> None:
    who.do(attacks.extend, f"{world.folder}/ext.bpf.o", f"{world.folder}/app", *programs)


def well(world: World, bob: Intruder) -> None:
    """The application and another user's session are as if nothing had happened."""
    assert world.application.handle() == 200
    extend(bob, world, "mark_status")
    assert world.application.handle() == 403
    bob.do(attacks.leave)


def test_a_class_of_another_users_is_not_had(world: World, alice: Intruder) -> None:
    with pytest.raises(Failed) as failed:
        extend(alice, world, "mark_status")
    assert failed.value.errno == errno.EACCES
    last = world.refusal(ALICE)
    assert (last["op"], last["what"], last["class"]) == ("load", "mark_status", "")
    assert last["missing"].startswith("a class") and len(last["tag"]) == 16


def test_nothing_but_the_policys_binary_is_looked_at(world: World, alice: Intruder) -> None:
    alice.do(attacks.join)
    for path in ("/etc/shadow", "/nothing/there", "relative", "/proc/self/exe", "/bin/sh",
                 f"/proc/{world.application.process.pid}/root/bin/sh", str(world.policy)):
        with pytest.raises(Failed) as failed:
            alice.do(attacks.event, path)
        # what is there and what is not is answered alike; no uprobe has an empty path
        assert failed.value.errno == errno.EPERM, (path, failed.value)
        assert path in world.refusal(ALICE)["missing"]


def test_objects_of_another_user_are_not_had_by_id_nor_by_inode(
    world: World, alice: Intruder, bob: Intruder
) -> None:
    extend(bob, world, "watch_uri")
    alice.do(attacks.join)
    for kind, get in (("PROG", "PROG"), ("MAP", "MAP"), ("LINK", "LINK")):
        numbers = bob.do(attacks.ids, bpf_cmd[f"BPF_{kind}_GET_NEXT_ID"])
        assert numbers and not alice.do(attacks.ids, bpf_cmd[f"BPF_{kind}_GET_NEXT_ID"])
        for number in numbers:
            assert alice.do(attacks.by_id, bpf_cmd[f"BPF_{get}_GET_FD_BY_ID"], number) == \
                -errno.ENOENT
    for dev, ino in bob.do(attacks.files):
        assert alice.do(attacks.use_inode, dev, ino) == [-errno.EINVAL] * 3
    bob.do(attacks.leave)


def test_what_would_have_the_daemon_touch_files_or_run_in_the_loader_is_not_there(
    world: World, alice: Intruder
) -> None:
    extend(alice, world, "watch_uri")
    for path in (f"{world.run}/pin", "/sys/fs/bpf/pin", f"/tmp/libbpf_shim-{MANAGER}/pin"):
        assert alice.do(attacks.pin, path) == -errno.EPERM
        assert "OBJ_PIN" in world.refusal(ALICE)["missing"] and not os.path.lexists(path)
    for number, part in ((bpf_cmd.BPF_OBJ_GET, "obj"), (bpf_cmd.BPF_PROG_TEST_RUN, "test"),
                         (bpf_cmd.BPF_ITER_CREATE, "iter_create"),
                         (bpf_cmd.BPF_PROG_ATTACH, "attach")):
        assert alice.do(attacks.command, number, part) == -errno.EPERM
        world.refusal(ALICE)
    alice.do(attacks.leave)


def test_maps_of_which_a_loader_could_write_what_is_believed_are_not_there(
    world: World, alice: Intruder
) -> None:
    alice.do(attacks.join)
    for kind in (bpf_map_type.BPF_MAP_TYPE_PROG_ARRAY, bpf_map_type.BPF_MAP_TYPE_CGROUP_ARRAY):
        assert alice.do(attacks.new_map, kind) == -errno.EPERM
        assert bpf_map_type(kind).name[13:].lower() in world.refusal(ALICE)["missing"]


def test_one_user_has_so_much_and_no_more(world: World, alice: Intruder, bob: Intruder) -> None:
    alice.do(attacks.join)
    assert alice.do(attacks.new_map, bpf_map_type.BPF_MAP_TYPE_ARRAY, 1 << 18) == -errno.ENOMEM
    assert "1048576 at most" in world.refusal(ALICE)["missing"]
    for what, most in ((attacks.new_map, 6), (attacks.load, 3)):
        answers = [alice.do(what) for _ in range(most + 1)]
        assert answers == [0] * most + [-errno.EMFILE]
        assert f"{most} " in world.refusal(ALICE)["missing"]
    extend(bob, world, "watch_uri")  # others have their own
    bob.do(attacks.leave)
    alice.do(attacks.let_go)


def test_events_and_loaders_are_counted(world: World, alice: Intruder) -> None:
    alice.do(attacks.join)
    for _ in range(5):
        alice.do(attacks.event, f"{world.folder}/app")
    with pytest.raises(Failed) as failed:
        alice.do(attacks.event, f"{world.folder}/app")
    assert failed.value.errno == errno.EMFILE
    more = [world.intruder(ALICE) for _ in range(3)]
    for one in more[:2]:
        one.do(attacks.join)
    with pytest.raises(Failed) as failed:
        more[2].do(attacks.join)
    assert failed.value.errno == errno.EPERM
    assert "4 loaders" in world.refusal(ALICE)["missing"]
    for one in more:
        one.close()


def test_connections_that_say_nothing_hold_nobody_up(
    world: World, alice: Intruder, bob: Intruder
) -> None:
    extend(alice, world, "watch_uri")
    with world.intruder(ALICE) as many:
        many.do(attacks.crowd, str(world.at / "sock"), 300)
        well(world, bob)
        alice.do(attacks.event, f"{world.folder}/app")  # who was there before is served
        fds = len(os.listdir(f"/proc/{world.backend(ALICE)}/fd"))
    assert fds < 150, "those that are too many are not kept"
    alice.do(attacks.leave)


def test_a_loader_is_who_the_kernel_says(world: World, alice: Intruder) -> None:
    sock = str(world.at / "sock")
    assert alice.do(attacks.hello_as, sock, os.getpid()) == -errno.EKEYREJECTED
    assert f"process {os.getpid()}" in world.refusal(ALICE)["missing"]


def test_the_daemon_takes_no_agent_and_no_question_from_another_user(
    world: World, alice: Intruder, bob: Intruder
) -> None:
    sock, pid = str(world.at / "sock"), world.application.process.pid
    for op in (attacks.HELLO_AGENT, attacks.STATUS, attacks.LEAVE, attacks.LOOK,
               attacks.FIND):
        answer = alice.do(attacks.ask, sock, op, pid.to_bytes(4, "little") * 600)
        assert answer == -errno.EPERM, op
    assert len([r for r in world.log() if r["verdict"] == "refused" and r["uid"] == ALICE]) > 1
    well(world, bob)


def test_the_sockets_that_agents_come_to_are_not_reached(
    world: World, alice: Intruder, bob: Intruder
) -> None:
    extend(bob, world, "watch_uri")
    folders = world.sessions()
    assert folders
    for folder in folders.values():
        with pytest.raises(Failed) as failed:
            alice.do(attacks.reach, str(folder / "sock"))
        assert failed.value.errno == errno.EACCES
    bob.do(attacks.leave)


def test_a_door_left_open_lets_no_other_user_in(
    world: World, alice: Intruder, bob: Intruder
) -> None:
    """Even where somebody has opened the run directory to all."""
    extend(bob, world, "watch_uri")
    folder = next(iter(world.sessions().values()))
    opened = [folder / "sock", folder, folder.parent, launch.RUN_DIR]
    modes = [path.stat().st_mode & 0o7777 for path in opened]
    try:
        for path in opened:
            path.chmod(0o777)
        for op in (attacks.HELLO_AGENT, attacks.HELLO_LOADER, attacks.STATUS, attacks.LEAVE,
                   attacks.LOOK):
            try:
                assert alice.do(attacks.ask, str(folder / "sock"), op, bytes(2400)) is None
            except Failed as failed:  # it was closed before all was sent
                assert failed.errno in (errno.EPIPE, errno.ECONNRESET)
    finally:
        for path, mode in zip(opened, modes, strict=True):
            path.chmod(mode)
    assert bob.do(attacks.counted) == (0, 0)
    bob.do(attacks.leave)


def test_files_of_the_daemons_are_not_replaced(
    world: World, alice: Intruder, bob: Intruder
) -> None:
    extend(bob, world, "watch_uri")
    for folder in (world.run, world.at, launch.RUN_DIR, world.folder):
        assert alice.do(attacks.change, str(folder)) == []
    alice.do(attacks.tidy)
    assert world.application.handle(3) == 200 and bob.do(attacks.counted) == (100, 300)
    bob.do(attacks.leave)


def test_a_run_directory_that_another_user_made_is_nobodys(
    world: World, alice: Intruder
) -> None:
    run = Path(f"/tmp/libbpf_shim-{STRANGER}")
    shutil.rmtree(run, ignore_errors=True)
    alice.do(attacks.squat, str(run))
    try:
        from compat_tests.clients.tool import run as tool

        victim = as_user(STRANGER, [f"{world.folder}/app"],
                         {"LD_PRELOAD": str(launch.library())})
        assert tool(victim).status == 0
        assert not alice.do(attacks.came)
    finally:
        shutil.rmtree(run)


def garbled(world: World, seed: int, rounds: int) -> None:
    """A user's loader writes into all that it shares, while its program and another user's run."""
    with world.intruder(EVE) as eve:
        extend(eve, world, "watch_uri")
        backend = world.backend(EVE)
        folder = world.sessions()[backend]
        eve.begin(attacks.scribble, seed, rounds)
        while not eve.done:
            assert world.application.handle(seed) == 403
        eve.result()
        eve.do(attacks.fill, 0xFF if seed % 2 else 0)
        assert world.application.handle() == 403
    world.over(backend)
    assert not folder.exists(), "it has not ended in good order"


def test_memory_that_a_loader_garbles_harms_nobody_else(world: World, bob: Intruder) -> None:
    extend(bob, world, "mark_status")
    garbled(world, 1, 3000)
    with world.intruder(EVE) as again:
        extend(again, world, "watch_uri")
        assert world.application.handle(2) == 403
        assert again.do(attacks.counted) == (100, 200)
    bob.do(attacks.leave)
    assert world.application.handle() == 200


@pytest.mark.long
@pytest.mark.timeout(900)
def test_memory_that_is_garbled_for_long_harms_nobody_else(world: World, bob: Intruder) -> None:
    extend(bob, world, "mark_status")
    for seed in range(100, 120):
        garbled(world, seed, 20000)
    bob.do(attacks.leave)
    assert world.application.handle() == 200


def test_a_constant_stays_what_the_verifier_saw(world: World, alice: Intruder) -> None:
    extend(alice, world, "watch_uri")
    assert alice.do(attacks.set_constant, 1000) == 1
    world.application.handle(2)
    assert alice.do(attacks.counted) == (100, 200)
    alice.do(attacks.leave)


def test_garbage_and_descriptors_on_the_socket_change_nothing(
    world: World, alice: Intruder, bob: Intruder
) -> None:
    alice.do(attacks.join)
    before = {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in world.sessions()}
    alice.do(attacks.garbage, str(world.at / "sock"), 1)
    alice.do(attacks.hostile_descriptors, str(world.at / "sock"))
    alice.do(attacks.command, bpf_cmd.BPF_OBJ_GET, "obj")  # all of that has been read
    after = {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in world.sessions()}
    assert all(after[pid] <= number + 1 for pid, number in before.items() if pid in after), after
    well(world, bob)


def test_refusals_in_a_loop_do_not_fill_the_log(world: World, bob: Intruder) -> None:
    times = BURST + 300
    before = len(world.log())
    with world.intruder(LOUD) as loud:
        loud.do(attacks.join)
        assert loud.do(attacks.refused_often, times) == times
        assert loud.do(attacks.new_map) >= 0
    mine = [row for row in world.log()[before:] if row.get("uid") == LOUD]
    refused = [row for row in mine if row["verdict"] == "refused"]
    assert BURST <= len(refused) < times and mine[-1]["verdict"] == "admitted"
    left = [row["count"] for row in world.log()[before:] if row["verdict"] == "left out"]
    assert sum(left) + len(refused) == times
    well(world, bob)
