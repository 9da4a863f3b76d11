"""A class that wants protection keys where there are none: refused.py OBJECT APP."""

from __future__ import annotations

import errno
import sys

from libbpf_shim import Object, ShimError

OBJECT, APP = sys.argv[1:3]


def main() -> None:
    with Object.open(OBJECT) as loaded:
        loaded.load()
        try:
            loaded.programs["on_one"].attach_uprobe(APP, "one")
        except ShimError as error:
            assert error.errno == errno.EOPNOTSUPP, error
        else:
            raise AssertionError("attached")
        with loaded.programs["beside"].attach_uprobe(APP, "one"):
            print("others are not")


if __name__ == "__main__":
    main()
