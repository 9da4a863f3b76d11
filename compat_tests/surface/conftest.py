"""The library as it is built, beside a fake backend, and clients that run under it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from compat_tests.victims import build as victims

ROOT = Path(__file__).resolve().parent.parent.parent
CSRC = ROOT / "csrc"
HERE = Path(__file__).resolve().parent

# Python 3.12 and later warn of fork() in a process with threads, as the library has
QUIET = ("-W", "ignore::DeprecationWarning")
PRELUDE = """
import ctypes, errno, json, mmap, os, select, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def syscall(*args):
    ret = libc.syscall(*[ctypes.c_long(a) for a in args])
    return ret if ret >= 0 else -ctypes.get_errno()
def bpf(cmd, attr, size=None):
    global last
    last = ctypes.create_string_buffer(bytes(attr), max(len(attr), 1))
    return syscall(321, cmd, ctypes.addressof(last), len(attr) if size is None else size)
def array_map(entries=8, value=4, type=2, key=4, flags=0):
    return bpf(0, struct.pack("<5I", type, key, value, entries, flags).ljust(72, b"\\0"))
def buf(data, size=0):
    b = ctypes.create_string_buffer(data, size or max(len(data), 1))
    return b, ctypes.addressof(b)
def elem(cmd, fd, key=None, value=None, flags=0, size=32):
    return bpf(cmd, struct.pack("<I4xQQQ", fd, key or 0, value or 0, flags)[:size])
def perf_open(type=1, config=10, config1=0, size=128, flags=8, pid=-1, cpu=0):
    a = bytearray(max(size, 64)); struct.pack_into("<IIQ", a, 0, type, size, config)
    struct.pack_into("<Q", a, 56, config1)
    b, p = buf(bytes(a))
    return syscall(298, p, pid, cpu, -1, flags)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                      ctypes.c_long]
def ring(fd, pages=2):
    at = libc.mmap(None, pages * 4096, 3, 1, fd, 0)
    return at if at != ctypes.c_void_p(-1).value else -ctypes.get_errno()
def move_head(at, head):
    ctypes.c_uint64.from_address(at + 1024).value = head
def ctl_address():
    for line in open("/proc/self/maps"):
        if "bpf-ctl" in line:
            return int(line.split("-")[0], 16)
def produce(at, head):
    "What a producer does (shim_wake): publish, count, wake if somebody sleeps."
    ctl = ctl_address()
    move_head(at, head)
    seq = ctypes.c_uint32.from_address(ctl + OFF_SEQ); seq.value += 1
    if ctypes.c_uint32.from_address(ctl + OFF_WAITERS).value:
        syscall(202, ctl + OFF_SEQ, 1, 1 << 30)
def status():
    line = [l for l in open("/proc/net/unix") if "shim-fake-" in l and l.rstrip().endswith("/sock")
            and os.path.exists(l.split()[-1])]
    for l in line:
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(l.split()[-1])
            s.sendall(struct.pack("<HHIIiII", 0x5742, 8, 1, 0, 0, 0, 0))
            head = s.recv(24, socket.MSG_WAITALL)
            seen = json.loads(s.recv(struct.unpack("<HHIIiII", head)[3], socket.MSG_WAITALL))
        except (OSError, struct.error):
            continue  # another test's backend, on its way out
        finally:
            s.close()
        if any(e["op"] == "hello" and e["pid"] == os.getpid() for e in seen["log"]):
            return seen
def requests(op):
    return [e for e in status()["log"] if e["op"] == op]
"""


def run_gcc(*args: str | Path) -> None:
    done = subprocess.run(["gcc", *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@dataclass
class Build:
    """A copy of the library, the objects it is of, and the folder its backend is imported from."""

    library: Path
    surface: list[Path]
    root: Path
    offsets: dict[str, int]


@pytest.fixture(scope="session")
def build() -> Iterator[Build]:
    out = Path(tempfile.mkdtemp(prefix="shim-surface-"))  # readable by other users too
    out.chmod(0o755)
    surface = [ROOT / "build" / "obj" / "surface" / f"{source.name}.o"
               for source in sorted((CSRC / "surface").glob("*.c"))]
    library = out / "lib" / "libbpf_shim.so"
    library.parent.mkdir()
    shutil.copy(ROOT / "libbpf_shim" / "_lib" / "libbpf_shim.so", library)
    backend = out / "root" / "libbpf_shim" / "backend"
    backend.mkdir(parents=True)
    (backend / "main.py").write_text((HERE / "fake_backend.py").read_text())
    runtime = victims.objects((CSRC / "runtime").glob("*.c"), ["-fPIC", f"-I{CSRC}/include"])
    run_gcc("-shared", "-o", backend / "runtime.so", *runtime)
    sys.path.insert(0, str(CSRC / "native"))
    import build_native  # type: ignore[import-not-found]

    (backend / "declarations.h").write_text(build_native.declarations())
    (library.parent / "libbpf_shim.conf").write_text(f"{sys.executable}\n{out / 'root'}\n")
    subprocess.run([sys.executable, ROOT / "tools/gen_tracefs.py", "unpack", library.parent],
                   check=True)  # fmt: skip
    offset = build_native.ffi.offsetof
    offsets = {
        "OFF_SEQ": offset("struct shim_ctl", "wake_seq"),
        "OFF_WAITERS": offset("struct shim_ctl", "wake_waiters"),
    }
    yield Build(library, surface, out / "root", offsets)
    shutil.rmtree(out)


Client = Callable[..., Any]


@pytest.fixture
def client(build: Build) -> Client:
    """Runs a Python script under the library; its answer is what it printed, as JSON."""

    def run(script: str, check: bool = True, **env: str) -> Any:
        offsets = "".join(f"{name} = {value}\n" for name, value in build.offsets.items())
        text = offsets + PRELUDE + textwrap.dedent(script)
        done = subprocess.run(
            [sys.executable, *QUIET, "-c", text], capture_output=True, text=True, timeout=50,
            env={"PATH": os.environ["PATH"], "LD_PRELOAD": str(build.library), **env},
        )  # fmt: skip
        if not check:
            return done
        assert done.returncode == 0, done.stderr
        assert done.stderr == "", done.stderr
        return json.loads(done.stdout)

    return run
