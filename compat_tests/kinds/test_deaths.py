"""Reference counters are as before, whoever dies: loader, backend, keeper at any of its steps."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from libbpf_shim._native import lib

from compat_tests.attach.host import LIBRARY, LIMIT, Host, serve
from compat_tests.clients.tool import SHIM, SHIM_NO_PTRACE, Session, Way
from compat_tests.faults import survivors
from compat_tests.guard import launch
from compat_tests.kinds import act
from compat_tests.victims import build
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.attach.target import look
from libbpf_shim.errors import ShimError

BEFORE, ATTACHED = "0 0 -1", "1 2 -1"  # of the semaphores `one` and `two`
PLACES = (("u_one", "sem_one"), ("u_two", "sem_two"), ("u_three", "sem_two"))


@pytest.fixture
def folder() -> Iterator[Path]:
    scripts = {s.name: s for s in (*act.SCRIPTS, Path(__file__).with_name("hold.py"))}
    place = build.private_copy({**act.files(), **scripts})
    yield place
    shutil.rmtree(place)


class Told:
    """A target that obeys, a line for a line."""

    def __init__(self, argv: list[str], environ: dict[str, str] | None = None) -> None:
        self.child = subprocess.Popen(argv, stdin=-1, stdout=-1, text=True, bufsize=1, env=environ)

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *error: object) -> None:
        """It has not been hurt."""
        assert self.child.stdin and self.child.stdout
        self.child.stdin.close()
        status = self.child.wait(LIMIT)
        self.child.stdout.close()
        assert status == 0

    def line(self) -> str:
        assert self.child.stdout
        assert select.select([self.child.stdout], [], [], LIMIT)[0], "no answer"
        return self.child.stdout.readline().strip()

    def say(self, command: str) -> str:
        assert self.child.stdin
        self.child.stdin.write(command + "\n")
        return self.line()

    def places(self) -> dict[str, int]:
        return {name: int(value) for name, _, value in
                (part.partition("=") for part in self.say("places").split())}


def attachments(host: Host, path: str, places: dict[str, int]) -> list[Attachment]:
    """One link at all the places."""
    number, link, prog = len(host.delivery.attachments) + 1, host.control.take_link(0), host.prog()
    return [Attachment(number, link, prog, Code(path, places[place], ref=places[ref]), 0, 0)
            for place, ref in PLACES]


def test_a_keeper_that_dies_at_any_step_leaves_the_counters_right(folder: Path) -> None:
    """What it began the next one ends, and takes no counter down twice."""
    with tempfile.TemporaryDirectory(prefix="kd") as name:
        run = Path(name)
        environ = {"XDG_RUNTIME_DIR": name, "PATH": "/usr/bin:/bin", "LD_PRELOAD": str(LIBRARY)}
        host = Host(run, 1)
        with Told([f"{folder}/target"], environ) as target:
            serve(host, reason=lib.SHIM_SYNC_START)
            pid = int(target.line().split()[1])
            places, found = target.places(), look(pid)
            assert found
            deaths, step = 0, 0
            while deaths == step:
                step += 1
                atts = attachments(host, f"{folder}/target", places)
                host.delivery.attach(*atts)
                assert target.say("sem") == ATTACHED
                dying = Keeper(environ={"LIBBPF_SHIM_KEEPER_DIE_AT": str(step)})
                try:
                    dying.detach(pid, found.root, 1, 0)
                except ShimError:
                    deaths += 1
                dying.close()
                host.delivery.detach(*atts)
                assert target.say("sem") == BEFORE, f"the keeper died at step {step}"
                assert target.say("usdt 3") == "ok"
            assert deaths > 12, "the steps of a detachment"
        host.end()
        host.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["target", "target-static"])
def test_counters_of_a_process_that_was_started_without_the_library(
    name: str, folder: Path
) -> None:
    shutil.copy(act.static_target(), folder / "target-static")
    with Told(launch.guarded([f"{folder}/{name}"])) as target:
        target.line()
        places = target.places()
        with loader(SHIM, folder, places, name) as tool:
            assert target.say("sem") == ATTACHED
            assert target.say("usdt 4") == "ok"
            assert target.say("fork").startswith("child")
            assert target.say("sem") == ATTACHED
            assert target.say("exit") == "back"
            assert tool.child.stdin
            tool.child.stdin.close()
            tool.child.stdin = None
            assert tool.end().out.splitlines()[-1] == str(4 * len(PLACES))
        settles(target)
    survivors.nothing_left()


def start(way: Way, folder: Path) -> Told:
    return Told(way.target([f"{folder}/target"]))


def loader(
    way: Way, folder: Path, places: dict[str, int], name: str = "target"
) -> Session:
    argv = [f"{places[place]}:{places[ref]}" for place, ref in PLACES]
    tool = way.tool([act.PYTHON, f"{folder}/hold.py", f"{folder}/{name}", *argv])
    session = Session(tool, stdin=subprocess.PIPE)
    session.until(b"READY\n")
    return session


def settles(target: Told) -> None:
    survivors.wait_for("a counter is not as before", lambda: target.say("sem") == BEFORE)
    assert target.say("usdt 3") == "ok"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("way", "who"), [
    pytest.param(SHIM, "nobody", id="ptrace"), pytest.param(SHIM, "loader", id="killed"),
    pytest.param(SHIM_NO_PTRACE, "loader", id="mailbox")])
def test_counters_are_as_before_when_the_loader_has_ended(
    way: Way, who: str, folder: Path
) -> None:
    with start(way, folder) as target, contextlib.ExitStack() as ends:
        target.line()
        places = target.places()
        with loader(way, folder, places) as tool:
            if way.no_ptrace:  # a process that runs already is not changed but by itself
                target = ends.enter_context(start(way, folder))
                target.line()
            assert target.say("sem") == ATTACHED
            assert target.say("fork").startswith("child")
            assert target.say("sem") == ATTACHED
            if who == "loader":
                tool.child.kill()
            else:
                assert tool.child.stdin
                tool.child.stdin.close()
                tool.child.stdin = None
                assert tool.end().status == 0
        settles(target)
        assert target.say("exit") == "back"
        settles(target)
    survivors.nothing_left()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("who", [("backend",), ("keeper",), ("keeper", "backend")], ids="-".join)
def test_counters_are_as_before_when_a_part_of_ours_was_killed(
    who: tuple[str, ...], folder: Path
) -> None:
    """Where both are, the next session puts things right."""
    with start(SHIM, folder) as target:
        target.line()
        places = target.places()
        with loader(SHIM, folder, places) as tool:
            assert target.say("sem") == ATTACHED
            for part in who:
                survivors.kill(survivors.shim_processes(part))
            if len(who) == 2:
                tool.child.kill()
                with loader(SHIM, folder, places) as other:
                    assert target.say("sem") == ATTACHED
                    other.child.kill()
            elif who == ("keeper",):
                tool.child.kill()
            settles(target)
            with contextlib.suppress(OSError):
                tool.child.kill()
        settles(target)
    survivors.nothing_left()
    assert os.path.exists(f"{folder}/target")
