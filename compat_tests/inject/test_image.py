"""What the keeper maps: an image that needs nobody; and what is read of Go's code."""

from __future__ import annotations

import subprocess

import pytest

from compat_tests.inject.targets import go_server
from libbpf_shim.attach.inject import IMAGE, image_name
from libbpf_shim.elf.golang import is_go
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.rets import ret_sites


def readelf(*words: str) -> str:
    return subprocess.run(["readelf", "-W", *words, str(IMAGE)], capture_output=True, text=True,
                          check=True).stdout


def test_its_relocations_only_add_its_base() -> None:
    kinds = {line.split()[2] for line in readelf("-r").splitlines() if "R_X86_64" in line}
    assert kinds == {"R_X86_64_RELATIVE"}


def test_it_needs_no_library_and_has_no_thread_local_storage() -> None:
    assert "NEEDED" not in readelf("-d")
    segments = readelf("-l")
    assert "TLS" not in segments and "INTERP" not in segments


def test_nothing_in_it_is_writable_and_executable() -> None:
    loads = [line for line in readelf("-l").splitlines() if line.strip().startswith("LOAD")]
    assert loads and not any("RWE" in line for line in loads)


def test_its_name_says_where_the_root_is() -> None:
    root = Module(str(IMAGE)).find_object("shim_agent_root")
    assert root
    assert int(image_name().rsplit("-", 1)[1], 16) == root.vaddr


def test_each_ret_of_a_go_function_is_found() -> None:
    module = Module(str(go_server()))
    found = module.find("main.handle")
    assert is_go(module) and not is_go(Module(str(IMAGE))) and found
    dump = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", f"--start-address={found.vaddr}",
         f"--stop-address={found.vaddr + found.size}", str(go_server())],
        capture_output=True, text=True, check=True).stdout
    rets = [int(line.split(":")[0], 16) for line in dump.splitlines()
            if line.split(":")[-1].strip().split(" ")[0] in ("ret", "retq")]
    assert list(ret_sites(module, found.vaddr).leaves) == rets


@pytest.mark.parametrize("name", ["runtime.gogo.abi0", "runtime.abort.abi0"])
def test_a_go_function_that_is_left_otherwise_is_refused(name: str) -> None:
    module = Module(str(go_server()))
    found = module.find(name)
    assert found, name
    with pytest.raises(ShimError, match="a return of Go's code cannot be probed"):
        ret_sites(module, found.vaddr)
