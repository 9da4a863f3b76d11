"""How far our verdicts agree with the kernel's, by group (agreement.py); tools/agreement.py prints
the table. Nothing that the kernel refuses is accepted; what it accepts alone has a reason.

A sample in the suite, all with --long. Groups that ask the running kernel are marked so.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from compat_tests.verifier import agreement
from compat_tests.verifier import test_corpus as corpus
from libbpf_shim.verifier import verify

pytestmark = pytest.mark.skipif(not corpus.CORPUS.exists(), reason=f"no {corpus.CORPUS.name}")
REASONS = [(why, name) for why, names in corpus.STRICTER.items() for name in names]
AGREEMENT, ERRNOS, HEADS = 0.97, 0.95, 0.80
FEW = 20  # refusals of which a share says little


def held(line: agreement.Line) -> None:
    assert line.judged
    assert not line.unsound
    assert line.agreement >= AGREEMENT, (line.agreement, line.stricter[:5])
    if line.neither >= FEW:
        assert line.errnos / line.neither >= ERRNOS, (line.errnos, line.neither, line.differing)
    if line.worded >= FEW:
        assert line.heads / line.worded >= HEADS, (line.heads, line.worded, line.differing)


@pytest.mark.parametrize(("group", "every"), [("real programs", 2), ("selftests", 15),
                                              ("tables of 6.1", 5)])
def test_recorded_verdicts(group: str, every: int) -> None:
    held(agreement.from_corpus(group, every, corpus.LARGEST))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("group", agreement.GROUPS)
def test_all_recorded_verdicts(group: str) -> None:
    held(agreement.from_corpus(group))


def test_conformance() -> None:
    held(agreement.conformance())


@pytest.mark.kernel
def test_generated() -> None:
    held(agreement.generated(400, 11))


@pytest.mark.kernel
@pytest.mark.parametrize("measure", [agreement.bt_tools, agreement.one_liners])
def test_some_of_bpftrace(measure: agreement.Measure) -> None:
    held(measure(7))


@pytest.mark.kernel
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("measure", [agreement.bt_tools, agreement.one_liners])
def test_all_of_bpftrace(measure: agreement.Measure) -> None:
    held(measure(1))


@pytest.mark.kernel
@pytest.mark.long
@pytest.mark.timeout(600)
def test_libbpf_tools() -> None:
    held(agreement.libbpf_tools())


@pytest.mark.kernel
@pytest.mark.long
@pytest.mark.timeout(600)
def test_many_generated() -> None:
    held(agreement.generated(10000, 12))


@pytest.mark.parametrize(("why", "name"), [
    pytest.param(why, name, marks=pytest.mark.xfail(strict=True, reason=why), id=name)
    for why, name in REASONS])  # fmt: skip
def test_is_stricter_than_the_kernel(why: str, name: str) -> None:
    rows, blobs = corpus.corpus()
    found = next(row for row in rows if row["name"] == name)
    assert not verify(replace(corpus.program(found, blobs), log_level=0)).errno


def test_the_last_message_is_found() -> None:
    log = "0: R1=ctx() R10=fp0\nR0 !read_ok\nprocessed 1 insns (limit 1000000)\n"
    assert agreement.message(log) == "R0 !read_ok"
    assert agreement.head("R1 off=-520 size=8\n; a line @ file.c:1\n") == "RN off=N size=N"
