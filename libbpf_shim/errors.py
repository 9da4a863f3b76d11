"""The one error tree: a stable code, the errno a host program sees, a sentence, a next step."""

from __future__ import annotations

import os


class ShimError(Exception):
    """Something that was asked cannot be done.

    code: stable identifier (``BV0103``); errno: what bpf(2) or perf_event_open(2) answers;
    message: ``object: what happened: why``; hint: the next command, or "".
    """

    def __init__(self, code: str, errno: int, message: str, hint: str = "") -> None:
        super().__init__(f"{message} ({os.strerror(errno)})")
        self.code = code
        self.errno = errno
        self.message = message
        self.hint = hint
