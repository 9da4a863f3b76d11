"""Tests that hold of each tier."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from compat_tests.jit import native


def _by(tier: int) -> Iterator[int]:
    if not native.has(tier):
        pytest.skip("llvmlite is not installed")
    native.Compiler.tier = tier
    yield tier
    native.Compiler.tier = 1


@pytest.fixture(params=native.TIERS, ids=[f"tier{n}" for n in native.TIERS])
def each_tier(request: pytest.FixtureRequest) -> Iterator[int]:
    """native.compile_program() is this tier's."""
    yield from _by(request.param)


@pytest.fixture(params=native.COMPILERS, ids=[f"tier{n}" for n in native.COMPILERS])
def each_compiler(request: pytest.FixtureRequest) -> Iterator[int]:
    """The same of those that make code of instructions."""
    yield from _by(request.param)
