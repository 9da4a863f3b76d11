"""Programs of classes in a session: checks.py OBJECT APP LIBRARY, under guard and policy."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from libbpf_shim import Object, ShimError

OBJECT, APP, LIBRARY = sys.argv[1:4]
EPERM, ROUNDS = 1, 20


def run() -> int:
    done = subprocess.run([APP, str(ROUNDS)], env={"LD_PRELOAD": LIBRARY}, text=True,
                          capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done
    return int(done.stdout)


def refused(attach: Any, function: str, ret: bool = False) -> bool:
    try:
        attach(APP, function, ret=ret)
    except ShimError as error:
        return error.errno == EPERM
    return False


def main() -> None:
    with Object.open(OBJECT) as loaded:
        loaded.load()
        watch, mark, stranger = (loaded.programs[name] for name in
                                 ("watch_uri", "mark_status", "stranger"))
        with watch.attach_uprobe(APP, "app_handle"):
            assert run() == 200 * ROUNDS
        seen = {name: loaded.vars[name] for name in ("hits", "longest", "ports", "read_ports")}
        with_peer = 80 * ROUNDS * 4 // 5
        assert seen == {"hits": ROUNDS, "longest": ROUNDS - 1, "ports": with_peer,
                        "read_ports": with_peer}, seen
        with loaded.programs["watch_name"].attach_uprobe(APP, "app_handle"):
            run()
        seen = {name: loaded.vars[name] for name in ("gates", "whole", "beyond")}
        assert seen == {"gates": ROUNDS * 4 // 5, "whole": ROUNDS * 4 // 5, "beyond": ROUNDS}, seen
        with mark.attach_uprobe(APP, "app_handle"):
            assert run() == 403 * ROUNDS
        assert run() == 200 * ROUNDS
        many = loaded.programs["watch_many"]
        for attach in (watch.attach_uprobe, many.attach_uprobe_multi):
            assert refused(attach, "app_done"), "another function is no entry"
            assert refused(attach, "app_handle", True), "nor is the entry's return"
        assert refused(stranger.attach_uprobe, "app_handle"), "bound to no class"
        with many.attach_uprobe_multi(APP, "app_handle"):
            run()
        assert loaded.vars["hits"] == 2 * ROUNDS
    print("fine")


if __name__ == "__main__":
    main()
