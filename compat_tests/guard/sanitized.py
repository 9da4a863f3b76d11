"""The preload library with AddressSanitizer and UndefinedBehaviorSanitizer in what reads a
loader's attrs and maps: csrc/runtime, and of csrc/surface what is called once a session is there.
Entry points that run before the sanitizers have started, the agent's own entry, and the copies
that may fault are compiled as usual.
"""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
from pathlib import Path

from compat_tests.guard import launch
from compat_tests.victims import build

CSRC = launch.ROOT / "csrc"
PARTS = ("runtime", "agent", "surface")
SURFACE = ("attr", "bpf", "gather", "elem", "act", "rpc", "perf")  # first words of file names
BARE = ("bytes.c", "copy.c")
FLAGS = [
    "-std=gnu11", "-O1", "-g", "-fPIC", "-fvisibility=hidden", "-D_GNU_SOURCE", "-fno-builtin",
    "-fno-stack-protector", "-fno-tree-loop-distribute-patterns",
    *(f"-iquote{CSRC / part}" for part in ("include", *PARTS)),
]
# Instructions and elements lie where callers and keys put them: x86 does not mind.
CHECKS = ["-fsanitize=address,undefined", "-fno-sanitize=alignment", "-fno-sanitize-recover=all",
          "-fno-omit-frame-pointer"]


def checked(source: Path) -> bool:
    """The file is compiled with the sanitizers."""
    if source.parent.name == "runtime":
        return source.suffix == ".c" and source.name not in BARE
    return source.parent.name == "surface" and source.stem.split("_")[0] in SURFACE


def sources() -> list[Path]:
    return [f for part in PARTS for f in sorted((CSRC / part).glob("*.[cS]"))]


def compile_all(folder: Path) -> None:
    """Into folder/libbpf_shim.so; what has no sanitizers is as it was built."""
    usual = [launch.ROOT / "build" / "obj" / f.parent.name / f"{f.name}.o"
             for f in sources() if not checked(f)]
    objects = build.objects(filter(checked, sources()), [*FLAGS, *CHECKS])
    subprocess.run(
        ["gcc", "-shared", *CHECKS, *usual, *objects, "-o", folder / "libbpf_shim.so",
         f"-Wl,--version-script={CSRC / 'libbpf_shim.map'}", "-Wl,-soname,libbpf_shim.so"],
        check=True,
    )


@functools.cache
def library() -> Path:
    """Built once a content; beside it what the surface looks for beside itself."""
    digest = hashlib.sha256(repr((FLAGS, CHECKS, SURFACE)).encode())
    for file in sorted(CSRC.glob("*/*.[chS]")):
        digest.update(file.read_bytes())
    folder = build.CACHE / f"sanitized-{digest.hexdigest()[:16]}"
    target = folder / "libbpf_shim.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        compile_all(folder)
    for beside in launch.library().parent.iterdir():
        link = folder / beside.name
        if not beside.name.endswith(".so") and not link.is_symlink():
            link.symlink_to(beside)
    return target


def runtime(name: str) -> str:
    """A sanitizer's own library."""
    done = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True,
                          check=True)  # fmt: skip
    return os.path.realpath(done.stdout.strip())


def environment() -> dict[str, str]:
    """For a program that is to run with it. What is found ends the program with SIGABRT."""
    preload = [runtime("libasan.so"), runtime("libubsan.so"), str(library())]
    return {
        "LD_PRELOAD": ":".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "abort_on_error=1:print_stacktrace=1",
    }
