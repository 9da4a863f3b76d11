"""Better code for programs that stay: who gets it, and what is kept of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.backend.test_workers import SMALL, alive, backend, eventually, load, workers
from libbpf_shim.client.program import Program
from libbpf_shim.client.session import Session
from libbpf_shim.jit import tier2, tiers

# r0 = 0; r1 = 100; do r0 += r1; while (--r1); exit
LOOP = ("b700000000000000" "b701000064000000" "0f10000000000000" "07010000ffffffff"
        "5501fdff00000000" "9500000000000000")  # fmt: skip

pytestmark = pytest.mark.skipif(not tier2.available(), reason="llvmlite is not installed")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path_factory.mktemp("b")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(made))
    return made


@contextlib.contextmanager
def session() -> Iterator[Session]:
    """One with a backend of its own, which has ended afterwards."""
    first = Session(private=True)
    made = Session.of(Path(first.folder))  # whose socket tells who serves
    yield made
    pid = backend(made)
    first.close()
    made.close()
    eventually(lambda: not alive(pid))


def code_size(one: Session, fd: int) -> int:
    held = Program(one, "", fd=os.dup(fd))
    size = held.info()["jited_prog_len"]
    held.close()
    assert isinstance(size, int)
    return size


def test_a_loop_is_compiled_again_and_the_next_load_has_it_at_once(folder: Path) -> None:
    with session() as one:
        loop, small = load(one, LOOP), load(one, SMALL)
        first, plain = code_size(one, loop), code_size(one, small)
        eventually(lambda: code_size(one, loop) != first)
        better = code_size(one, loop)
        eventually(lambda: workers(one) == [])
        assert code_size(one, small) == plain
        again = load(one, LOOP)
        assert code_size(one, again) == better
        for fd in (loop, small, again):
            os.close(fd)


@pytest.mark.parametrize("tier", ["1", "2"])
def test_a_tier_that_is_asked_for_is_the_only_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tier: str
) -> None:
    monkeypatch.setenv(tiers.VARIABLE, tier)
    assert not tiers.improves()
    sizes = []
    with session() as one:
        loop, small = load(one, LOOP), load(one, SMALL)
        sizes = [code_size(one, fd) for fd in (loop, small)]
        assert workers(one) == []
        os.close(loop)
        os.close(small)
    from compat_tests.jit.native import Compiler, all_seen, compile_program
    from libbpf_shim.verifier.program import Program as Verified

    monkeypatch.setattr(Compiler, "tier", int(tier))
    for code, size in zip((LOOP, SMALL), sizes, strict=True):
        insns = bytes.fromhex(code)
        assert len(compile_program(Verified(insns, 1), all_seen(insns, (0,), 0)).text) == size
