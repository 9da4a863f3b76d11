"""LIBBPF_SHIM_TIER: a tier that there is none of is said, and nothing starts."""

from __future__ import annotations

import pytest

from compat_tests.clients import tool
from compat_tests.guard import launch
from libbpf_shim.errors import ShimError
from libbpf_shim.jit import tiers


@pytest.mark.parametrize("text", ["", "0", "1", "2"])
def test_tiers_that_there_are(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tiers.VARIABLE, text)
    tiers.check()


@pytest.mark.parametrize("text", ["3", "llvm", "01", " 1"])
def test_others_are_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tiers.VARIABLE, text)
    with pytest.raises(ShimError, match="no tier"):
        tiers.check()


def test_a_loader_that_wants_another_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tiers.VARIABLE, raising=False)  # launch would give it to the loader
    argv = ["bpftrace", "-e", "BEGIN { exit(); }"]
    done = tool.run(launch.guarded(argv, preload=True, env={
        tiers.VARIABLE: "llvm", "LIBBPF_SHIM_SESSION": "private"}))
    assert done.status != 0 and f"{tiers.VARIABLE}=llvm: no tier: 0, 1 or 2" in done.err
