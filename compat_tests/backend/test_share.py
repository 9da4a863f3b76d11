"""Where loaders meet: one shared session at most, whoever starts or ends beside whom."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from libbpf_shim.backend.share import Share


@pytest.fixture
def place() -> Iterator[Path]:
    """Short enough for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="share-", dir="/tmp") as name:
        (Path(name) / "share").mkdir(mode=0o700)
        yield Path(name) / "share"


def backend(place: Path, name: str = "one") -> tuple[Path, socket.socket]:
    """A session's folder with a listening socket."""
    folder = place.parent / name
    folder.mkdir()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "sock"))
    listener.listen(8)
    return folder, listener


def joined(place: Path) -> bool:
    """A loader that comes now finds somebody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as loader:
        return loader.connect_ex(str(place / "session" / "sock")) == 0


def serve(listener: socket.socket) -> None:
    """Takes whoever waits at the door."""
    while select.select([listener], [], [], 0)[0]:
        listener.accept()[0].close()


@contextlib.contextmanager
def beside(action: Callable[[], object]) -> Iterator[int]:
    """Runs the action in a process of its own; the descriptor is readable when it is through, and
    its byte says whether the action was true."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.closerange(3, write)  # a lock lives as long as its description does
        os.closerange(write + 1, 256)
        os.write(write, b"1" if action() else b"0")
        os._exit(0)
    os.close(write)
    try:
        yield read
    finally:
        os.waitpid(child, 0)
        os.close(read)


def waits(fd: int) -> bool:
    return not select.select([fd], [], [], 0.2)[0]


def test_who_comes_while_another_starts_waits_and_is_sent_to_it(place: Path) -> None:
    first = Share(place)
    assert first.take()
    with beside(lambda: Share(place).take()) as second:
        assert waits(second)
        folder, listener = backend(place)
        first.publish(folder)
        assert os.read(second, 1) == b"0"
    assert joined(place)
    listener.close()


def test_who_comes_while_another_dies_in_its_start_begins_itself(place: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        starting = Share(place)
        starting.take()
        os.write(write, b"x")
        os.read(os.pipe()[0], 1)  # until it is killed
    os.read(read, 1)
    with beside(lambda: Share(place).take()) as second:
        assert waits(second)
        os.kill(child, 9)
        os.waitpid(child, 0)
        assert os.read(second, 1) == b"1"


def test_a_killed_backend_leaves_the_place_free_without_its_pins(place: Path) -> None:
    share = Share(place)
    assert share.take()
    folder, listener = backend(place)
    share.publish(folder)
    (place / "bpffs" / "folder").mkdir()
    (place / "bpffs" / "folder" / "pin").touch()
    (place / "bpffs" / "link").symlink_to("folder/pin")
    listener.close()  # as a death would
    assert not joined(place)
    heir = Share(place)
    assert heir.take()
    other, listener = backend(place, "two")
    heir.publish(other)
    assert joined(place)
    assert sorted(p.name for p in (place / "bpffs").rglob("*")) == ["folder", "link"]
    listener.close()


def test_a_backend_does_not_leave_while_somebody_is_at_its_door(place: Path) -> None:
    share = Share(place)
    assert share.take()
    folder, listener = backend(place)
    share.publish(folder)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as loader:
        loader.connect(str(place / "session" / "sock"))
        assert not share.withdraw(folder, listener)
        assert joined(place)
        serve(listener)
    assert share.withdraw(folder, listener)
    assert not joined(place)
    assert Share(place).take()
    listener.close()


def test_a_backend_does_not_leave_while_another_looks(place: Path) -> None:
    share = Share(place)
    assert share.take()
    folder, listener = backend(place)
    share.publish(folder)
    starting = Share(place)
    starting._wait()
    assert not share.withdraw(folder, listener)
    assert joined(place)
    starting._release()
    serve(listener)
    assert share.withdraw(folder, listener)
    listener.close()


def test_a_backend_that_must_end_clears_its_pins_before_another_begins(place: Path) -> None:
    share = Share(place)
    assert share.take()
    folder, listener = backend(place)
    share.publish(folder)
    seen: list[object] = []

    def clear() -> None:
        with beside(lambda: Share(place).take()) as other:
            seen.append(waits(other))
            share._forget(folder)
            share._release()
            seen.append(os.read(other, 1))

    share.abandon(folder, clear)
    assert seen == [True, b"1"]
    listener.close()


def test_who_leaves_late_does_not_take_the_place_of_its_heir(place: Path) -> None:
    late = Share(place)
    assert late.take()
    folder, listener = backend(place)
    late.publish(folder)
    listener.close()
    heir = Share(place)
    assert heir.take()
    other, theirs = backend(place, "two")
    heir.publish(other)
    late.abandon(folder, lambda: None)
    assert joined(place)
    theirs.close()


def aged(path: Path) -> None:
    """As a folder that nothing has happened in for two days."""
    os.utime(path, (time.time() - 2 * 86_400,) * 2)


def test_places_where_nobody_has_met_for_a_day_go(place: Path) -> None:
    run = place.parent
    served, left, fresh, held = (run / f"share-{name}" for name in "abcd")
    for path in (served, left, fresh, held):
        (path / "bpffs" / "folder").mkdir(parents=True)
        (path / "lock").touch()
    folder, listener = backend(place)
    (served / "session").symlink_to(folder)
    (left / "session").symlink_to(run / "gone")
    starting = Share(held)
    assert starting.take()
    for path in (served, left, held):
        aged(path)
    Share(place).clear()
    assert sorted(run.glob("share-*")) == [served, fresh, held]
    listener.close()


def test_who_waits_at_a_place_that_goes_makes_it_anew(place: Path) -> None:
    removing = Share(place)
    assert removing.take()
    with beside(lambda: Share(place).take() and (place / "lock").exists()) as second:
        assert waits(second)
        shutil.rmtree(place)
        removing._release()
        assert os.read(second, 1) == b"1"
