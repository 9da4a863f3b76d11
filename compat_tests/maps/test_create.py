"""MAP_CREATE with every type, size, count and flag, most of them wrong: the kernel's errno."""

from __future__ import annotations

import errno

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from compat_tests.maps.drive import Create, Pair, Sequence

# SOCKHASH and the like are refused where the kernel has them (docs/parity.md, maps).
ABSENT = frozenset({14, 15, 16, 17, 18, 19, 20, 21, 24, 25, 26, 28, 32})
TOKEN_FD = 1 << 16  # descriptor 0 is no token, which is said before what is wrong with the type
LAST_TYPE = 40
BIGGEST = 1 << 24  # bytes of values: more is the kernel's memory, not its rules
KEYS = (4, 0, 1, 2, 3, 5, 8, 12, 16, 20, 64, 256, 260, 261, 512, 513, 1024)
VALUES = (8, 4, 0, 1, 2, 3, 5, 7, 12, 16, 100, 512, 4096, 32768, 32769, 1 << 20)
ENTRIES = (4, 8, 4096, 0, 1, 2, 3, 5, 16, 100, 1000, 8192, 12288, 65536)
FLAGS = (0, *(1 << n for n in range(20)))
EXTRA = (0, 1, 15, 16, 1 << 32)


def often(usual: tuple[int, ...], every: tuple[int, ...]) -> st.SearchStrategy[int]:
    """One of the few that types accept, as often as any."""
    return st.one_of(st.sampled_from(usual), st.sampled_from(every))


@st.composite
def creates(draw: st.DrawFn) -> Create:
    value = draw(often(VALUES[:3], VALUES))
    entries = draw(often(ENTRIES[:3], ENTRIES))
    flags = draw(often((0,), FLAGS)) | draw(often((0,), FLAGS))
    kind = draw(st.integers(0, LAST_TYPE))
    if kind in ABSENT:
        flags &= ~TOKEN_FD
    return Create(kind, draw(often(KEYS[:2], KEYS)), value,
                  entries if entries * value <= BIGGEST else 4, flags, draw(often((0,), EXTRA)))


def compare(pair: Pair, number: int, first_seed: int) -> int:
    """NUMBER of them; how many both made."""
    both = 0

    def same(create: Create) -> None:
        nonlocal both
        kernel, shim = pair.run(Sequence(create, [bytes(create.key_size)], []))
        absent = (create.type in ABSENT and shim.created == -errno.EOPNOTSUPP
                  and kernel.created in (0, -errno.E2BIG))  # of CPUMAP: more than NR_CPUS
        assert absent or kernel.created == shim.created, f"{kernel.created} {shim.created}"
        both += not shim.created

    run = settings(max_examples=number, deadline=None, database=None,
                   suppress_health_check=list(HealthCheck))
    seed(first_seed)(run(given(creates())(same)))()
    return both


@pytest.mark.kernel
def test_a_map_is_made_or_refused_as_by_the_kernel(pair: Pair) -> None:
    assert compare(pair, 1500, 0) > 30


@pytest.mark.kernel
@pytest.mark.long
@pytest.mark.timeout(600)
def test_twenty_thousand_maps_are_made_or_refused_as_by_the_kernel(pair: Pair) -> None:
    for first_seed in range(1, 11):
        compare(pair, 2000, first_seed)
