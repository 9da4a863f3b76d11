"""The same through the Python API: api.py OBJECT PATH PROVIDER NAME... (see loader.c)."""

from __future__ import annotations

import contextlib
import sys

from libbpf_shim import Object


def main() -> None:
    path, binary, provider, *names = sys.argv[1:]
    with Object.open(path) as loaded, contextlib.ExitStack() as links:
        loaded.load()
        program = loaded.programs["on_function"]
        for number, name in enumerate(names):
            links.enter_context(program.attach_usdt(binary, provider, name, cookie=number + 1))
        print("READY", flush=True)
        sys.stdin.read()
        for key, count in loaded.maps["calls"].items():
            print(key.cookie, key.name.decode(), key.line, count)


if __name__ == "__main__":
    main()
