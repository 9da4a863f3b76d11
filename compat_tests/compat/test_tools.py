"""Each tool shows under guard and shim what it shows on the kernel, on the same workload.

What it showed there is recorded, of Debian 12's tools; where others are, the kernel is asked now.
"""

from __future__ import annotations

import pytest

from compat_tests.clients.tool import KERNEL, SHIM
from compat_tests.compat import compare, rows
from compat_tests.oracle import kernel

ROWS = [pytest.param(row, id=row.id) for row in rows.ALL]


@pytest.fixture
def row(request: pytest.FixtureRequest) -> rows.Row:
    found = request.param
    assert isinstance(found, rows.Row)
    if lack := compare.missing(found):
        pytest.skip(f"not installed: {lack}")
    return found


@pytest.mark.parametrize("row", ROWS, indirect=True)
def test_a_tool_shows_what_it_showed_on_the_kernel(row: rows.Row) -> None:
    if not compare.recorded(row.kind) and (reason := kernel.why_not()):
        pytest.skip(f"recorded with tools of another version, and the kernel's bpf(2): {reason}")
    wanted = (compare.expected()[row.id] if compare.recorded(row.kind)
              else compare.comparable(row, KERNEL))
    assert compare.comparable(row, SHIM) == wanted


@pytest.mark.long
@pytest.mark.kernel
@pytest.mark.parametrize("row", ROWS, indirect=True)
def test_a_tool_shows_what_it_shows_on_the_kernel(row: rows.Row) -> None:
    assert compare.comparable(row, SHIM) == compare.comparable(row, KERNEL)
