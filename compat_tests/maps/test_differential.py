"""The same random sequences of map commands on the kernel and on the shim: equal in everything."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, seed, settings

from compat_tests.maps.drive import Cmd, Op, Pair, Sequence
from compat_tests.maps.rows import PADDED, ROWS, Row
from compat_tests.maps.sequence import difference, sequences

LENGTH = 480  # ops of the longest sequence
SUITE_OPS, LONG_OPS = 200_000, 10_000_000
MEAN = 340  # ops of a sequence
FEWEST, MOST = 10, 2000  # sequences of one run: hypothesis remembers them all

pytestmark = pytest.mark.kernel


def drive(pair: Pair, row: Row, ops: int, first_seed: int) -> None:
    """At least OPS operations of ROW; the first difference, made small, is the error."""
    before = pair.ops

    def same(found: Sequence) -> None:
        wrong = difference(row, found, *pair.run(found))
        assert not wrong, wrong

    checks = [HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large]
    for turn in range(ops):
        left = ops - (pair.ops - before)
        if left <= 0:
            break
        run = settings(max_examples=min(MOST, left // MEAN + FEWEST), deadline=None, database=None,
                       suppress_health_check=checks)
        seed(first_seed + turn)(run(given(sequences(row, LENGTH))(same)))()


def part(ops: int, row: Row) -> int:
    """A row's share of OPS."""
    return int(ops * row.share / sum(other.share for other in ROWS)) + 1


@pytest.mark.parametrize("row", (*ROWS, PADDED), ids=lambda row: row.name)
def test_what_is_not_held_to_equality_is_not_equal_on_two_kernels(twins: Pair, row: Row) -> None:
    wanted, differ = bool(row.check) or row is PADDED, 0

    def count(found: Sequence) -> None:
        nonlocal differ
        one, other = twins.run(found)
        differ += (one.created, one.raw) != (other.created, other.raw)

    runs = 60 if wanted else max(3, int(10 * row.share))
    seed(1)(settings(max_examples=runs, deadline=None, database=None,
                     suppress_health_check=list(HealthCheck))(
        given(sequences(row, LENGTH))(count)))()
    assert bool(differ) == wanted, f"{differ} of {runs}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_sequence_of_commands_has_the_kernels_results(pair: Pair, row: Row) -> None:
    drive(pair, row, part(SUITE_OPS, row), 0)


def test_what_is_ready_twice_over_is_the_kernels_too(pair: Pair) -> None:
    """Keys written again, then deleted, with no free element asked for in between."""
    row = next(row for row in ROWS if row.name == "LRU_HASH of many")
    create = row.creates()[0]
    ops = [Op(Cmd.UPDATE_BATCH, 224, 4, count=0xFFFFFFFF), Op(Cmd.UPDATE_BATCH, 95, count=60),
           Op(Cmd.DELETE_BATCH, 79, count=300, stride=2), Op(Cmd.UPDATE_BATCH, 46, count=300),
           Op(Cmd.WALK)]
    found = Sequence(create, row.keys(create), ops)
    wrong = difference(row, found, *pair.run(found))
    assert not wrong, wrong


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_ten_million_commands_have_the_kernels_results(pair: Pair, row: Row) -> None:
    first_seed = random.SystemRandom().getrandbits(32)
    print(f"first seed {first_seed}")
    drive(pair, row, part(LONG_OPS, row), first_seed)
