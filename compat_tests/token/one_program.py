"""One program of an object at app_handle: one_program.py OBJECT APP PROGRAM."""

from __future__ import annotations

import sys

from libbpf_shim import Object, ShimError

OBJECT, APP, NAME = sys.argv[1:4]


def main() -> str:
    with Object.open(OBJECT) as loaded:
        for program in loaded.programs.values():
            program.autoload = program.name == NAME
        try:
            loaded.load()
        except ShimError as error:
            return f"not loaded {error.errno}"
        try:
            with loaded.programs[NAME].attach_uprobe(APP, "app_handle"):
                return "attached"
        except ShimError as error:
            return f"not attached {error.errno}"


if __name__ == "__main__":
    print(main())
