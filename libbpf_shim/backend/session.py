"""A session: the objects, shared memory and targets of the loaders that joined it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from libbpf_shim.attach.ends import Life, last
from libbpf_shim.attach.event import Pmus
from libbpf_shim.backend.rundir import Counters, SessionDir, open_run_dir, reap
from libbpf_shim.backend.share import Share
from libbpf_shim.backend.tracepipe import TracePipe
from libbpf_shim.backend.verdicts import Verdicts
from libbpf_shim.btf.parse import Btf
from libbpf_shim.compiled import PACKAGE
from libbpf_shim.jit import tiers
from libbpf_shim.object.btf import MACHINE, VmlinuxBtf
from libbpf_shim.object.control import Control
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.pin import Pins
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.object.store import Object, Store

if TYPE_CHECKING:
    from libbpf_shim.attach.connector import Connector
    from libbpf_shim.attach.deliver import Delivery
    from libbpf_shim.attach.keeper import Keeper
    from libbpf_shim.backend.classes import Classes
    from libbpf_shim.backend.gate import Gate
    from libbpf_shim.backend.modules import Modules
    from libbpf_shim.backend.served import Served

LIBRARY = Path(PACKAGE, "_lib", "libbpf_shim.so")


class Session:
    """Owns everything of a session but its clients. served: whose it is, if not this user's.
    Raises ShimError if the run directory cannot be had."""

    def __init__(
        self, park: Callable[[socket.socket], None], notice: Callable[[str], None],
        share: Share | None = None, served: Served | None = None,
    ) -> None:
        tiers.check()
        self.served = served
        self.gate = _gate()
        self.classes = _classes(served.uid if served else os.getuid())
        self.run = open_run_dir()
        stale = reap(self.run)
        self.counters = Counters(self.run)
        self.id = self.counters.next("session")
        self.control = Control(self.id)
        self.control.guarded = served is not None
        self.dir = SessionDir(self.run, self.id, self.control.nr_vcpus)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket = self.dir.path / "sock"
        self.listener.bind(str(self.socket))
        self.listener.listen(4096)  # processes that start at once; who is queued is not refused
        self._share = share
        if share:
            share.publish(self.dir.path)
            share.clear()
        self.store = Store()
        self.trace_pipe = TracePipe(self.dir.path / "trace_pipe", self.control)
        self.verdicts = Verdicts(self.run / "verdicts", here=served is None)
        self.pins = Pins(share.bpffs if share else self.dir.bpffs, self.store)
        self.control.memory.look = self.check_files
        self.notice = notice
        self._park = park
        self._keeper: Keeper | None = None
        self._delivery: Delivery | None = None
        self._unnamed = 0
        self.loaders: Callable[[], Iterable[int]] = tuple  # pids of those that are connected
        self.met: Callable[[int], None] = lambda pid: None  # a process that begins is there
        self.before_visits: Callable[[], None] = lambda: None
        # agents that are connected and have not been listened to
        self.knocking: Callable[[], list[tuple[socket.socket, bytes]]] = list
        self.pmus = Pmus.shown(LIBRARY)
        self.store.add(VmlinuxBtf(1))
        self.modules = _modules(self)
        if stale:
            self.delivery.removal.clean_up(stale)

    @property
    def shown(self) -> Path:
        """The folder that loaders are told of."""
        return self.served.folder if self.served else self.dir.path

    @staticmethod
    def kernel_btf() -> Btf:
        """The kernel's types, parsed at first use."""
        return MACHINE.btf

    def pinned_before(self, path: str) -> Path | None:
        """The file of a pin of that name which a backend holds that began under another build."""
        inside = self.pins.inside(path)
        return self._share.in_another_build(inside) if self._share and inside else None

    def unnamed(self) -> int:
        """A number for objects that have no id: events and rings."""
        self._unnamed += 1
        return self._unnamed

    @property
    def delivery(self) -> Delivery:
        """Made at first use: it brings the decoder and the rewriter."""
        if self._delivery is None:
            from libbpf_shim.attach.call import SessionFiles
            from libbpf_shim.attach.deliver import Delivery

            control = self.control
            files = SessionFiles(
                id=self.id, socket=str(self.socket), ctl_fd=control.fd, ctl_size=control.size,
                ctl_ino=control.ino, ctl_dev=control.dev, perf_fd=control.perf_fd,
                perf_size=control.perf_size, run_dir=str(self.run), library=str(LIBRARY),
                cache=self.run / "cache",
            )  # fmt: skip
            self._delivery = Delivery(files, self.listener, self.keeper, self.notice, self._park)
            self._delivery.ends.met = lambda pid: self.met(pid)
            self._delivery.before_visits = lambda: self.before_visits()
            self._delivery.knocking(lambda: self.knocking())
        return self._delivery

    def keeper(self) -> Keeper:
        """The keeper, started at first use."""
        if self._keeper is None:
            from libbpf_shim.attach import keeper

            self._keeper = keeper.Keeper()
            self.delivery.ready()  # while it starts
            self._keeper.session(keeper.Session(
                self.id, self.control.dev, self.control.ino, os.getuid(), str(LIBRARY),
                _root_offset()))
        return self._keeper

    @property
    def keeper_pid(self) -> int:
        """0: none runs."""
        return self._keeper.pid if self._keeper else 0

    @property
    def attached(self) -> bool:
        """Something was delivered to a process."""
        return self._delivery is not None

    def bring(self, outer: MapObject, obj: MapObject | ProgObject) -> None:
        """Before obj becomes a value of outer: into every process that has outer."""
        if self._delivery:
            self._delivery.elements.bring(outer, obj)

    @property
    def wants_ends(self) -> bool:
        """Some program wants to know of the ends of processes."""
        return bool(self._delivery and self._delivery.ends.wanted)

    def process_ended(self, life: Life, pidfd: int) -> None:
        """A process has ended without a word."""
        if self._delivery and self.wants_ends:
            self._delivery.ends.tell(last(life, pidfd), list(self.loaders()))

    def ended(self, obj: Object) -> None:
        """The store has let obj go."""
        if self._delivery and isinstance(obj, MapObject | ProgObject):
            self._delivery.elements.ended(obj)
            if isinstance(obj, ProgObject):
                self._delivery.swaps.forget(obj.id)

    def improved(self, prog: ProgObject) -> None:
        """The program has come to have better code."""
        if self._delivery:
            self._delivery.swaps.replace(prog)

    @property
    def due(self) -> float | None:
        """When `tidy` is to be called, time.monotonic(); None: nothing is left to do."""
        return self._delivery.due if self._delivery else None

    def tidy(self) -> None:
        """Takes what has ended out of processes."""
        if self._delivery:
            self._delivery.tidy()

    @property
    def hears(self) -> Connector | None:
        """What tells of execs, as long as somebody wants to know: readable, then `told`."""
        return self._delivery.newcomers.connector if self._delivery else None

    def newcomers(self) -> str:
        """How processes are found that begin without the library: "told", "looked for"."""
        told = self._delivery is not None and self._delivery.newcomers.told_of
        return "told" if told else "looked for"

    def told(self) -> None:
        """Somebody has executed a program."""
        if self._delivery:
            self._delivery.told()

    def leave(self, pid: int) -> None:
        """Out of one process; see Delivery.leave."""
        if self._delivery:
            self._delivery.leave(pid)

    def look(self, pid: int) -> None:
        """At a process that was given an agent; see Delivery.look."""
        if self._delivery:
            self._delivery.look(pid)

    def together(self) -> AbstractContextManager[None]:
        """Objects that end meanwhile leave processes together."""
        return self._delivery.together() if self._delivery else nullcontext()

    def busy(self) -> bool:
        """Some client still holds an object, or a pin that somebody could come for."""
        pinned = self._share is not None and len(self.pins) > 0
        return pinned or any(obj.open for obj in self.store)

    def withdraw(self) -> bool:
        """Nobody joins any more; False: somebody is about to, and the session goes on."""
        if self._share and not self._share.withdraw(self.dir.path, self.listener):
            return False
        self._share = None
        return True

    def check_files(self) -> None:
        """Looks at every memfd and socket for its last close, at every pin for its last name."""
        self.pins.look()
        for obj in list(self.store):
            if obj.open:
                self.store.collect(obj)

    def close(self) -> None:
        """Silence, restore, forget. Bounded."""
        control = self.control
        if self._share:
            self._share.abandon(self.dir.path, self.pins.close)
        self.pins.close()
        objects: list[Object] = list(self.store)
        for obj in objects:
            obj.open = False
        for obj in objects:
            self.store.collect(obj)
        control.say_dead()
        if self._delivery:
            self._delivery.end()
        if self._keeper:
            self._keeper.close()
        self.trace_pipe.close()
        self.listener.close()
        self.dir.remove()


def _gate() -> Gate | None:
    """What admits loaders by their tokens, if this process is told to."""
    if not os.environ.get("LIBBPF_SHIM_TOKEN_KEY"):
        return None
    from libbpf_shim.backend.gate import Gate

    return Gate.of_environment()


def _classes(uid: int) -> Classes | None:
    """The classes that programs have, if this process is told of a policy."""
    if not os.environ.get("LIBBPF_SHIM_POLICY"):
        return None
    from libbpf_shim.backend import classes

    return classes.of_environment(uid)


def _modules(session: Session) -> Modules | None:
    """The BTF of the policy's interfaces."""
    if session.classes is None:
        return None
    from libbpf_shim.backend.modules import Modules

    return Modules(session.classes, session.store, lambda: session.counters.next("btf"),
                   session.kernel_btf, tokens=session.gate is not None)


def _root_offset() -> int:
    """Where shim_agent_root lies behind the library's first mapping."""
    from libbpf_shim.attach.target import root_offset

    offset = root_offset(str(LIBRARY))
    assert offset is not None, LIBRARY
    return offset
