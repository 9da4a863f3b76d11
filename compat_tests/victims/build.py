"""Compiles the C programs of the tests, once a content, into one cache folder.

A victim is then copied to a folder of its own for each use: uprobes are by inode, so two
tests that ran on one file would count each other's hits.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
CACHE = Path(os.environ.get("LIBBPF_SHIM_TEST_CACHE", f"/tmp/libbpf_shim-tests-{os.getuid()}"))

WARN = ["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror"]
# Debian 12's by its number, whatever stands beside it; the only one of a later release
CLANG = "clang-14" if shutil.which("clang-14") else "clang"
VICTIM_FLAGS = [*WARN, "-O2", "-fno-optimize-sibling-calls", "-rdynamic", "-pthread"]


class BuildError(RuntimeError):
    """A compiler said no; the text is its output."""


def make(name: str, sources: list[Path], flags: list[str], tail: list[str] | None = None,
         compiler: str = "gcc", headers: list[Path] | None = None) -> Path:
    """The program or library NAME made of SOURCES; compiled only if something changed, HEADERS
    that they include among it.

    The file is world readable and lies in a folder named by the hash of its inputs.
    """
    digest = hashlib.sha256(repr((name, flags, tail, compiler)).encode())
    for source in [*sources, *(headers or [])]:
        digest.update(source.read_bytes())
    folder = CACHE / digest.hexdigest()[:16]
    target = folder / name
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f"{name}.{os.getpid()}"
    command = [compiler, *flags, "-o", str(scratch), *map(str, sources), *(tail or [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")
    scratch.chmod(0o755)
    scratch.rename(target)
    return target


def objects(sources: Iterable[Path], flags: list[str]) -> list[Path]:
    """An object file of each source, which may include any header of csrc/; as many compilers at a
    time as there are CPUs."""
    headers = sorted((TESTS.parent / "csrc").glob("*/*.h"))
    with ThreadPoolExecutor(os.cpu_count()) as several:
        return list(several.map(
            lambda source: make(f"{source.name}.o", [source], [*flags, "-c"], headers=headers),
            sorted(sources)))


@functools.cache
def guard() -> Path:
    return make("guard", [TESTS / "guard" / "guard.c"], [*WARN, "-O1"])


@functools.cache
def calls() -> dict[str, Path]:
    """File name -> built file of the `calls` victim and its libraries."""
    library = make("libvictim.so", [HERE / "lib.c"], [*VICTIM_FLAGS, "-shared", "-fPIC"])
    plugin = make("libplug.so", [HERE / "plug.c"], [*VICTIM_FLAGS, "-shared", "-fPIC"])
    program = make(
        "calls", [HERE / "calls.c"], VICTIM_FLAGS,
        [f"-L{library.parent}", "-lvictim", "-Wl,-rpath,$ORIGIN", "-ldl"],
    )
    return {"calls": program, "libvictim.so": library, "libplug.so": plugin}


@functools.cache
def deep() -> dict[str, Path]:
    """The `deep` victim, with frame pointers, at fixed addresses."""
    flags = [*WARN, "-O1", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls", "-rdynamic",
             "-no-pie", "-fcf-protection=none"]
    return {"deep": make("deep", [HERE / "deep.c"], flags)}


BPF_FLAGS = ["-target", "bpf", "-g", "-O2", "-Wall", "-Werror", "-D__TARGET_ARCH_x86",
             "-I/usr/include/x86_64-linux-gnu", "-c"]


@functools.cache
def eight(static: bool) -> dict[str, Path]:
    """The libbpf loader and its object; STATIC: libbpf.a linked in, libc dynamic."""
    found = make("eight.bpf.o", [HERE / "eight.bpf.c"], BPF_FLAGS, compiler=CLANG)
    linked = (["-Wl,-Bstatic", "-lbpf", "-Wl,-Bdynamic", "-lelf", "-lz"] if static else ["-lbpf"])
    name = "eight-static" if static else "eight-shared"
    program = make(name, [HERE / "eight.c"], [*WARN, "-O2"], linked)
    return {"eight.bpf.o": found, name: program}


_OWN = re.compile(r"\bon_(?=\w)|\b(?=(?:tallies|by_process|per_cpu)\b)|(?<=[\"&])(?=events\b)|"
                  r"(?<=} )(?=events SEC)")


@functools.cache
def held() -> dict[str, Path]:
    """The loader with eight probes, its programs and maps under names (bt_*) that no other test
    uses: a kernel lists everybody's."""
    folder = CACHE / "held"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("eight.c", "eight.bpf.c"):
        text = _OWN.sub("bt_", (HERE / name).read_text())
        if not (folder / name).exists() or (folder / name).read_text() != text:
            (folder / name).write_text(text)
    return {"held.bpf.o": make("held.bpf.o", [folder / "eight.bpf.c"], BPF_FLAGS,
                               compiler=CLANG),
            "held": make("held", [folder / "eight.c"], [*WARN, "-O2"], ["-lbpf"])}


@functools.cache
def tool() -> dict[str, Path]:
    """The objects that bpftool is fed: with a map that is pinned by its name, and without."""
    source = [HERE / "tool.bpf.c"]
    return {"tool.bpf.o": make("tool.bpf.o", source, BPF_FLAGS, compiler=CLANG),
            "plain.bpf.o": make("plain.bpf.o", source, [*BPF_FLAGS, "-DNO_PINS"],
                                compiler=CLANG)}


@functools.cache
def light() -> dict[str, Path]:
    """A loader with a light skeleton, which bpftool makes of the object."""
    found = make("light.bpf.o", [HERE / "light.bpf.c"], BPF_FLAGS, compiler=CLANG)
    command = ["/usr/sbin/bpftool", "gen", "skeleton", "-L", str(found), "name", "light"]
    done = subprocess.run(command, check=True, capture_output=True)
    header = found.with_name("light.lskel.h")
    header.write_bytes(done.stdout)
    flags = ["-std=gnu11", "-O2", f"-I{header.parent}"]
    return {name: make(name, [HERE / "light.c"], [*flags, *more], headers=[header])
            for name, more in (("light", []), ("light-static", ["-static"]))}


@functools.cache
def refused() -> dict[str, Path]:
    """An object whose second program is refused."""
    source = [HERE / "refused.bpf.c"]
    return {"refused.bpf.o": make("refused.bpf.o", source, BPF_FLAGS, compiler=CLANG)}


@functools.cache
def swap() -> dict[str, Path]:
    """The loader that changes maps of maps and of programs, and its object."""
    found = make("swap.bpf.o", [HERE / "swap.bpf.c"], BPF_FLAGS, compiler=CLANG)
    program = make("swap", [HERE / "swap.c"], [*WARN, "-O2"], ["-lbpf"])
    return {"swap.bpf.o": found, "swap": program}


@functools.cache
def better() -> dict[str, Path]:
    """The loader of a program that LLVM compiles again, and its object."""
    found = make("better.bpf.o", [HERE / "better.bpf.c"], BPF_FLAGS, compiler=CLANG)
    program = make("better", [HERE / "better.c"], [*WARN, "-O2"], ["-lbpf"])
    return {"better.bpf.o": found, "better": program}


def private_copy(files: dict[str, Path]) -> Path:
    """A fresh world-readable folder with a copy of each file; the caller removes it."""
    folder = Path(tempfile.mkdtemp(prefix="victim-", dir="/tmp"))
    folder.chmod(0o755)
    for name, source in files.items():
        shutil.copy(source, folder / name)
        (folder / name).chmod(0o755)
    return folder
