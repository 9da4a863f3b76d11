"""When a process is to have quick reads: tried again while it begins, not for ever; where masks
change."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from libbpf_shim.attach import quick
from libbpf_shim.attach.plans import Plans
from libbpf_shim.attach.target import loaded_in

PID, START, ROOT = 100, 7, 0x1000
LIBC = SimpleNamespace(path="/lib/libc.so.6", ino=5)
MADE = quick.Made(handlers=((0x10, 1), (0x20, 2)), masks=())  # sigaction(), syscall()


class Scene:
    """A process that reads, at a clock of our own. modules: what it has loaded, of which its last
    conversation saw nothing yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.modules, self.put = 0.0, list[Any](), list[object]()
        self.process = SimpleNamespace(
            pid=PID, start_time=START, root=ROOT, reads=True, quick=False, linked=set(),
            modules=[])
        plans = SimpleNamespace(at=lambda file, vaddr: None, module=lambda path: LIBC)
        self.quick = quick.Quick(plans)  # type: ignore[arg-type]
        for name, value in (
                ("time", SimpleNamespace(monotonic=lambda: self.now)),
                ("look", lambda pid: SimpleNamespace(root=ROOT, modules=tuple(self.modules))),
                ("loaded_in", lambda pid: ((), list(self.modules))),
                ("reach_all", lambda pid, modules: modules),
                ("start_time", lambda pid: START), ("_has_handler", lambda pid: False)):
            monkeypatch.setattr(quick, name, value)
        monkeypatch.setattr(self.quick, "_made", lambda file, name: MADE)
        self.quick.attached()

    def runs(self, seconds: float) -> None:
        """The main loop, for so long."""
        end = self.now + seconds
        while self.quick.due is not None and self.quick.due <= end:
            self.now = max(self.now, self.quick.due)
            self.quick.tidy({PID: self.process}, self._transact)  # type: ignore[dict-item]
        self.now = end

    def _transact(self, target: object) -> None:
        self.put.append(target)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def test_one_whose_libc_is_not_mapped_yet_is_tried_again(scene: Scene) -> None:
    scene.runs(1.0)
    assert not scene.put and scene.quick.due is not None
    scene.modules.append(LIBC)
    scene.runs(5.0)
    assert len(scene.put) == 1 and scene.process.quick
    assert scene.quick.due is None


def test_one_that_never_has_places_is_left(scene: Scene) -> None:
    scene.runs(60.0)
    assert not scene.put and not scene.process.quick
    assert scene.quick.due is None


def test_each_place_where_a_mask_changes_can_be_had(tmp_path: Path) -> None:
    """Of this machine's C library, the restorer behind handlers among them: else each run asks
    for its mask."""
    plans = Plans(tmp_path)
    places = quick.Quick(plans)._masks(loaded_in(os.getpid())[1])
    assert len(places) > 20
    for place in places:
        assert plans.at(place.file, place.vaddr).vaddr == place.vaddr
