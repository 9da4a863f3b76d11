"""A loader of another user's: loader.py OBJECT APP WHAT..., in the daemon's session.

Prints `ready` when it has done what it is told, and what it counted when its input ends.
"""

from __future__ import annotations

import errno
import sys

from libbpf_shim import Object, ShimError

OBJECT, APP = sys.argv[1:3]
PROGRAMS = sys.argv[3].split(",")
FUNCTION = sys.argv[4] if len(sys.argv) > 4 else "app_handle"


def main() -> None:
    with Object.open(OBJECT) as opened:
        for name, program in opened.programs.items():
            program.autoload = name in PROGRAMS
        loaded = opened.load()
        links = [loaded.programs[name].attach_uprobe(APP, FUNCTION) for name in PROGRAMS]
        print("ready", flush=True)
        sys.stdin.read()
        print(loaded.vars["hits"], loaded.vars["bytes"], flush=True)
        for link in links:
            link.close()


if __name__ == "__main__":
    try:
        main()
    except ShimError as error:
        print(f"{errno.errorcode[error.errno]} {error.message}\n{error.hint}", file=sys.stderr)
        sys.exit(1)
