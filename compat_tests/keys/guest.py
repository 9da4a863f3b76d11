"""A guest with protection keys: a kernel of the distribution under qemu's own processor (TCG),
which has them whatever this machine's has; its files are an initramfs made here.

What runs in it runs as an ordinary user: Python with this product, as it is installed here.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from compat_tests.guard.launch import ROOT
from compat_tests.victims import build

HERE = Path(__file__).parent
KERNEL = ROOT / ".cache" / "guest" / "vmlinuz"  # tools/setup.sh
QEMU = "qemu-system-x86_64"
UID = 1000
# in the guest; main's checkout may be anywhere
PRODUCT = "/product"
# what a session has no use for: an initramfs is unpacked by an emulated processor
_PACKAGES = {"_cffi_backend*.so": "", "elftools": "", "yaml": "", "_yaml": "",
             "capstone": r"/include/|/capstone/(?!x86|__init__|__pycache__/(x86|__init__)|lib/)"}
_STDLIB = (
    r"/(test|tests|idlelib|tkinter|ensurepip|lib2to3|pydoc_data|config-[^/]*|distutils|unittest|"
    r"turtledemo|dist-packages|asyncio|email|xml|multiprocessing|http|html|sqlite3|curses|dbm|"
    r"wsgiref|xmlrpc|zoneinfo|venv|msilib)/|"
    r"/lib-dynload/_?(sqlite3|dbm|gdbm|readline|curses|ssl|hashlib|tkinter|nis|test|codecs_|xx|"
    r"decimal|crypt|asyncio|audioop)|/encodings/.*(cp\d|mac_|iso|koi|big5|gb|jis|euc|hz|kz|tis)|"
    r"/(_pydecimal|_pyio|pydoc|turtle|doctest|tarfile|imaplib|mailbox|smtplib|nntplib)\.")
_PRODUCT = r"/tracefs/events/|/sysfs/|/methods-"
_BOOT = ("console=ttyS0 quiet loglevel=4 panic=-1 reboot=t tsc=unstable mitigations=off "
         "random.trust_cpu=on")


# qemu 7.2 takes iretq in user mode, by which the keeper's calls end, for the kernel's access where
# there is SMAP.
_CPU = "max,-smap"
# The guest's kernel has come to grief, as it did by that.
_OOPS = re.compile(r"exited with irqs disabled|\b(Oops|BUG|Kernel panic)\b")


def missing() -> str:
    """Why there is no guest here; "": there is one."""
    if not shutil.which(QEMU):
        return f"no {QEMU}: tools/setup.sh installs it"
    return "" if KERNEL.exists() else f"no {KERNEL}: tools/setup.sh fetches it"


class _Archive:
    """Files by their names in the guest, as cpio's newc format."""

    def __init__(self) -> None:
        self.out = bytearray()
        self.known: set[str] = set()

    def _row(self, name: str, mode: int, data: bytes, mtime: int = 0) -> None:
        raw = name.encode() + b"\0"
        numbers = (len(self.known), mode, 0, 0, 1, mtime, len(data), 0, 0, 0, 0, len(raw), 0)
        head = b"070701" + b"".join(b"%08x" % n for n in numbers) + raw
        self.out += head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)

    def folders(self, name: str) -> None:
        parts = name.strip("/").split("/")[:-1]
        for n in range(1, len(parts) + 1):
            path = "/".join(parts[:n])
            if path not in self.known:
                self.known.add(path)
                self._row(path, stat.S_IFDIR | 0o755, b"")

    def link(self, name: str, to: str) -> None:
        self.folders(name)
        self.known.add(name.strip("/"))
        self._row(name.strip("/"), stat.S_IFLNK | 0o777, to.encode())

    def put(self, name: str, data: bytes, mode: int = 0o644, mtime: int = 0) -> None:
        name = name.strip("/")
        if name in self.known:
            return
        self.folders(name)
        self.known.add(name)
        self._row(name, stat.S_IFREG | mode, data, mtime)

    def file(self, path: Path, name: str = "") -> None:
        """A file of this machine, and if it is a program the libraries that it is linked to."""
        data, info = path.read_bytes(), path.stat()
        self.put(name or str(path), data, info.st_mode & 0o777 | 0o444, int(info.st_mtime))
        if data[:4] == b"\x7fELF":
            for library in _libraries(path):
                self.put(library, Path(library).read_bytes(), 0o755)

    def tree(self, top: Path, name: str, without: str = "") -> None:
        """But for files whose path, from the folder's name on, that pattern finds."""
        for folder, _, files in os.walk(top):
            for file in files:
                path = Path(folder, file)
                if not without or not re.search(without, f"/{top.name}/{path.relative_to(top)}"):
                    self.file(path, f"{name}/{path.relative_to(top)}")

    def finish(self) -> bytes:
        self._row("TRAILER!!!", 0, b"")
        return bytes(self.out)


@functools.cache
def _libraries(path: Path) -> tuple[str, ...]:
    done = subprocess.run(["ldd", str(path)], capture_output=True, text=True, timeout=30)
    return tuple(re.findall(r"(?:=> |^\t)(/\S+) \(0x", done.stdout, re.M))


def _python(archive: _Archive) -> None:
    """The interpreter, its library, and this product beside a virtual environment."""
    real = Path(sys.executable).resolve()
    archive.file(real)
    stdlib = sysconfig.get_paths()["stdlib"]
    archive.tree(Path(stdlib), stdlib, _STDLIB)
    site = Path(sysconfig.get_paths()["purelib"])
    inside = f"{PRODUCT}/.venv/lib/python{sysconfig.get_python_version()}/site-packages"
    for pattern, without in _PACKAGES.items():
        for found in site.glob(pattern):
            if found.is_dir():
                archive.tree(found, f"{inside}/{found.name}", without)
            else:
                archive.file(found, f"{inside}/{found.name}")
    archive.link(f"{PRODUCT}/.venv/bin/python", str(real))
    archive.put(f"{PRODUCT}/.venv/pyvenv.cfg", f"home = {real.parent}\n".encode())
    archive.put(f"{PRODUCT}/libbpf_shim/_lib/libbpf_shim.conf",
                f"{PRODUCT}/.venv/bin/python\n{PRODUCT}\n".encode())
    archive.tree(ROOT / "libbpf_shim", f"{PRODUCT}/libbpf_shim", _PRODUCT)


def boot(files: dict[str, Path | str], command: Iterable[str], seconds: float) -> str:
    """What the guest says on its console until it stops, in it `guest: ended STATUS`. files:
    by their names there, or their text. command: program and arguments, as UID."""
    archive = _Archive()
    init = build.make("guest-init", [HERE / "init.c"], [*build.WARN, "-O1", "-static"])
    archive.file(init, "init")
    _python(archive)
    for name, what in files.items():
        if isinstance(what, Path):
            archive.file(what, name)
        else:
            archive.put(name, what.encode())
    archive.file(Path("/bin/dash"), "bin/sh")
    archive.put("init.conf", "\n".join([str(UID), *command]).encode())
    archive.put("etc/passwd", f"user:x:{UID}:{UID}::/tmp:/bin/sh\n".encode())
    for folder in ("proc", "sys", "dev", "tmp", "run"):
        archive.folders(f"{folder}/x")
    image = build.CACHE / f"guest-{os.getpid()}.cpio"
    image.write_bytes(archive.finish())
    try:
        out = _emulated(image, seconds)
        if _OOPS.search(out):  # which no process may bring about: once more
            out = _emulated(image, seconds)
    finally:
        image.unlink()
    return out


def _emulated(image: Path, seconds: float) -> str:
    done = subprocess.run(
        [QEMU, "-accel", "tcg", "-cpu", _CPU, "-m", "512", "-nodefaults", "-display", "none",
         "-serial", "stdio", "-no-reboot", "-kernel", str(KERNEL), "-initrd", str(image),
         "-append", _BOOT],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
        timeout=seconds, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("\r", "")
