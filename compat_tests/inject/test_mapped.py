"""Libraries that go and come again in processes that cannot tell of it (attach/mapped.c)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.attach.host import plugin
from compat_tests.attach.test_mapped import again
from compat_tests.clients.tool import Session
from compat_tests.guard import launch
from compat_tests.inject.test_live import Reads, soon
from compat_tests.inject.test_namespaces import UNSHARE, needs_users
from compat_tests.inject.test_refusals import plain
from compat_tests.victims import build

SAYS_WHY = ["LIBBPF_SHIM_SESSION=private", "LIBBPF_SHIM_DEBUG=1"]  # at once
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder() -> Iterator[Path]:
    made = build.private_copy({
        "again": again(), "static": again("-static", "-DNO_DLOPEN"), "libplug.so": plugin()})
    yield made
    shutil.rmtree(made)


class Again(Session):
    """The program, as it was told to begin."""

    def __init__(self, argv: list[str]) -> None:
        super().__init__(argv, stdin=subprocess.PIPE)
        self.until(b"ready\n")

    def say(self, command: str) -> int:
        """Calls so far."""
        self.seen = b""
        self.send(command.encode() + b"\n")
        self.until(b"\n")
        said, calls = self.seen.decode().split()
        assert said == command
        return int(calls)


def _each_counts(target: Again, loader: Reads, copies: int = 1) -> None:
    """So many hits a call, once they have been found, and from then on."""

    def hits() -> int:
        before = loader.counters()[0]
        target.say("call")
        return loader.counters()[0] - before

    soon("a call is not counted", lambda: hits() == copies)
    assert [hits() for _ in range(5)] == [copies] * 5


@needs_users
def test_a_library_comes_again_where_other_files_are_seen(folder: Path) -> None:
    library = folder / "libplug.so"
    with Again(plain([UNSHARE, "-Urm", str(folder / "again"), str(library)])) as target:
        target.say("open")
        with Reads(library, "plug_work") as loader:
            _each_counts(target, loader)
            for command in ("close", "open"):  # at the same place, before anybody looks
                target.say(command)
            _each_counts(target, loader)
            target.say("map")
            _each_counts(target, loader, 2)
            loader.finish()


def test_a_static_program_maps_a_library_again(folder: Path) -> None:
    library = folder / "libplug.so"
    with Again(launch.guarded([str(folder / "static"), str(library)])) as target:
        target.say("map")
        with Reads(library, "plug_work") as loader:
            _each_counts(target, loader)
            target.say("over")
            _each_counts(target, loader)
            loader.finish()


def test_a_copy_that_cannot_be_patched_costs_none_that_is(folder: Path) -> None:
    library = folder / "libplug.so"
    argv = launch.guarded([str(folder / "again"), str(library)], preload=True, no_ptrace=True)
    with Again(argv) as target, Reads(library, "plug_work", variables=SAYS_WHY) as loader:
        target.say("open")
        _each_counts(target, loader)
        target.say("map")
        loader.until(b"ptrace is refused\n")
        _each_counts(target, loader)
        loader.finish()
