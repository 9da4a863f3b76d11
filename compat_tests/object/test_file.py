"""The last close of a descriptor is seen, whoever does it and however it happens."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal

import pytest

from libbpf_shim.errors import ShimError
from libbpf_shim.object import descriptors
from libbpf_shim.object.file import MemFile, SocketFile
from libbpf_shim.object.store import Object, Store


@pytest.fixture(params=["memfd", "socket"])
def file(request: pytest.FixtureRequest) -> MemFile | SocketFile:
    return MemFile("bpf-map", 4096) if request.param == "memfd" else SocketFile()


def test_a_descriptor_handed_out_is_held_until_it_is_closed(file: MemFile | SocketFile) -> None:
    fd = file.hand_out()
    assert file.held()
    os.close(fd)
    assert not file.held()
    file.close()


def test_a_duplicate_is_held_too(file: MemFile | SocketFile) -> None:
    fd = file.hand_out()
    other = os.dup(fd)
    os.close(fd)
    assert file.held()
    os.close(other)
    assert not file.held()
    file.close()


def test_kill_of_the_last_holder_ends_it(file: MemFile | SocketFile) -> None:
    fd = file.hand_out()
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(0)
    os.close(fd)
    assert file.held()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not file.held()
    file.close()


def test_a_mapping_alone_holds_a_map() -> None:
    file = MemFile("bpf-map", 4096)
    fd = file.hand_out()
    with mmap.mmap(fd, 4096):
        os.close(fd)
        assert file.held()
    assert not file.held()
    file.close()


def test_a_memfd_has_its_name_and_cannot_be_resized() -> None:
    file = MemFile("bpf-prog", 100)
    fd = file.hand_out()
    assert "bpf-prog" in os.readlink(f"/proc/self/fd/{fd}")
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 1 << 20)
    os.close(fd)
    file.close()


class Thing(Object):
    kind = 9

    def __init__(self, number: int, log: list[int]) -> None:
        super().__init__(number, MemFile("thing", 1))
        self.log = log

    def end(self) -> None:
        self.log.append(self.id)


def test_what_is_referred_to_ends_after_what_refers_to_it() -> None:
    store, log = Store(), []  # type: tuple[Store, list[int]]
    link, prog = Thing(1, log), Thing(2, log)
    for thing in (link, prog):
        store.add(thing)
        thing.open = True
    link.hold(prog)
    for thing in (prog, link):  # nobody has a descriptor of either
        store.collect(thing)
    assert log == [1, 2]
    assert list(store) == []


def test_an_object_in_use_survives_its_descriptors() -> None:
    store, log = Store(), []  # type: tuple[Store, list[int]]
    thing = Thing(1, log)
    store.add(thing)
    thing.refs = 1
    thing.open = True
    store.collect(thing)
    assert log == [] and store.with_id(1, Thing) is thing
    thing.refs = 0
    store.collect(thing)
    assert log == [1]


@pytest.mark.parametrize(("key", "errno"), [((0, 0), 9), ((1, 2), 22)])
def test_a_descriptor_that_is_none_of_ours_is_refused(key: tuple[int, int], errno: int) -> None:
    with pytest.raises(ShimError) as caught:
        Store().at(key, Thing)
    assert caught.value.errno == errno


def test_where_the_kernel_does_not_tell_descriptors_apart_all_are_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without(fd: int, command: int, argument: bytes) -> bytes:
        raise OSError(errno.EINVAL, "")

    file = MemFile("bpf-map", 4096)
    monkeypatch.setattr(fcntl, "fcntl", without)
    fd = file.hand_out()
    descriptors.mark(fd, os.O_RDWR)
    assert not descriptors.mark_of(os.getpid(), fd)
    os.close(fd)
    assert descriptors.held(file.fd, 0)
    file.close()
