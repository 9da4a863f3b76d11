"""A session, a program that makes system calls and checks them, and counters of its calls."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compat_tests.attach.host import Host, Victim
from compat_tests.victims import build
from libbpf_shim.attach import deliver, newcomers, target
from libbpf_shim.attach.target import Target

HERE = Path(__file__).resolve().parent


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sc") as folder:  # socket paths are short
        yield Path(folder)


@pytest.fixture(autouse=True)
def own_processes(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are of every process: here, of those alone that this test has started."""
    mark = f"XDG_RUNTIME_DIR={runtime_dir}".encode()

    def ours(found: Target) -> bool:
        with contextlib.suppress(OSError):
            return mark in Path(f"/proc/{found.pid}/environ").read_bytes().split(b"\0")
        return False

    monkeypatch.setattr(deliver, "targets", lambda: filter(ours, target.targets()))
    monkeypatch.setattr(deliver, "candidates", lambda concerns: newcomers.candidates(
        lambda found: ours(found) and concerns(found)))


@pytest.fixture
def host(runtime_dir: Path) -> Iterator[Host]:
    made = Host(runtime_dir, 1)
    yield made
    made.end()
    made.close()


@pytest.fixture
def program() -> Iterator[Path]:
    flags = [*build.WARN, "-O2", "-fexceptions", "-pthread", "-rdynamic"]
    caller = build.make("caller", [HERE / "caller.c", HERE / "sites.S"], flags, ["-ldl"],
                        headers=[HERE / "sites.h"])
    plug = build.make("libcall.so", [HERE / "plug.c"], [*build.WARN, "-O2", "-shared", "-fPIC"])
    folder = build.private_copy({"caller": caller, "libcall.so": plug})
    yield folder / "caller"
    shutil.rmtree(folder)


@pytest.fixture
def start(program: Path, runtime_dir: Path) -> Iterator[Callable[..., Victim]]:
    """Starts callers; they must end in good order."""
    started: list[Victim] = []

    def make(*hosts: Host, **what: Any) -> Victim:
        plug = str(program.parent / "libcall.so")
        started.append(Victim(program, runtime_dir, *hosts, arguments=[plug], **what))
        return started[-1]

    yield make
    try:
        for victim in started:
            if victim.process.poll() is None:
                victim.end()
    finally:
        for victim in started:
            victim.kill()
