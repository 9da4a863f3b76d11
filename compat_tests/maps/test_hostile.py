"""A peer that writes anything into a map's memory: the runtime stays inside it, and comes back.

hostile.c is csrc/runtime under AddressSanitizer, its maps alone between addresses that fault.
"""

from __future__ import annotations

import random
import re
import subprocess

import pytest

from compat_tests.maps import runtime
from compat_tests.maps.drive import HERE


def garble(seed: int, rounds: int, limit: float) -> None:
    program = runtime.program("maps-hostile", HERE / "hostile.c",
                              ["-fsanitize=address", "-fno-omit-frame-pointer"])
    done = subprocess.run([program, str(seed), str(rounds)], capture_output=True, text=True,
                          timeout=limit)
    assert done.returncode == 0, f"seed {seed}\n{done.stdout}{done.stderr[:4000]}"
    found = re.fullmatch(r"rounds (\d+) headers accepted (\d+) answers (\d+)\n", done.stdout)
    # a header that was left whole is accepted, and what works in it still does
    assert found and int(found[2]) and int(found[3]), done.stdout


@pytest.mark.parametrize("seed", [1, 2])
def test_garbled_maps_are_survived(seed: int) -> None:
    garble(seed, 250, 100)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_thousand_garbled_maps_are_survived() -> None:
    garble(random.SystemRandom().getrandbits(32), 10_000, 800)
