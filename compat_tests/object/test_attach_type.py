"""What programs may be attached as, and which run in the kernel only.

Source: kernel/bpf/syscall.c, bpf_prog_attach_check_attach_type()."""

from __future__ import annotations

import errno

import pytest

from libbpf_shim.errors import ShimError
from libbpf_shim.object import attach_type
from libbpf_shim.verifier.program import Program

# type, expected attach type, attach type, fits
FITS = [
    (2, 0, 41, True),  # kprobe: BPF_PERF_EVENT
    (2, 48, 41, False),  # made for BPF_TRACE_UPROBE_MULTI
    (2, 48, 48, True),
    (3, 0, 46, True),  # sched_cls: BPF_TCX_INGRESS
    (3, 0, 0, False),
    (8, 0, 1, True),  # cgroup_skb: either way
    (9, 0, 2, True),  # cgroup_sock: 0 is BPF_CGROUP_INET_SOCK_CREATE
    (9, 12, 2, False),
    (18, 10, 10, True),  # cgroup_sock_addr: what it was made for
    (18, 10, 11, False),
    (14, 4, 38, True),  # sk_skb: any of three
    (30, 36, 36, True),  # sk_lookup
    (17, 0, 16, False),  # raw tracepoints have a command of their own
]


@pytest.mark.parametrize(("kind", "expected", "attach", "fits"), FITS)
def test_fits(kind: int, expected: int, attach: int, fits: bool) -> None:
    program = Program(b"", kind, expected_attach_type=expected)
    assert attach_type.fits(program, attach) == fits


@pytest.mark.parametrize("kind", [8, 9, 13, 14, 15, 16, 18, 19, 21, 22, 23, 24, 25, 30, 32])
def test_programs_of_the_kernels_places_name_their_type(kind: int) -> None:
    with pytest.raises(ShimError, match="programs run in the kernel only") as caught:
        attach_type.require(Program(b"", kind, name="p"))
    assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("kind", [1, 2, 3, 5, 6, 7, 17, 31])
def test_others_run_here(kind: int) -> None:
    attach_type.require(Program(b"", kind))
