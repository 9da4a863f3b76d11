"""A process's table of objects: what ids in map values stand for, while it grows and shrinks."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

from libbpf_shim._native import ffi, lib

from compat_tests.agent.backend import Attacher, Backend, finish, start
from libbpf_shim.attach.agent import Conversation

Say = Callable[[Conversation, int], None]  # told the index of the session there
HEAD, ROW = ffi.sizeof("struct shim_objects"), ffi.sizeof("struct shim_object")


class Table:
    """The table as it lies in the process."""

    def __init__(self, talk: Conversation, session: int) -> None:
        word = (talk.hello.root + ffi.offsetof("struct shim_agent", "sessions")
                + session * ffi.sizeof("struct shim_session")
                + ffi.offsetof("struct shim_session", "objects"))
        (at,) = struct.unpack("<Q", talk.read(word, 8))
        self.prev, self.size, self.nr, self.live, self.used, _ = struct.unpack(
            "<QQIIII", talk.read(at, HEAD))
        self.rows = list(struct.iter_unpack("<QQ", talk.read(at + HEAD, self.nr * ROW)))

    def find(self, key: int) -> int:
        """As csrc/runtime/map_objects.c finds it; 0: it is not there."""
        at = (key & 0xFFFFFFFF) * 0x9E3779B1
        for _ in range(self.nr):
            there, address = self.rows[at & self.nr - 1]
            if there == key:
                return int(address)
            if not there:
                return 0
            at += 1
        return 0


def converse(
    library: Path, victim: Path, backend: Backend, attacher: Attacher, say: Say
) -> None:
    """One conversation at the start of a process, which then ends."""

    def answer(talk: Conversation) -> None:
        attacher.begin(talk)
        say(talk, attacher.session)

    backend.serve(1, answer)
    finish(start(library, victim, backend, "threads", 1, 1))
    assert backend.errors == []


def agrees(table: Table, model: dict[int, int], gone: set[int]) -> None:
    assert {key: table.find(key) for key in model} == model
    assert not any(table.find(key) for key in gone)
    rows = [key for key, _ in table.rows if key]
    assert (table.used, table.live) == (len(rows), len(model))
    assert sorted(key for key in rows if key != lib.SHIM_OBJECT_GONE) == sorted(model)
    assert table.nr > table.used  # a search for what is not there ends


def test_the_table_holds_what_was_put_into_it_and_not_taken_out(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    def say(talk: Conversation, session: int) -> None:
        rng = random.Random(1)
        model: dict[int, int] = {}
        gone: set[int] = set()
        for number in range(1, 1500):
            # ids ascend, maps and programs count apart; some land in the same places
            key = rng.choice((1, 2)) << 32 | number * rng.choice((1, 64, 4096))
            if key in gone:
                continue
            model[key] = number * 16
            talk.set_object(key, model[key], session)
            while model and rng.random() < (0.3 if number < 700 else 0.55):
                old = rng.choice(list(model))
                talk.drop_object(old, session)
                gone.add(old)
                del model[old]
            if number % 100 == 0:
                agrees(Table(talk, session), model, gone)
        agrees(Table(talk, session), model, gone)

    converse(library, victim, backend, attacher, say)


def test_a_table_whose_objects_come_and_go_stays_small(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    def say(talk: Conversation, session: int) -> None:
        for number in range(1, 3000):
            talk.set_object(1 << 32 | number, number, session)
            if number > 20:
                talk.drop_object(1 << 32 | number - 20, session)
        table = Table(talk, session)
        assert (table.live, table.prev, table.size) == (20, 0, 4096)

    converse(library, victim, backend, attacher, say)


def test_a_mapping_goes_with_its_object(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    def say(talk: Conversation, session: int) -> None:
        base = talk.mmap(4096, 3, 0x22)
        talk.set_object(1 << 32 | 7, base, session)
        talk.drop_object(1 << 32 | 7, session, base, 4096)
        assert f"{base:x}-" not in Path(f"/proc/{talk.hello.pid}/maps").read_text()

    converse(library, victim, backend, attacher, say)


def test_a_grace_period_without_runs_is_over_at_once(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    def say(talk: Conversation, session: int) -> None:
        first, second = talk.grace(), talk.grace()
        assert (first.fresh, first.over) == (True, first.begun)
        assert (second.fresh, second.over, second.begun) == (True, second.begun, first.begun + 1)

    converse(library, victim, backend, attacher, say)
