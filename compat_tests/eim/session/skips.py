"""Programs that skip functions of an application: skips.py OBJECT APP LIBRARY, under guard and
policy."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any

from libbpf_shim import Object, ShimError
from libbpf_shim.cli import listing

OBJECT, APP, LIBRARY = sys.argv[1:4]
EPERM, ROUNDS = 1, 20
ODD = ROUNDS // 2
SUM = ROUNDS * (ROUNDS - 1) // 2
ODDS = ODD * ODD  # the odd numbers' sum
ALL = [200 * ROUNDS, ROUNDS, SUM, 200 * ROUNDS, ROUNDS]


def run() -> list[int]:
    done = subprocess.run([APP, str(ROUNDS)], env={"LD_PRELOAD": LIBRARY}, text=True,
                          capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done
    return [int(word) for word in done.stdout.split()]


def running(loaded: Any, *order: str) -> list[int]:
    """The same of an application that runs already, without the library: the agent is put there,
    and returns are seen where the function leaves, if they can be."""
    with subprocess.Popen([APP, str(ROUNDS), "waits"], text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as app, contextlib.ExitStack() as links:
        assert app.stdin and app.stdout and app.stdout.readline() == "waits\n"
        for name in order:
            links.enter_context(loaded.programs[name].attach_uprobe(
                APP, "app_rule", pid=app.pid, ret=name == "see_return"))
        out, _ = app.communicate("\n", timeout=60)
    return [int(word) for word in out.split()]


def refused(attach: Any, function: str, ret: bool = False) -> bool:
    try:
        attach(APP, function, ret=ret)
    except ShimError as error:
        return error.errno == EPERM
    return False


def with_others(loaded: Any, function: str, order: tuple[str, ...]) -> tuple[list[int], Any]:
    """What the application prints with those programs at the function, and what they saw."""
    for name in ("before", "after", "returned", "returned_403"):
        loaded.vars[name] = 0
    with contextlib.ExitStack() as links:
        for name in order:
            links.enter_context(loaded.programs[name].attach_uprobe(
                APP, function, ret=name == "see_return"))
        got = run()
    return got, [loaded.vars[name] for name in ("before", "after", "returned", "returned_403")]


def main() -> None:
    with Object.open(OBJECT) as loaded:
        loaded.load()
        some = [200 * ODD + 403 * ODD, ODD, *ALL[2:]]
        seen = [ROUNDS, SUM, ROUNDS, ODD]
        assert with_others(loaded, "app_rule", ("skip_rule",))[0] == some
        for order in (("see_before", "skip_rule", "see_after", "see_return"),
                      ("see_return", "see_after", "skip_rule", "see_before")):
            assert (found := with_others(loaded, "app_rule", order)) == (some, seen), found
        with loaded.programs["skip_many"].attach_uprobe_multi(APP, "app_rule"):
            assert run() == some
        assert run() == ALL
        got, _ = with_others(loaded, "app_rule", ("skip_all", "skip_rule"))
        assert got == [404 * ROUNDS, 0, *ALL[2:]], got  # the last one that runs says: the oldest
        got, _ = with_others(loaded, "app_rule", ("skip_all", "plain"))
        assert got == [404 * ROUNDS, 0, *ALL[2:]], got
        got, _ = with_others(loaded, "app_bump", ("skip_bump",))
        assert got == [*ALL[:2], SUM - ODDS, *ALL[3:]], got
        for pair in (("skip_rule", "see_return"), ("see_return", "skip_rule")):
            found = with_others(loaded, "app_caller", pair)
            assert found == ([*ALL[:3], some[0], ROUNDS], [0, 0, ROUNDS, ODD]), found
        loaded.vars["returned_403"] = 0
        for pair in (("see_return", "skip_rule"), ("skip_rule", "see_return")):
            assert running(loaded, *pair) == some
        assert loaded.vars["returned_403"] == 2 * ODD
        for name in ("spin", "spin_within"):  # ended: the default
            loaded.vars["turns"] = 0
            with loaded.programs[name].attach_uprobe(APP, "app_rule"):
                assert run() == some
            assert 0 < loaded.vars["turns"] < ODD * 200, (name, loaded.vars["turns"])
            rows = [row for row in listing.rows("prog")[0] if row["name"] == name]
            assert rows[-1]["ended"] == ODD, rows
        assert refused(loaded.programs["spin"].attach_uprobe, "app_rule", True)
        for name in ("skip_rule", "skip_all", "skip_bump"):
            attach = loaded.programs[name].attach_uprobe
            assert refused(attach, "app_rule", True), "a return is not skipped"
        assert refused(loaded.programs["skip_bump"].attach_uprobe, "app_rule"), "no entry of it"
    print("fine")


if __name__ == "__main__":
    main()
