"""A link that a process has no room for, or not all places of: the process goes on as without it,
and other links count all that they are to."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from libbpf_shim._native import lib

from compat_tests.attach.host import LIBRARY, LIMIT, Counter, Host, serve
from compat_tests.victims import build
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.elf.module import Module

HERE = Path(__file__).resolve().parent
ROOM = int(lib.SHIM_MAX_SITES)


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    made = build.make("room", [HERE / "room.S"], ["-pie", "-Wl,-z,notext,--no-warnings"])
    folder = build.private_copy({"room": made})
    yield folder / "room"
    shutil.rmtree(folder)


def link(host: Host, program: Path, *addrs: int) -> Counter:
    """One at many places, which is there before any process."""
    first, counter = host.attachment(program, "main")
    module = Module(str(program))
    places = [Code(str(program), module.vaddr_to_offset(addr)) for addr in addrs]
    host.delivery.attach(
        *(Attachment(first.link_id, first.link, first.prog, place, 0, 0) for place in places))
    host.control.enable(first.link, True)
    return counter


def address(program: Path, name: str) -> int:
    found = Module(str(program)).find(name)
    assert found
    return found.vaddr


def run(host: Host, runtime_dir: Path, program: Path) -> None:
    """To its end, which is as without probes."""
    env = {"LD_PRELOAD": str(LIBRARY), "XDG_RUNTIME_DIR": str(runtime_dir)}
    process = subprocess.Popen([program], env=env)
    try:
        serve(host, reason=lib.SHIM_SYNC_START)
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.wait()


def test_without_room_for_all_of_a_link_there_is_nothing_of_it(
    host: Host, runtime_dir: Path, program: Path
) -> None:
    places = address(program, "places")
    most = range(places, places + 16 * (ROOM - 64), 16)
    rest = range(most.stop, address(program, "narrow"), 16)
    assert len(rest) > 64
    fits, other = link(host, program, *most), link(host, program, *rest)
    run(host, runtime_dir, program)
    assert (fits.hits, other.hits) == (len(most), 0)
    assert len(host.notices) == 1 and "no room for more probed places" in host.notices[0]


def test_a_record_is_not_used_again_for_what_needs_it(
    host: Host, runtime_dir: Path, program: Path
) -> None:
    places, narrow = address(program, "places"), address(program, "narrow")
    link(host, program, *range(places, narrow, 16))  # leaves nothing but used records
    short = link(host, program, narrow)
    run(host, runtime_dir, program)
    assert short.hits == 1
    [process] = host.delivery.talks.processes.values()
    assert "short" in [site.tactic for site in process.sites.values()]


def test_the_rest_of_a_link_is_there_without_a_place_that_cannot_be(
    host: Host, runtime_dir: Path, program: Path
) -> None:
    places, relocated = address(program, "places"), address(program, "relocated")
    some = [places + 16 * k for k in range(20)]
    counter = link(host, program, *some[:10], relocated, *some[10:])
    run(host, runtime_dir, program)
    assert counter.hits == len(some)
    assert len(host.notices) == 1 and "PATCH refused" in host.notices[0]
