"""Reads on and around stacks of all kinds: of the first thread, of others with and without a
guard, of coroutines on memory that goes, of signal handlers, of children."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM
from compat_tests.inject.targets import FLAGS, HERE, Target
from compat_tests.inject.test_live import Reads, nothing_left
from compat_tests.victims import build

pytestmark = pytest.mark.timeout(180)
ROUNDS = 3


@pytest.fixture
def folder() -> Iterator[Path]:
    made = build.private_copy({})
    yield made
    shutil.rmtree(made)


def program(folder: Path, compiler: str, *flags: str) -> Path:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler}: not installed")
    name = "-".join(["stacks", compiler, *(f.strip("-") for f in flags)])
    made = build.make(name, [HERE / "stacks.c"], [*FLAGS, *flags], compiler=compiler)
    copy = folder / "stacks"
    shutil.copy(made, copy)
    copy.chmod(0o755)
    return copy


@pytest.mark.parametrize("flags", [(), ("-static",)], ids=["shared", "static"])
def test_what_is_read_is_there_and_nothing_else(flags: tuple[str, ...], folder: Path) -> None:
    copy = program(folder, "gcc", *flags)
    with Target([str(copy)], guarded=True) as target:
        with Reads(copy, "seen", "stacks") as loader:
            looked(target, loader)
            loader.finish()
        nothing_left(target)
        target.works()
        target.end()


def test_a_process_that_begins_with_the_library_is_read_the_same(folder: Path) -> None:
    copy = program(folder, "gcc")
    with Reads(copy, "seen", "stacks") as loader, Target(SHIM.target([str(copy)])) as target:
        looked(target, loader)
        loader.finish()
        target.end()


def looked(target: Target, loader: Reads) -> None:
    hits = sum(target._ask(b"x") for _ in range(ROUNDS))
    seen, refused, read, wrong = loader.counters()
    assert (seen, wrong) == (hits, 0)
    assert refused == ROUNDS * (2 + 2 * 3 * 5) and read == hits - refused
