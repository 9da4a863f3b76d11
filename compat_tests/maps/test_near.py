"""Element commands whose keys, values and descriptors are anywhere: as the kernel has them.

The surface reads and writes memory that it knows to be there, and trusts its table of descriptors
(csrc/surface/fast.c, fdtable.c): neither may be seen.
"""

from __future__ import annotations

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.maps.drive import HERE
from compat_tests.victims import build


def program() -> str:
    return str(build.make("maps-near", [HERE / "near.c"], [*build.WARN, "-O1", "-pthread"]))


@pytest.mark.kernel
@pytest.mark.xfail(strict=True, reason="docs/parity.md: such a close is not seen")
def test_a_map_closed_by_an_instruction_of_the_loaders_own_is_closed() -> None:
    argv = [program(), "inline"]
    assert run(SHIM.tool(argv)).out == run(KERNEL.tool(argv)).out


@pytest.mark.kernel
def test_memory_and_descriptors_of_every_kind_have_the_kernels_results() -> None:
    want, got = run(KERNEL.tool([program()])), run(SHIM.tool([program()]))
    assert want.status == 0, want
    assert (got.status, got.out.splitlines()) == (0, want.out.splitlines()), got.err


@pytest.mark.parametrize("way", [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
                                 pytest.param(SHIM, id="shim")])
def test_possible_cpus_asked_before_the_first_command_are_the_sessions(way: Way) -> None:
    built = build.make("maps-possible", [HERE / "possible.c"], [*build.WARN, "-O1"], ["-lbpf"])
    assert run(way.tool([str(built)])).out == "1\n"
