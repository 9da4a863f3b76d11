"""What loader.c does, with the Python API: python_loader.py OBJECT APP LIBRARY PROGRAM FUNCTION
[APP's arguments]."""

from __future__ import annotations

import subprocess
import sys

from libbpf_shim import Object, ShimError

OBJECT, APP, LIBRARY, PROGRAM, FUNCTION = sys.argv[1:6]


def main() -> int:
    with Object.open(OBJECT) as loaded:
        for program in loaded.programs.values():
            program.autoload = program.name == PROGRAM
        try:
            loaded.load()
        except ShimError as error:
            print(error.message)
            return 1
        with loaded.programs[PROGRAM].attach_uprobe(APP, FUNCTION):
            done = subprocess.run([APP, *sys.argv[6:]], env={"LD_PRELOAD": LIBRARY}, timeout=60,
                                  text=True, capture_output=True, check=False)
        print(done.stdout, end="")
        print("out", *(int(loaded.maps["out"][n]) for n in range(6)))
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
