"""What loaders only try is an errno as on the kernel, and no line says why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.victims import build

HERE = Path(__file__).resolve().parent
SAID = """\
key -22
entries -22
flags -22
types of no descriptor -22
query -95
tracing -14
tracing with flags -22
lwt_seg6local -524
"""


@pytest.mark.parametrize("way", [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
                                 pytest.param(SHIM, id="shim")])
def test_what_is_tried_has_the_kernels_errno_and_no_line(way: Way) -> None:
    made = build.make("asked", [HERE / "asked.c"], [*build.WARN, "-O2"], ["-lbpf"])
    folder = build.private_copy({"asked": made})
    outcome = run(way.tool([str(folder / "asked")]))
    shutil.rmtree(folder)
    assert (outcome.status, outcome.out, outcome.err) == (0, SAID, ""), outcome
