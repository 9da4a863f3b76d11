"""What a backend takes from the build instead of compiling it (libbpf_shim/backend/startup.py)."""

from __future__ import annotations

import marshal
import subprocess
import sys
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

from libbpf_shim.backend import startup

ROOT = Path(__file__).resolve().parents[2]
# What a backend has loaded by the time it has attached a uprobe.
LOADED = ("logging", "libbpf_shim.backend.server", "libbpf_shim.btf.check",
          "libbpf_shim.attach.keeper", "libbpf_shim.attach.deliver")


def backend(code: str) -> str:
    """Stdout of a process of its own, as a backend begins."""
    begin = ("import sys; sys.path.insert(0, sys.argv[1])\n"
             "from libbpf_shim.backend import startup\n")
    done = subprocess.run([sys.executable, "-I", "-c", begin + code, str(ROOT)],
                          capture_output=True, text=True, timeout=60)
    assert not done.returncode, done.stderr
    return done.stdout


def test_kept_code_is_what_would_be_compiled() -> None:
    kept = startup._kept()
    assert len(kept) > 100
    for text, code in kept.items():
        assert marshal.loads(code) == startup._compiled(text), text


def test_a_backend_compiles_no_method_of_a_class() -> None:
    said = backend(f"""
made = startup._compiled
startup._compiled = lambda text: print(text) or made(text)
startup.install()
for name in {LOADED!r}:
    __import__(name)
""")
    assert said == ""


def test_what_most_loaders_do_not_need_is_not_loaded_with_the_backend() -> None:
    said = backend(f"""
startup.install()
for name in {LOADED!r}:
    __import__(name)
for name in ("libbpf_shim.isa.insn", "libbpf_shim.jit.emit", "libbpf_shim.verifier.state",
             "libbpf_shim.token", "json", "capstone"):
    print(name * (name in sys.modules), end="")
""")
    assert said == ""


def test_what_is_loaded_later_is_whole() -> None:
    said = backend("""
startup.install()
import inspect, shutil, subprocess, tempfile, traceback, urllib.parse
from tempfile import gettempdir
print(type(inspect) is type(sys), inspect.signature(lambda a, b=1: 0), type(inspect) is type(sys))
try:
    1 / 0
except ZeroDivisionError:
    print(traceback.format_exc().splitlines()[-1])
print(urllib.parse.urlsplit("http://[::1]/x").hostname)
print(subprocess.run(["true"]).returncode, gettempdir() == tempfile.gettempdir())
print(shutil.which("true") != "", sys.modules["shutil"] is shutil, shutil.__spec__.name)
""")
    assert said.splitlines() == [
        "False (a, b=1) True", "ZeroDivisionError: division by zero", "::1",
        "0 True", "True True shutil"]


def test_the_decoder_is_the_same_without_other_machines() -> None:
    decode = """
import sys
from libbpf_shim.rewrite import decode
code = bytes.fromhex("f30f1efa554889e5488b05b8130000ff15a0130000e9fb0f0000f0480fc111c3")
for insn in decode.instructions(code, 0x1000):
    print(decode.displaced(insn), insn.disp, insn.regs_access(), len(insn.operands))
"""
    whole, part = backend(decode), backend("startup.install()\n" + decode + """
assert "capstone.arm64_const" not in sys.modules
""")
    assert whole == part and len(part.splitlines()) == 8


@pytest.mark.parametrize("content", [
    b"", b"\0\0\0\0" + marshal.dumps({"text": b"code"}), MAGIC_NUMBER + b"{",
    MAGIC_NUMBER + marshal.dumps(["text"]), MAGIC_NUMBER,
], ids=["empty", "of another Python", "cut", "something else", "nothing"])
def test_a_file_that_is_not_its_own_is_as_if_it_was_not_there(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "methods"
    file.write_bytes(content)
    monkeypatch.setattr(startup, "FILE", str(file))
    assert startup._kept() == {}
