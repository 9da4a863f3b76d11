"""Links of many uprobes and sessions by the Python API (checks.py)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from compat_tests.clients.tool import run
from compat_tests.guard import launch
from compat_tests.victims import build
from libbpf_shim.client.multi import offsets_of, parse_section
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.secdef import LATER, find
from libbpf_shim.errors import ShimError

HERE = Path(__file__).parent


def test_one_program_at_many_functions_and_at_both_of_their_ends() -> None:
    found = build.make("many.bpf.o", [HERE / "many.bpf.c"], build.BPF_FLAGS, compiler=build.CLANG)
    folder = build.private_copy({**build.calls(), "many.bpf.o": found,
                                 "checks.py": HERE / "checks.py"})
    product = launch.product()
    code = ("import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(0); "
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    try:
        done = run(launch.guarded([
            str(product / ".venv/bin/python"), "-I", "-c", code, str(product),
            *(f"{folder}/{name}" for name in ("checks.py", "many.bpf.o", "calls")),
            str(launch.library())]))
    finally:
        shutil.rmtree(folder)
    assert (done.status, done.out) == (0, "fine\n"), done


def test_a_pattern_names_each_place_once() -> None:
    path = str(build.calls()["calls"])
    module = Module(path)
    wanted = {module.vaddr_to_offset(s.vaddr) for s in module.symbols
              if s.name.startswith("v_s") and s.type == 2}
    assert set(offsets_of(path, "v_s*")) == wanted and len(wanted) > 1
    assert offsets_of(path, "v_s*") == sorted(wanted)
    assert offsets_of(path, ["v_add", 77])[1] == 77
    for nothing in ("v_S*", "v_[st]*", "[a-z]*"):
        with pytest.raises(ShimError):
            offsets_of(path, nothing)


def test_sections_of_later_libbpfs_are_known() -> None:
    for row in LATER:
        assert find(row.name.rstrip("+") + "/bin/true:a*") is row
    assert parse_section("uprobe.multi//bin/true:a*b") == ("/bin/true", "a*b")
    with pytest.raises(ShimError):
        parse_section("uprobe.multi/no-functions")
