"""Closes of descriptors of links and events: each is found without a look at the others."""

from __future__ import annotations

import contextlib
import os
import selectors
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from libbpf_shim.backend.closes import Closes
from libbpf_shim.object.file import SocketFile
from libbpf_shim.object.pin import Pins
from libbpf_shim.object.store import Object, Store


class Counted(SocketFile):
    """looks: how often it was asked whether somebody has it open."""

    looks = 0

    def held(self) -> bool:
        self.looks += 1
        return super().held()


class Many:
    """Objects whose descriptors somebody has, in a session's loop."""

    def __init__(self, folder: Path, selector: selectors.BaseSelector, count: int) -> None:
        self.store, self.selector = Store(), selector
        session = SimpleNamespace(store=self.store, pins=Pins(folder, self.store))
        self.closes = Closes(session, selector)  # type: ignore[arg-type]
        self.store.added, self.store.removed = self.closes.added, self.closes.removed
        self.files = [Counted() for _ in range(count)]
        self.objects = [Object(n + 1, file) for n, file in enumerate(self.files)]
        self.fds = [file.hand_out() for file in self.files]
        for obj in self.objects:
            obj.open = True
            self.store.add(obj)

    def there(self) -> list[int]:
        return [obj.id for obj in self.store]


@pytest.fixture()
def many(tmp_path: Path) -> Iterator[Many]:
    with selectors.DefaultSelector() as selector:
        found = Many(tmp_path, selector, 50)
        yield found
        for fd in found.fds:
            with contextlib.suppress(OSError):
                os.close(fd)


def test_a_flush_looks_at_those_that_were_closed(many: Many) -> None:
    os.close(many.fds[7])
    many.closes.flush()
    assert many.there() == [n + 1 for n in range(50) if n != 7]
    assert [file.looks for file in many.files] == [int(n == 7) for n in range(50)]


def test_the_loop_wakes_for_a_close(many: Many) -> None:
    assert not many.selector.select(0)
    os.close(many.fds[3])
    assert many.selector.select(10)
    many.closes.look()
    assert 4 not in many.there()
    assert not many.selector.select(0)


def test_another_descriptor_of_the_same_keeps_it(many: Many) -> None:
    second = many.files[0].hand_out()
    os.close(many.fds[0])
    many.closes.flush()
    assert 1 in many.there()
    os.close(second)
    many.closes.flush()
    assert 1 not in many.there()


def test_all_at_once(many: Many) -> None:
    many.objects[0].hold(many.objects[1])  # which ends with it, in the same pass
    for fd in many.fds:
        os.close(fd)
    many.closes.flush()
    assert many.there() == []
