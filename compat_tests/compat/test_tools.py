"""Each tool shows under guard and shim what it shows on the kernel, on the same workload.

What it showed there is recorded, of Debian 12's tools; where others are, the kernel is asked now.
"""

from __future__ import annotations

import pytest

from compat_tests.clients import tool
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
    shown = wanted(row)
    assert compare.comparable(row, SHIM) == shown


def wanted(row: rows.Row) -> list[str]:
    if compare.recorded(row.kind):
        return compare.expected()[row.id]
    try:
        return compare.comparable(row, KERNEL)
    except tool.EndedError as error:
        pytest.skip(f"on the kernel, too: {error}")


@pytest.mark.long
@pytest.mark.kernel
@pytest.mark.parametrize("row", ROWS, indirect=True)
def test_a_tool_shows_what_it_shows_on_the_kernel(row: rows.Row) -> None:
    assert compare.comparable(row, SHIM) == compare.comparable(row, KERNEL)
