"""LLVM in a process of its own: what it dies of is no more than a refusal.

LLVM ends its process where one of its assertions fails, which some programs bring about (the
scheduler of 22.1 at loads that are folded into a comparison). Who compiles at the load of a
program answers everybody else, too. The process compiles one program after the other: LLVM takes
longer to begin than to compile a small one. It ends with whoever asks, or at a program; the next
program has another one.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[3]
_MAIN: Final = ("import sys; sys.path.insert(0, sys.argv[1]); from libbpf_shim.jit.tier2.emit "
                "import main; main(*map(int, sys.argv[2:]))")


class _Process:
    def __init__(self) -> None:
        theirs, requests = os.pipe()
        answers, mine = os.pipe()
        self._out, self._in = os.fdopen(requests, "wb"), os.fdopen(answers, "rb")
        numbers = [str(number) for number in (theirs, mine, os.getpid())]
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-c", _MAIN, str(_ROOT), *numbers],
                pass_fds=[theirs, mine], env={}, stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL)  # LLVM's last words
        finally:
            os.close(theirs)
            os.close(mine)

    def ask(self, text: str, bmi: bool) -> bytes | str | None:
        """None: it has ended."""
        try:
            pickle.dump((text, bmi), self._out)
            self._out.flush()
            found: bytes | str = pickle.load(self._in)
            return found
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            return None

    def close(self) -> None:
        self._in.close()
        with contextlib.suppress(BrokenPipeError):
            self._out.close()

    def end(self) -> int:
        """Its status: of exit(), or minus a signal's number."""
        self.close()
        return self._child.wait()


_process: _Process | None = None


def emitted(text: str, bmi: bool) -> bytes:
    """As emit.py's. ValueError: that, or that LLVM ended."""
    global _process
    if _process is None:
        _process = _Process()
    found = _process.ask(text, bmi)
    if found is None:
        ended, _process = _process, None
        raise ValueError(f"LLVM ended with status {ended.end()}")
    if isinstance(found, str):
        raise ValueError(found)
    return found


def _forked() -> None:
    """The pipes are the parent's: held open here, they would keep its process."""
    global _process
    if _process is not None:
        _process.close()
        _process = None


os.register_at_fork(after_in_child=_forked)
