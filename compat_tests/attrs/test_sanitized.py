"""No attr makes the surface or the runtime read or write what is not theirs."""

from __future__ import annotations

import subprocess

from compat_tests.attrs import ask
from compat_tests.clients.tool import SANITIZED, SHIM
from compat_tests.guard import sanitized


def test_the_sanitizers_are_in_the_library() -> None:
    undefined = subprocess.run(["nm", "-u", str(sanitized.library())], capture_output=True,
                               text=True, check=True).stdout  # fmt: skip
    assert "__asan_report_load8" in undefined and "__ubsan_handle" in undefined


def test_every_attr_is_answered_as_without_them() -> None:
    assert ask.answers(SANITIZED) == ask.answers(SHIM)
