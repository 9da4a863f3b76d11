"""bcc's tools at the functions of system calls. Where it is not root bcc calls them sys_NAME, and
the kernel here has no kprobes: opensnoop's like among libbpf-tools says what is to be seen."""

from __future__ import annotations

import re

import pytest

from compat_tests.clients.tool import SHIM
from compat_tests.compat import compare
from compat_tests.compat.rows import OPENS, Row, bcc, lines


def found(row: Row) -> list[str]:
    if lack := compare.missing(row):
        pytest.skip(f"not installed: {lack}")
    return compare.comparable(row, SHIM)


def test_opensnoop_shows_what_that_of_libbpf_shows() -> None:
    row = Row("opensnoop", "bcc", "B", bcc("opensnoop", "-p", "$PID"), "PID ", "opens",
              lines(OPENS), "/nonexistent/last", ordered=False)
    assert found(row) == sorted(compare.expected()["libbpf-tools-opensnoop"])


def test_functions_are_named_by_a_pattern() -> None:
    def counts(text: str, family: frozenset[int]) -> list[str]:
        return re.findall(r"^(\w+) +\d+\r?$", text, re.M)

    pattern = "__x64_sys_(umask|getpriority|sync)$"
    row = Row("funccount", "bcc", "B", bcc("funccount", "-p", "$PID", "-r", pattern),
              "Hit Ctrl-C", "calls", counts, ordered=False)
    assert found(row) == ["__x64_sys_getpriority", "__x64_sys_umask"]
