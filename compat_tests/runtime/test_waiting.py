"""Who waits for a lock or a virtual CPU waits as long as a holder goes on: one that has no CPU to
run on is not stuck. Of a holder that stands still it is told that the word is busy."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.runtime.test_maps import VCPUS, Control

EBUSY = 16
LONG = 1.5  # seconds: more than the one after which a waiter looks who holds the word
INNER, OUTER, ASLEEP, STOPPED, TOLD = range(5)  # words: locks, and whether a waiter is there


class Scene:
    """A control page, and locks that fork children share; they die with the scene."""

    def __init__(self) -> None:
        self.control = Control()
        # words of a slot that nobody claims: memory that is shared anyway
        self.locks = [ffi.addressof(self.control.ctl.stat[n], "pad") for n in range(5)]
        self.pids: list[int] = []

    def child(self, work: Callable[[], None]) -> int:
        """Has begun to hold what it holds when this returns."""
        ready, told = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                self.told = told
                work()
            finally:
                os._exit(1)
        self.pids.append(pid)
        os.close(told)
        assert os.read(ready, 1) == b"+"
        os.close(ready)
        return pid

    def holds(self) -> None:
        os.write(self.told, b"+")

    def take(self, lock: int) -> int:
        """The owner word that has the lock now; 0 where that was not to be had."""
        owner = int(self.control.run().owner)
        return owner if lib.shim_lock(self.locks[lock], self.control.ctl, owner) == 0 else 0

    def wait_for(self, lock: int) -> int:
        return int(lib.shim_lock(self.locks[lock], self.control.ctl, self.control.run().owner))

    def claim(self) -> int:
        return int(lib.shim_vcpu_claim(self.control.ctl, self.control.run().owner))


@pytest.fixture
def scene() -> Iterator[Scene]:
    it = Scene()
    yield it
    for pid in it.pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def spins(scene: Scene) -> None:
    """Has a lock and all virtual CPUs, and runs for long after somebody waits."""
    ctl, owner = scene.control.ctl, scene.take(INNER)
    taken = [lib.shim_vcpu_claim(ctl, owner) for _ in range(VCPUS)]
    scene.holds()
    while not scene.locks[TOLD][0]:
        pass
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        pass
    for cpu in taken:
        lib.shim_vcpu_release(ctl, cpu, owner)
    lib.shim_unlock(scene.locks[INNER], owner)
    signal.pause()


def waits(scene: Scene) -> None:
    """Has a lock, and waits for the one of who spins."""
    owner = scene.take(OUTER)
    scene.holds()
    inner = scene.take(INNER)
    assert inner
    lib.shim_unlock(scene.locks[INNER], inner)
    lib.shim_unlock(scene.locks[OUTER], owner)
    signal.pause()


def sleeps(scene: Scene, lock: int) -> None:
    assert scene.take(lock)
    scene.holds()
    signal.pause()


def own(control: Control) -> int:
    """A handler's run inside of a run that has the only virtual CPU, which alone could give it."""
    control.ctl.nr_vcpus = 1
    owner = control.run().owner
    assert lib.shim_vcpu_claim(control.ctl, owner) == 0
    return int(lib.shim_vcpu_claim(control.ctl, owner))


def test_a_holder_is_waited_for_as_long_as_it_goes_on(scene: Scene) -> None:
    scene.child(lambda: spins(scene))
    scene.child(lambda: waits(scene))
    scene.child(lambda: sleeps(scene, ASLEEP))
    stopped = scene.child(lambda: sleeps(scene, STOPPED))
    os.kill(stopped, signal.SIGSTOP)
    os.waitpid(stopped, os.WUNTRACED)
    asked: dict[str, Callable[[], int]] = {
        "of who spins": lambda: scene.wait_for(INNER),
        "of who waits": lambda: scene.wait_for(OUTER),
        "of who sleeps": lambda: scene.wait_for(ASLEEP),
        "of who is stopped": lambda: scene.wait_for(STOPPED),
        "its own": lambda: own(Control()),
        "a virtual CPU": scene.claim,
    }
    answers: dict[str, int] = {}

    def ask(name: str) -> None:
        answers[name] = asked[name]()
        if name == "of who spins":
            lib.shim_unlock(scene.locks[INNER], scene.locks[INNER][0])

    threads = [threading.Thread(target=ask, args=(name,)) for name in asked]
    for thread in threads:
        thread.start()
    scene.locks[TOLD][0] = 1
    for thread in threads:
        thread.join()
    assert answers.pop("a virtual CPU") in range(VCPUS)
    assert answers == {"of who spins": 0, "of who waits": 0, "of who sleeps": -EBUSY,
                       "of who is stopped": -EBUSY, "its own": int(lib.SHIM_NO_VCPU)}


def test_a_holder_that_looks_himself_goes_on(scene: Scene) -> None:
    """Somebody who waits too, and naps for about as long as he is looked at."""
    words = [ffi.addressof(scene.control.ctl.stat[n], "pad") for n in range(100, 120)]

    def naps() -> None:
        owner = scene.control.run().owner
        for word in words:
            assert lib.shim_lock(word, scene.control.ctl, owner) == 0
        scene.holds()
        end = time.monotonic() + LONG + 1
        while time.monotonic() < end:
            time.sleep(0.0024)
        for word in words:
            lib.shim_unlock(word, owner)
        signal.pause()

    scene.child(naps)
    answers: list[int] = []

    def wait(word: object) -> None:
        answers.append(int(lib.shim_lock(word, scene.control.ctl, scene.control.run().owner)))

    threads = [threading.Thread(target=wait, args=(word,)) for word in words]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [0] * len(words)
