"""BTF that waits until it is asked for."""

from __future__ import annotations

import time

from libbpf_shim.btf.lazy import LazyBtf, parsed
from libbpf_shim.btf.synthetic import build
from libbpf_shim.object.btf import MACHINE


def test_it_is_read_once_and_only_if_it_is_asked_for() -> None:
    reads = []

    def read() -> bytes:
        reads.append(1)
        return build()

    lazy = LazyBtf(read)
    assert not reads
    assert lazy.btf.find("task_struct") is lazy.btf.find("task_struct")
    assert lazy.btf is lazy.btf
    assert len(reads) == 1


def test_a_blob_is_parsed_once() -> None:
    assert parsed(build()) is parsed(build())


def test_the_machines_takes_little_time() -> None:
    MACHINE.blob  # noqa: B018
    best = 1.0
    for _ in range(3):
        began = time.process_time()
        lazy = LazyBtf(lambda: MACHINE.blob)
        assert lazy.btf.find("task_struct") is not None
        best = min(best, time.process_time() - began)
    assert best < 0.25
