"""Maps are bounded: what does not fit is ENOMEM, and what is freed can be had again."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients import tool
from compat_tests.guard import launch
from libbpf_shim.errors import ShimError
from libbpf_shim.object import memory
from libbpf_shim.object.file import PAGE, sealed_memfd

ENOMEM = 12


def test_a_session_s_maps_stay_below_its_limit() -> None:
    python = str(launch.product() / ".venv" / "bin" / "python")
    script = str(Path(__file__).with_name("limited.py"))
    env = {memory.VARIABLE: "4M", "LIBBPF_SHIM_SESSION": "private"}
    done = tool.run(launch.guarded([python, "-B", script], preload=True, env=env))
    assert json.loads(done.out) == {
        "three": True, "two more": -ENOMEM, "a hash of two more": -ENOMEM,
        "far too much": -ENOMEM, "after the close": True,
        "hash": [True, -ENOMEM], "hash still works": [0, True, 0, 0],
        # trie_update_elem() makes a node before it looks whether the key is there
        "trie": [True, -ENOMEM], "trie still works": [-ENOMEM, False, 0, 0],
        "everything again": True,
    }  # fmt: skip


def test_a_limit_that_is_no_number_is_said_and_nothing_starts() -> None:
    argv = ["bpftrace", "-e", "BEGIN { exit(); }"]
    done = tool.run(launch.guarded(argv, preload=True, env={
        memory.VARIABLE: "lots", "LIBBPF_SHIM_SESSION": "private"}))  # fmt: skip
    assert done.status != 0 and f"{memory.VARIABLE}=lots: not a number of bytes" in done.err


@pytest.mark.parametrize(("text", "size"), [("4096", 4096), ("64K", 65536), ("2G", 2 << 30)])
def test_a_limit_has_a_unit_or_none(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(memory.VARIABLE, text)
    assert memory.limit() == size


def test_without_a_limit_it_is_half_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(memory.VARIABLE, raising=False)
    pages = os.sysconf("SC_PHYS_PAGES")
    assert memory.limit() == pages * os.sysconf("SC_PAGE_SIZE") // 2


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process grows beyond 16 pages: a full file system, as seen from here."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * PAGE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("front", [None, 20 * PAGE], ids=["whole", "front"])
def test_a_file_system_without_room_is_an_errno(front: int | None, small_files: None) -> None:
    with pytest.raises(ShimError) as caught:
        sealed_memfd("bpf-map", 32 * PAGE, front)
    assert caught.value.errno == ENOMEM
    os.close(sealed_memfd("bpf-map", 16 * PAGE))


def test_nobody_shrinks_a_file_that_others_have_mapped() -> None:
    fd = sealed_memfd("bpf-ctl", 4 * PAGE)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, PAGE)
    os.close(fd)
