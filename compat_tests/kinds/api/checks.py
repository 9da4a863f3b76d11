"""Links of many uprobes by the Python API: checks.py OBJECT VICTIM LIBRARY, under the guard.

The victim calls v_tick once a round, v_add(i, 3), v_scale(i) and others; see calls.c.
"""

from __future__ import annotations

import subprocess
import sys

from libbpf_shim import Object, Program, ShimError

OBJECT, VICTIM, LIBRARY = sys.argv[1:4]
FUNCTIONS = ["v_tick", "v_add", "v_scale"]
EINVAL, ENOENT = 22, 2


def run(rounds: int) -> None:
    done = subprocess.run([VICTIM, "-n", str(rounds)], env={"LD_PRELOAD": LIBRARY},
                          stdout=subprocess.DEVNULL, timeout=60, check=False)
    assert done.returncode == 0, done


def errno_of(program: Program, *what: object, **more: object) -> int:
    try:
        program.attach_uprobe_multi(*what, **more)  # type: ignore[arg-type]
    except ShimError as error:
        return error.errno
    return 0


def main() -> None:
    with Object.open(OBJECT) as loaded:
        loaded.load()
        entry, ret = loaded.programs["on_entry"], loaded.programs["on_return"]
        with entry.attach_uprobe_multi(VICTIM, FUNCTIONS, cookies=[1, 2, 3]) as link:
            info = link.info()
            assert (info["type"], info["uprobe_multi.count"]) == (12, 3), info
            with ret.attach_uprobe_multi(VICTIM, FUNCTIONS):
                run(10)
        run(5)
        assert loaded.vars["by_cookie"][1:4] == [10, 10, 10], loaded.vars["by_cookie"]
        assert (loaded.vars["entered"], loaded.vars["returned"]) == (30, 30)
        with loaded.programs["on_sleep"].attach_uprobe_multi(VICTIM, "v_ad?"):
            run(10)
        assert loaded.vars["slept"] == 10, loaded.vars["slept"]
        with loaded.programs["on_both"].attach_uprobe_multi(VICTIM, ["v_add"]):
            run(10)
        assert (loaded.vars["begun"], loaded.vars["ended"]) == (10, 5), loaded.vars["ended"]
        assert loaded.vars["sum"] == sum(10 * i for i in range(0, 10, 2)), loaded.vars["sum"]
        assert errno_of(entry, VICTIM, "no_such_*") == ENOENT
        assert errno_of(entry, VICTIM, FUNCTIONS, cookies=[1]) == EINVAL
        assert errno_of(entry, "/nonexistent", FUNCTIONS) == ENOENT
        try:
            entry.attach()
        except ShimError as error:
            assert error.errno == EINVAL, "its section names no functions"
    print("fine")


if __name__ == "__main__":
    main()
