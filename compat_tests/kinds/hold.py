"""A loader that keeps probes with reference counters: `python3 hold.py PATH OFFSET:REF...`
attaches in every process, by a link of them all and by an event each (-m: by the link alone), says
READY, and ends in good order at the end of its input, with the number of runs."""

from __future__ import annotations

import os
import sys

import drive  # type: ignore[import-not-found]  # these are beside this one
import stage  # type: ignore[import-not-found]


def main() -> None:
    notes = stage.Notes(expected=stage.MULTI)
    plain = stage.Notes()
    alone = sys.argv[1] == "-m"
    if alone:
        del sys.argv[1]
    places = [tuple(map(int, place.split(":"))) for place in sys.argv[2:]]
    held = [stage.opened(stage.multi(
        notes.prog, [p for p, _ in places], refs=[r for _, r in places], path=sys.argv[1]))]
    for place, ref in [] if alone else places:
        event = stage.opened(stage.event(place, ref=ref, path=sys.argv[1]))
        held += [drive.need(stage.link(plain.prog, event), "link"), event]
    print("READY", flush=True)
    sys.stdin.read()
    for fd in held:
        os.close(fd)
    print(notes.count(), flush=True)


if __name__ == "__main__":
    main()
