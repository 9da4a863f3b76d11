"""What an element holds, and when it lets go."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from compat_tests.elements.programs import go_on
from compat_tests.elements.steps import (
    ARRAY_OF_MAPS,
    HASH_OF_MAPS,
    KEYS,
    MAP_BY_ID,
    PROG_ARRAY,
    PROG_BY_ID,
    RETURN_0,
    Step,
    array,
    closed,
    fd,
    id_of,
    there,
)
from compat_tests.runtime import calls as c


def lifetimes() -> Iterator[Step]:
    """What an element holds, and when it lets go."""
    template, inner, holder = array(), array(), c.load(RETURN_0)
    for kind in (ARRAY_OF_MAPS, HASH_OF_MAPS):
        outer, inner = c.create(kind, 4, 4, 1, inner=template), array()
        number = id_of(inner)
        c.update(outer, KEYS[0], fd(inner))
        os.close(inner)
        again = c.bpf(MAP_BY_ID, number + bytes(8))
        yield f"an inner map lives {kind}", closed(again)
        c.update(outer, KEYS[0], fd(template))
        yield f"replaced {kind}", there(MAP_BY_ID, number)
        inner = array()
        number = id_of(inner)
        c.update(outer, KEYS[0], fd(inner))
        os.close(inner)
        os.close(outer)
        yield f"with its outer map {kind}", there(MAP_BY_ID, number)
    programs = c.create(PROG_ARRAY, 4, 4, 1)
    prog = c.load(go_on(programs))
    number, own = id_of(prog), id_of(programs)
    c.update(programs, KEYS[0], fd(prog))
    os.close(prog)
    yield "a program lives", closed(c.bpf(PROG_BY_ID, number + bytes(8)))
    os.close(programs)
    yield "not by itself alone", [there(PROG_BY_ID, number), there(MAP_BY_ID, own)]
    programs = c.create(PROG_ARRAY, 4, 4, 1)
    prog, own = c.load(go_on(programs)), id_of(programs)
    c.update(programs, KEYS[0], fd(prog))
    os.close(programs)
    for _ in range(200):
        programs = c.bpf(MAP_BY_ID, own + bytes(8))
        left = c.lookup(programs, KEYS[0], 4)
        if isinstance(left, int):
            break
        os.close(programs)
        time.sleep(0.01)
    yield "cleared with the last descriptor", [left, c.update(programs, KEYS[0], fd(prog)),
                                               c.lookup(programs, KEYS[0], 4) == id_of(prog)]
    closed(holder)
