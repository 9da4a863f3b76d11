"""Importing the package costs nothing until something of it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules(code: str) -> set[str]:
    """Modules of ours, and of what they need, after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], cwd=ROOT,
        capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_else() -> None:
    found = modules("import libbpf_shim")
    finder = "libbpf_shim.compiled"  # loads the compiled verifier where somebody imports it
    assert {m for m in found if m.startswith("libbpf_shim.")} == {finder}


def test_opening_an_object_needs_no_decoder_and_no_assembler() -> None:
    found = modules("from libbpf_shim import Object, ShimError")
    assert "libbpf_shim.client.object" in found
    assert not {m for m in found if m.split(".")[0] in ("capstone", "keystone", "elftools")}


def test_a_name_that_is_not_there_is_an_error() -> None:
    import libbpf_shim.client

    with pytest.raises(AttributeError):
        _ = libbpf_shim.NoSuchName
    assert set(libbpf_shim.__all__) <= set(dir(libbpf_shim.client)) | {"ShimError"}
