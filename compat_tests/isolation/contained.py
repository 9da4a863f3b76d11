"""A program whose verdict was wrong: contained.py OBJECT APP LIBRARY, under guard and policy.

The verdict that was kept of the first load is given other code, which leaves its window."""

from __future__ import annotations

import sys
import time

import spoiled  # type: ignore[import-not-found]  # it is beside this one

from libbpf_shim import Object, ShimError

OBJECT, APP, LIBRARY = sys.argv[1:4]
EPERM = 1


def main() -> None:
    with Object.open(OBJECT) as loaded:
        loaded.load()
        with loaded.programs["watch_uri"].attach_uprobe(APP, "app_handle"):
            spoiled.run(APP, LIBRARY)
        assert loaded.vars["hits"] == spoiled.ROUNDS
    spoiled.spoil("watch")
    with Object.open(OBJECT) as loaded:
        loaded.load()
        watch = loaded.programs["watch_uri"]
        with watch.attach_uprobe(APP, "app_handle"):
            spoiled.run(APP, LIBRARY)  # the application goes on
            end = time.monotonic() + spoiled.LIMIT
            while time.monotonic() < end:
                try:
                    with watch.attach_uprobe(APP, "app_handle"):
                        continue
                except ShimError as error:
                    assert error.errno == EPERM, error
                    break
            else:
                raise AssertionError("the backend was not told")
            spoiled.run(APP, LIBRARY)
        assert loaded.vars["hits"] == 0
        row = spoiled.told()
        assert (row["verdict"], row["program"], row["class"], row["insn"]) == (
            "contained", "watch_uri", "watch", 1), row
    print("fine")


if __name__ == "__main__":
    main()
