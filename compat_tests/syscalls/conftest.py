"""A session, a program that makes system calls and checks them, and counters of its calls."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compat_tests.attach.conftest import host, runtime_dir
from compat_tests.attach.host import Victim, victims
from compat_tests.victims import build
from libbpf_shim.attach import deliver, newcomers, removal, target
from libbpf_shim.attach.target import Target

HERE = Path(__file__).resolve().parent
__all__ = ["host", "runtime_dir"]


@pytest.fixture(autouse=True)
def own_processes(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are of every process: here, of those alone that this test has started."""
    mark = f"XDG_RUNTIME_DIR={runtime_dir}".encode()

    def ours(found: Target) -> bool:
        with contextlib.suppress(OSError):
            return mark in Path(f"/proc/{found.pid}/environ").read_bytes().split(b"\0")
        return False

    monkeypatch.setattr(removal, "targets", lambda: filter(ours, target.targets()))
    monkeypatch.setattr(deliver, "candidates", lambda concerns: newcomers.candidates(
        lambda found: ours(found) and concerns(found)))


@pytest.fixture
def program() -> Iterator[Path]:
    flags = [*build.WARN, "-O2", "-fexceptions", "-pthread", "-rdynamic"]
    files = ("caller.c", "registers.c", "waits.c", "procs.c", "sites.S")
    caller = build.make("caller", [HERE / name for name in files], flags, ["-ldl"],
                        headers=[HERE / "caller.h", HERE / "sites.h"])
    plug = build.make("libcall.so", [HERE / "plug.c"], [*build.WARN, "-O2", "-shared", "-fPIC"])
    folder = build.private_copy({"caller": caller, "libcall.so": plug})
    yield folder / "caller"
    shutil.rmtree(folder)


@pytest.fixture
def start(program: Path, runtime_dir: Path) -> Iterator[Callable[..., Victim]]:
    with victims(program, runtime_dir, [str(program.parent / "libcall.so")]) as make:
        yield make
