"""Whence loaders come to the daemon: from other namespaces, linked statically. The daemon is one
that root has started for the application's user."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import run
from compat_tests.serve.world import ALICE, BOB, HERE, LIMIT, MANAGER, World, as_user, python, shim
from compat_tests.victims import build
from libbpf_shim.backend import becoming
from libbpf_shim.errors import ShimError

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="three users: needs root")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World("--user", str(MANAGER), daemon=0)  # of root's, for the manager
    yield made
    made.close()


def begun(argv: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def loader(world: World, uid: int, *arguments: str) -> list[str]:
    return as_user(uid, python(world.folder / "loader.py", f"{world.folder}/ext.bpf.o",
                               f"{world.folder}/app", *arguments), world.env())


def runs(world: World, argv: list[str], status: int, says: str) -> None:
    """What it attaches is in the application, and leaves with it."""
    tool = begun(argv)
    assert tool.stdout and tool.stdout.readline() == "ready\n", tool.communicate()
    assert world.application.handle(7) == status
    assert tool.communicate("", LIMIT)[0] == says
    assert world.application.handle(7) == 200


def test_a_daemon_of_roots_serves_as_the_applications_user(world: World) -> None:
    status = Path(f"/proc/{world.daemon.pid}/status").read_text().splitlines()
    assert f"Uid:\t{'	'.join([str(MANAGER)] * 4)}" in status
    assert [line for line in status if line.startswith("CapEff")] == ["CapEff:\t" + 16 * "0"]
    assert world.at.stat().st_uid == world.audit.stat().st_uid == MANAGER


@pytest.mark.long
def test_a_daemon_of_roots_serves_others_with_roots_processes() -> None:
    own = World(daemon=0)
    try:
        runs(own, loader(own, BOB, "mark_status"), 403, "0 0\n")
        runs(own, loader(own, ALICE, "watch_uri"), 200, "100 700\n")
        assert own.loader(ALICE, "mark_status").status == 1
    finally:
        own.close()


@pytest.mark.long
def test_loaders_of_several_users_are_served_by_it(world: World) -> None:
    runs(world, loader(world, BOB, "mark_status"), 403, "0 0\n")
    runs(world, loader(world, ALICE, "watch_uri"), 200, "100 700\n")
    done = world.loader(ALICE, "mark_status")
    assert done.status == 1 and "EACCES" in done.err, done
    assert world.refusal(ALICE)["missing"].startswith("a class")


def test_a_loader_of_another_namespace_is_served(world: World) -> None:
    """Its number there is not what the kernel says here; of mounts it has its own, too."""
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    runs(world, [*apart, *loader(world, BOB, "mark_status")], 403, "0 0\n")
    hello = [row for row in world.log() if row["op"] == "hello"][-1]
    assert hello["verdict"] == "admitted" and hello["pid"] > 1


@pytest.mark.long
def test_numbers_of_another_namespace_mean_nothing(world: World, tmp_path: Path) -> None:
    code = tmp_path / "named.py"
    code.write_text("""
import sys
from libbpf_shim import Object, ShimError
opened = Object.open(sys.argv[1])
for name, program in opened.programs.items():
    program.autoload = name == "mark_status"
loaded = opened.load()
try:
    loaded.programs["mark_status"].attach_uprobe(sys.argv[2], "app_handle", pid=1)
except ShimError as error:
    print(error.errno)
""")
    shutil.copy(code, world.folder / "named.py")
    (world.folder / "named.py").chmod(0o755)
    argv = as_user(BOB, python(world.folder / "named.py", f"{world.folder}/ext.bpf.o",
                               f"{world.folder}/app"), world.env())
    done = run(["unshare", "--pid", "--fork", "--mount-proc", *argv])
    assert done.out == f"{errno.EPERM}\n", done
    assert "numbers of another namespace of processes" in world.refusal(BOB)["missing"]


def test_a_static_loader_is_held_to_the_policy_too(world: World) -> None:
    """What bpf-shim run is told, whoever serves the program is told."""
    try:
        made = build.make("serve-static", [HERE / "static_loader.c"],
                          [*build.WARN, "-O1", "-static"], ["-lbpf", "-lelf", "-lz"])
    except build.BuildError as error:
        if "libelf.a" in str(error) and "eu_search_tree_init" in str(error):
            pytest.skip("Debian 13's libelf.a needs a library that no package has")
        raise
    shutil.copy(made, world.folder / "static")
    (world.folder / "static").chmod(0o755)
    runs(world, as_user(ALICE, shim("run", "--server", str(world.at), "--",
                                    f"{world.folder}/static", f"{world.folder}/ext.bpf.o",
                                    f"{world.folder}/app")), 200, "100 700\n")
    mine = [row for row in world.log() if row["uid"] == ALICE and row["op"] == "attach"]
    assert (mine[-1]["verdict"], mine[-1]["class"]) == ("admitted", "watch")
    assert not list(Path("/tmp").glob(f"libbpf_shim-{ALICE}/sessions/*"))  # none of her own


@pytest.mark.parametrize("what", ["a link", "another user's", "a file"])
def test_root_gives_nothing_away_that_is_not_there_for_it(tmp_path: Path, what: str) -> None:
    """A folder or a log that others have put there."""
    place = tmp_path / "at"
    if what == "a link":
        place.symlink_to("/etc")
    elif what == "a file":
        place.write_text("")
    else:
        place.mkdir()
        os.chown(place, ALICE, ALICE)
    child = os.fork()
    if not child:
        try:
            becoming.become(becoming.user(str(MANAGER)), place, tmp_path / "log")
        except ShimError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert os.stat("/etc").st_uid == 0


def test_whom_a_daemon_may_become() -> None:
    assert becoming.user("root").pw_uid == 0 and becoming.user("0").pw_name == "root"
    assert becoming.user(str(MANAGER)).pw_gid == MANAGER or pwd.getpwuid(MANAGER)
    with pytest.raises(ShimError, match="no such user"):
        becoming.user("nobody-of-that-name")
