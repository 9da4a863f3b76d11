"""bpftool feature probe answers as on the kernel but for a closed list, as in docs/parity.md;
bpftrace --info."""

from __future__ import annotations

from pathlib import Path

import pytest

from compat_tests.clients import probe
from compat_tests.clients.tool import KERNEL, NOT_RECORDED, SHIM, Way, recorded, run

PARITY = Path(__file__).parents[2] / "docs" / "parity.md"

# The configuration is the machine's; a user may not read these sysctls, as on the kernel.
SYSCTLS = {
    "Unable to retrieve JIT hardening status", "Unable to retrieve JIT kallsyms export status",
    "Unable to retrieve global memory limit for JIT compiler for unprivileged users",
}


@pytest.mark.skipif(not recorded("bpftool"), reason=NOT_RECORDED)
def test_shim_answers_as_the_kernel_but_for_the_list() -> None:
    found, err = probe.answer(SHIM)
    found.pop(probe.CONFIG)
    assert probe.differences(found, probe.as_here(probe.expected())) == []
    assert all(line.startswith("libbpf_shim: ") for line in err.splitlines()), err


@pytest.mark.kernel
@pytest.mark.skipif(not recorded("bpftool"), reason=NOT_RECORDED)
def test_kernel_answers_as_recorded() -> None:
    found, _ = probe.answer(KERNEL)
    found.pop(probe.CONFIG)
    assert probe.differences(found, probe.expected()) == []


@pytest.mark.kernel
def test_configuration_is_the_machines_but_for_what_a_user_may_not_read() -> None:
    kernel, here = (set(probe.answer(way)[0][probe.CONFIG]) for way in (KERNEL, SHIM))
    assert here - kernel == SYSCTLS
    assert len(kernel - here) == len(SYSCTLS)


def test_every_difference_and_its_reason_is_documented() -> None:
    section = PARITY.read_text().split("## bpftool feature probe\n")[1].split("\n## ")[0]
    for kind, names in probe.NOT_HERE.items():
        rows = [row for row in section.splitlines() if row.startswith(f"| {kind[5:]} |")]
        said = {name: row for row in rows for name in row.split("|")[2].replace("`", "").split()}
        assert sorted(said) == sorted(names)
        for name, reason in names.items():
            assert reason in said[name], f"{name}: {reason}"


def info(way: Way) -> dict[str, str]:
    """What bpftrace says of the machine, which it asks to be root for before it calls bpf(2)."""
    done = run(way.tool(["bpftrace", "--info"]))
    assert done.status == 0, done
    said = (done.err + done.out).partition("Kernel helpers\n")[2]  # on stdout or stderr
    return {name: there for name, _, there in
            (line.strip().rpartition(": ") for line in said.splitlines()) if name}


@pytest.mark.skipif(not recorded("bpftrace"), reason=NOT_RECORDED)
def test_bpftrace_tells_what_is_here() -> None:
    found = info(SHIM)
    assert len(found) > 25, found
    assert [n for n, there in found.items() if there == "no"] == ["dpath", "skboutput",
                                                                  "kprobe_multi"]


@pytest.mark.kernel
@pytest.mark.skipif(not recorded("bpftrace"), reason=NOT_RECORDED)
def test_bpftrace_tells_what_the_kernel_has() -> None:
    theirs = info(KERNEL)
    refused = {name for name, there in theirs.items() if there == "no"}
    assert {n for n, there in info(SHIM).items() if there != theirs[n]} <= refused


def test_formats_have_plain_integers_where_the_machines_cannot_be_read() -> None:
    """Strict: a line of docs/parity.md."""
    done = run(SHIM.tool(["bpftrace", "-lv", "tracepoint:syscalls:sys_enter_openat"]))
    fields = [line.strip() for line in done.out.splitlines()[2:]]
    wanted = ["long dfd", "const char * filename", "long flags", "unsigned long mode"]
    assert fields == wanted, done
