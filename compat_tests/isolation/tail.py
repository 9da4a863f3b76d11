"""Isolated programs that tail call: tail.py OBJECT APP LIBRARY, under guard and policy. Then the
verdict of the one that is called was wrong."""

from __future__ import annotations

import sys
import time

import spoiled  # type: ignore[import-not-found]  # it is beside this one

from libbpf_shim import Object, ShimError

OBJECT, APP, LIBRARY = sys.argv[1:4]
EPERM, EINVAL = 1, 22
_RESERVE = 131  # bpf_ringbuf_reserve: of the program that is called


def refused(loaded: Object, name: str) -> int:
    try:
        loaded.maps["progs"][0] = loaded.programs[name]
    except ShimError as error:
        return error.errno
    return 0


def main() -> None:
    with Object.open(OBJECT) as loaded:
        loaded.load()
        loaded.maps["progs"][1] = loaded.programs["is_called"]
        assert refused(loaded, "of_another") == EINVAL
        with loaded.programs["calls"].attach_uprobe(APP, "app_handle"):
            spoiled.run(APP, LIBRARY)
        assert (loaded.vars["called"], loaded.vars["fell_through"]) == (spoiled.ROUNDS, 0)
        assert loaded.vars["looped"] == 10 * spoiled.ROUNDS
    spoiled.spoil("tail", lambda facts: _RESERVE in facts.helpers)
    with Object.open(OBJECT) as loaded:
        loaded.load()
        loaded.maps["progs"][1] = loaded.programs["is_called"]
        with loaded.programs["calls"].attach_uprobe(APP, "app_handle"):
            spoiled.run(APP, LIBRARY)
            end = time.monotonic() + spoiled.LIMIT
            while refused(loaded, "is_called") != EPERM:  # until the backend was told
                assert time.monotonic() < end
            before = loaded.vars["fell_through"]
            spoiled.run(APP, LIBRARY)  # nobody calls it any more
            assert loaded.vars["fell_through"] == before + spoiled.ROUNDS
        row = spoiled.told()
        assert (row["verdict"], row["program"], row["insn"]) == ("contained", "is_called", 1), row
    print("fine")


if __name__ == "__main__":
    main()
