"""Answers to processes that live in a namespace of process numbers of their own: which numbers of
ours theirs are (csrc/native/answer.c). A thread of its own, in C: who asks stands in a hit."""

from __future__ import annotations

from functools import partial

from libbpf_shim.backend.beside import Beside
from libbpf_shim.object.control import Control


class Answers:
    """Of one session, from `begin` to `close`."""

    def __init__(self, control: Control) -> None:
        from libbpf_shim._native import ffi, lib

        self._ffi, self._lib, self._control = ffi, lib, control
        self._thread: Beside | None = None

    def begin(self) -> None:
        """From now on; who has asked before waits for that."""
        self._thread = Beside(partial(self._lib.shim_native_answer, self._control.ctl))

    def close(self) -> None:
        """Ends the thread; the control page stays mapped until then."""
        ctl = self._control.ctl
        ctl.ask_end = 1
        ctl.ask_seq = int(ctl.ask_seq) + 1 & 0xFFFFFFFF  # others write both
        self._lib.shim_native_futex_wake(self._ffi.addressof(ctl, "ask_seq"), 1 << 30)
        if self._thread:
            self._thread.join(5.0)
