"""Tests that hold of each compiler."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compat_tests.jit import native


@pytest.fixture(params=native.TIERS, ids=[f"tier{n}" for n in native.TIERS])
def each_tier(request: pytest.FixtureRequest) -> Iterator[int]:
    """native.compile_program() is this tier's."""
    if not native.has(request.param):
        pytest.skip("llvmlite is not installed")
    native.Compiler.tier = request.param
    yield request.param
    native.Compiler.tier = 1
