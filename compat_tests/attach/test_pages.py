"""Windows on several pages, each of which the keeper changes with one write (csrc/keeper/pages.c):
whenever it dies, the process goes on, and whoever comes next ends what it began."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compat_tests.attach.host import HERE, Counter, Host, Victim, victims
from compat_tests.victims import build
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.attach.keeper import Keeper, Window
from libbpf_shim.attach.target import look
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError

FUNCTIONS = 40
SUM = f"sum {sum(range(FUNCTIONS)) + FUNCTIONS}"
Start = Callable[..., Victim]


@pytest.fixture
def program() -> Iterator[Path]:
    made = build.make("pages", [HERE / "pages.c"], build.VICTIM_FLAGS)
    folder = build.private_copy({"pages": made})
    yield folder / "pages"
    shutil.rmtree(folder)


@pytest.fixture
def start(program: Path, runtime_dir: Path) -> Iterator[Start]:
    with victims(program, runtime_dir) as make:
        yield make


def all_of(host: Host, program: Path) -> list[Attachment]:
    """One link at all functions, the highest first."""
    module, (first, _) = Module(str(program)), host.attachment(program, "p_0")
    offsets = {s.name: module.vaddr_to_offset(s.vaddr) for s in module.symbols
               if s.name.startswith("p_")}
    return [Attachment(first.link_id, first.link, first.prog,
                       Code(str(program), offsets[f"p_{i}"]), i, 0)
            for i in reversed(range(FUNCTIONS))]


def dying(step: int) -> Keeper:
    return Keeper(environ={"LIBBPF_SHIM_KEEPER_DIE_AT": str(step)})


def test_the_functions_lie_on_several_pages(host: Host, program: Path) -> None:
    module = Module(str(program))
    found = [s.vaddr for s in module.symbols if s.name.startswith("p_")]
    assert len({vaddr >> 12 for vaddr in found}) == 3
    assert max(found) + 5 > (max(found) | 4095) + 1, "one window on two pages"


def as_they_are(pid: int, windows: list[Window]) -> list[bytes]:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        return [os.pread(memory.fileno(), len(w.new), w.addr) for w in windows]


def write(keeper: Keeper, pid: int, windows: list[Window]) -> None:
    keeper.stop(pid)
    try:
        keeper.patch(pid, windows)
    finally:
        with contextlib.suppress(ShimError):
            keeper.release(pid)


def test_a_keeper_that_dies_while_it_writes_windows(
    host: Host, start: Start, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To and fro, from what the last one left."""
    victim, written = start(host), list[Window]()
    original = Keeper.finish

    def noted(keeper: Keeper, pid: int, windows: list[Window]) -> int:
        written.extend(windows)
        return original(keeper, pid, windows)

    with monkeypatch.context() as patch:
        patch.setattr(Keeper, "finish", noted)
        host.delivery.attach(*all_of(host, program))
    there, gone = written, [w.undone() for w in written]
    assert len(there) == FUNCTIONS
    deaths, step = 0, 0
    while deaths == step:
        step += 1
        for wanted in (gone, there):
            broken = dying(step)
            try:
                write(broken, victim.pid, wanted)
            except ShimError:
                deaths += wanted is gone
            broken.close()
            assert victim.say("sum") == SUM, f"the keeper died at step {step}"
            found = as_they_are(victim.pid, wanted)
            assert all(now in (w.new, w.expect) for now, w in zip(found, wanted, strict=True))
            left = [w for now, w in zip(found, wanted, strict=True) if now != w.new]
            write(host.keeper(), victim.pid, left)
            assert as_they_are(victim.pid, wanted) == [w.new for w in wanted]
            assert victim.say("sum") == SUM
    assert deaths > 6, "the steps of a write"


def test_a_keeper_that_dies_while_it_detaches(host: Host, start: Start, program: Path) -> None:
    victim = start(host)
    found = look(victim.pid)
    assert found
    before, deaths, step = victim.say("bytes"), 0, 0
    while deaths == step:
        step += 1
        atts = all_of(host, program)
        host.delivery.attach(*atts)
        assert not host.notices and victim.say("bytes") != before
        broken = dying(step)
        try:
            broken.detach(victim.pid, found.root, 1, 0)
        except ShimError:
            deaths += 1
        broken.close()
        assert victim.say("sum") == SUM, f"the keeper died at step {step}"
        host.delivery.detach(*atts)
        assert victim.say("bytes") == before, f"the keeper died at step {step}"
    assert deaths > 6, "the steps of a detachment"


def test_what_is_there_stays_while_another_link_goes(
    host: Host, start: Start, program: Path
) -> None:
    victim = start(host)
    before = victim.say("bytes")
    first, second = all_of(host, program), all_of(host, program)[::3]
    counter = second[0].prog.maps[0]
    assert isinstance(counter, Counter)
    for atts in (first, second):
        host.delivery.attach(*atts)
        host.control.enable(atts[0].link, True)
    host.delivery.detach(*first)
    assert victim.say("sum") == SUM
    assert counter.hits == len(second)
    host.delivery.detach(*second)
    assert victim.say("bytes") == before
