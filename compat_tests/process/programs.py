"""The programs of this folder, built."""

from __future__ import annotations

import functools
from pathlib import Path

from compat_tests.victims.build import BPF_FLAGS, CACHE, CLANG, VICTIM_FLAGS, WARN, make
from compat_tests.victims.build import HERE as VICTIMS

HERE = Path(__file__).resolve().parent


@functools.cache
def tasks() -> dict[str, Path]:
    """The victim that becomes many things, the programs that look at it, and their loader."""
    header = [HERE / "task.h"]
    return {
        "tasks": make("tasks", [HERE / "tasks.c"], VICTIM_FLAGS),
        "task.bpf.o": make("task.bpf.o", [HERE / "task.bpf.c"], BPF_FLAGS, compiler=CLANG,
                           headers=header),
        "watch": make("watch", [HERE / "watch.c"], [*WARN, "-O2"], ["-lbpf"]),
    }


_C = [*WARN, "-O2", "-static"]
_MUSL = ["-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"]


@functools.cache
def loader(libc: str) -> Path:
    """The static loader made of raw system calls: "glibc", "musl" or "go"; "dynamic" and
    "go-dynamic" are linked to libc."""
    if libc.startswith("go"):
        return _go("loader", "dynamic" in libc)
    flags, compiler = (_C + _MUSL, "musl-gcc") if libc == "musl" else (_C, "gcc")
    if libc == "dynamic":
        flags = [flag for flag in flags if flag != "-static"]
    return make(f"loader-{libc}", [HERE / "loader.c"], flags, compiler=compiler)


@functools.cache
def bad_calls() -> Path:
    """What asks wrongly, of compat_tests/victims, linked statically."""
    return make("badcalls-static", [VICTIMS / "badcalls.c"], [*WARN, "-O1", "-static"])


@functools.cache
def family() -> Path:
    """A static program that starts others."""
    return make("family", [HERE / "family.c"], _C)


@functools.cache
def shown() -> Path:
    """A static program that looks at what loaders are shown."""
    return make("shown", [HERE / "shown.c"], _C)


@functools.cache
def many() -> Path:
    """A static loader of several threads."""
    return make("many", [HERE / "many.c"], _C, ["-lpthread"])


@functools.cache
def workload() -> Path:
    """What makes processes that end in every way."""
    return make("workload", [HERE / "workload.c"], VICTIM_FLAGS)


@functools.cache
def spawner() -> Path:
    """What starts programs in every way."""
    return make("spawner", [HERE / "spawner.c"], VICTIM_FLAGS)


@functools.cache
def starter() -> Path:
    """A static program of Go that starts another one."""
    return _go("starter")


@functools.cache
def lifts(how: str) -> Path:
    """A loader of Go that calls libbpf: "inside", which is part of it, or "beside", a library."""
    return _go("lifts", True, "-lbpf" if how == "beside" else "-l:libbpf.a -lelf -lz")


def _go(name: str, dynamic: bool = False, libraries: str = "") -> Path:
    cache = CACHE / "go"
    cache.mkdir(parents=True, exist_ok=True)
    settings = [f"GOCACHE={cache}", "GO111MODULE=off", f"CGO_ENABLED={dynamic:d}",
                f"CGO_LDFLAGS={libraries}"]
    link = ["-ldflags=-linkmode=external"] if dynamic else []
    return make(f"{name}-go{'-dynamic' * dynamic}", [HERE / f"{name}.go"],
                [*settings, "go", "build", *link], compiler="env")


@functools.cache
def ways(how: str) -> Path:
    """What starts a program in each way: "ours" (the library can be preloaded), "glibc", "musl"
    (both static)."""
    flags = [*WARN, "-O1", *([] if how == "ours" else ["-static"])]
    compiler = "musl-gcc" if how == "musl" else "gcc"
    return make(f"ways-{how}", [HERE / "ways.c"], flags, ["-lpthread"], compiler=compiler)


@functools.cache
def alone(how: str) -> Path:
    """A program that nothing is preloaded into: "glibc", "musl" (both static), "dynamic" (of
    musl); "ours": one that can be; "sanitized": gcc's AddressSanitizer is in it."""
    flags = [*WARN, "-O1", *(["-static"] if how in ("glibc", "musl") else []),
             *(["-fsanitize=address"] if how == "sanitized" else [])]
    compiler = "musl-gcc" if how in ("musl", "dynamic") else "gcc"
    return make(f"alone-{how}", [HERE / "alone.c"], flags, compiler=compiler)
