"""Which processes can be attached to: those of this user, or all if it is root, with an agent in
them: in the preloaded library, or mapped by the keeper (attach/inject.py)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path

from libbpf_shim.elf.module import Module
from libbpf_shim.elf.process import (
    LoadedModule,
    Mapping,
    folder,
    loaded_modules,
    maps_text,
    parse_maps,
    read_text,
)
from libbpf_shim.errors import ShimError

_LIBRARY = "/libbpf_shim.so"
IMAGE = "/memfd:bpf-agent-"  # SHIM_IMAGE_NAME
_SERVED = "/memfd:bpf-served"  # csrc/surface/init.c
_ROOT = "shim_agent_root"
_CAP_SYS_PTRACE = 19  # linux/capability.h
_LIBRARIES = 16  # whose roots are remembered
_FRESH = 0.05  # seconds in which processes that were found are not looked for again


@dataclass(frozen=True, slots=True)
class Target:
    """A process. root: address of its struct shim_agent; 0: it has none, and could be given one
    (attach/inject.py). injected: by the keeper, not by LD_PRELOAD. version: of that agent, 0: as
    its library says. modules: what it has loaded."""

    pid: int
    root: int
    maps: tuple[Mapping, ...]
    injected: bool = False
    version: int = 0
    modules: tuple[LoadedModule, ...] = field(repr=False, compare=False, kw_only=True)

    def maps_file(self, ino: int) -> bool:
        """Some mapping is of the file with that inode."""
        return any(m.ino == ino for m in self.maps)


def whole(maps: Sequence[Mapping]) -> list[Mapping]:
    """The mappings with the pages that agents have replaced (csrc/agent/patch.c: anonymous, and
    executable) as what they were: parts of the file around them."""
    found: list[Mapping] = []
    for index, m in enumerate(maps):
        before = found[-1] if found else None
        if before and before.ino and before.end == m.start and _replaced(m):
            after = _behind(maps, index)
            if after and (after.dev, after.ino) == (before.dev, before.ino):
                # the text's own offsets, where some of it is left
                from_end = "x" in after.perms and "x" not in before.perms
                offset = (after.offset - (after.start - m.start) if from_end
                          else before.offset + (m.start - before.start))  # fmt: skip
                m = replace(m, offset=offset, dev=before.dev, ino=before.ino, path=before.path)
        found.append(m)
    return found


def _replaced(mapping: Mapping) -> bool:
    return not mapping.ino and not mapping.path and mapping.perms == "r-xp"


def _behind(maps: Sequence[Mapping], index: int) -> Mapping | None:
    """The mapping that follows replaced pages without a gap."""
    end = maps[index].start
    for m in maps[index:]:
        if m.start != end:
            return None
        if not _replaced(m):
            return m
        end = m.end
    return None


_roots: dict[tuple[int, int, int], int | None] = {}  # by the library's file


def root_offset(path: str) -> int | None:
    """Of shim_agent_root in the library that lies there, from its first mapping; None: it has
    none. By whatever path: each process has one of its own."""
    try:
        stat = os.stat(path)
        key = (stat.st_dev, stat.st_ino, stat.st_mtime_ns)
        if key not in _roots:
            module = Module(path)
            symbol = module.find_object(_ROOT)
            if len(_roots) >= _LIBRARIES:
                _roots.clear()
            _roots[key] = symbol.vaddr - module.load_base if symbol else None
        return _roots[key]
    except (ShimError, OSError):
        return None


def look(pid: int) -> Target | None:
    """The process as a target; None: gone, another user's, or without an agent."""
    text = _text(pid)
    if IMAGE not in text and _LIBRARY not in text:
        return None
    found = _look(pid, text)
    return found if found and found.root else None


def look_closely(pid: int) -> Target | None:
    """The same, and with root 0 also without an agent."""
    text = _text(pid)
    return _look(pid, text) if text else None


def look_by_name(pid: int) -> Target | None:
    """The same of a process that somebody has named: a loader that is served is there too, without
    an agent. None: gone, or another user's."""
    text = _text(pid, True)
    found = _look(pid, text) if text else None
    return replace(found, root=0) if found and _SERVED in text else found


def _text(pid: int, served: bool = False) -> str:
    """Empty: gone, another user's, a thread of the kernel's, one that is ending, or, if not asked
    for, a loader that is served from outside: a thread of it that waits cannot be stopped."""
    try:
        text = maps_text(pid)
    except OSError:
        return ""
    return text if served or _SERVED not in text else ""


@lru_cache(maxsize=256)
def _mapped(text: str) -> tuple[tuple[Mapping, ...], tuple[LoadedModule, ...]]:
    """Most processes are as they were when they were last looked at."""
    maps = tuple(whole(parse_maps(text)))
    return maps, tuple(loaded_modules(maps))


def loaded_in(pid: int) -> tuple[tuple[Mapping, ...], list[LoadedModule]]:
    """What a process has mapped, and loaded, with paths where we find the files. ShimError ESRCH,
    EACCES."""
    maps, modules = _mapped(read_text(pid))
    return maps, reach_all(pid, list(modules))


def _look(pid: int, text: str) -> Target | None:
    maps, modules = _mapped(text)
    if IMAGE in text and (image := _image(pid, maps, modules)):
        return image
    if _LIBRARY not in text:
        return Target(pid, 0, maps, modules=modules)
    for module in modules:
        if not module.path.endswith(_LIBRARY):
            continue
        path = f"/proc/{pid}/root{module.path}"
        offset = root_offset(path if os.path.exists(path) else module.path)
        if offset is not None:
            return Target(pid, module.base + offset, maps, modules=modules)
    return Target(pid, 0, maps, modules=modules)


def _image(
    pid: int, maps: tuple[Mapping, ...], modules: tuple[LoadedModule, ...]
) -> Target | None:
    """An agent that a keeper has mapped: its name says its version and where its root is."""
    for m in maps:
        if m.path.startswith(IMAGE) and not m.offset:
            version, _, offset = m.path.removeprefix(IMAGE).split(" ")[0].partition("-")
            try:
                return Target(
                    pid, m.start + int(offset, 16), maps, True, int(version), modules=modules)
            except ValueError:
                return None
    return None


def may_look(pid: int) -> bool:
    """It is this user's, or this is root."""
    try:
        return os.geteuid() in (0, os.stat(f"/proc/{pid}").st_uid)
    except OSError:
        return False


def stopped(pid: int) -> bool:
    """By a signal, all its threads."""
    return _state(pid) == b"T"


def ended(pid: int) -> bool:
    """It is gone, or only waited for."""
    try:
        return not (now := _state(pid)) or (
            now in b"ZX" and len(os.listdir(f"/proc/{pid}/task")) == 1)
    except OSError:
        return True


def _state(pid: int) -> bytes:
    """A letter, of its first thread; empty: it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1]
    except OSError:
        return b""


def others_out_of_reach() -> bool:
    """This is root, and there are other users' processes that it may not look at, as in a
    container."""
    return os.geteuid() == 0 and not may_trace_others() and any(map(_kept_from_us, processes()))


def may_trace_others() -> bool:
    """CAP_SYS_PTRACE is there (capabilities(7))."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return bool(int(status.partition("CapEff:")[2].split()[0], 16) >> _CAP_SYS_PTRACE & 1)


def _kept_from_us(pid: int) -> bool:
    try:
        maps_text(pid)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def shares_memory(pid: int) -> bool:
    """With its parent, as a child of vfork() does until it executes a program: what is written
    there is the parent's, whose threads run. False where the kernel does not tell."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            parent = int(os.read(fd, 4096).rpartition(b")")[2].split()[1])
        finally:
            os.close(fd)
    except OSError:
        return False
    from libbpf_shim._native import lib

    return parent > 0 and bool(lib.shim_native_same_memory(pid, parent))


def same_mounts(pid: int) -> bool:
    """The process sees the file systems that we see; one that cannot be looked at counts as
    such."""
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino == _mounts()
    except FileNotFoundError:  # its leader has ended
        pass
    except OSError:
        return True
    try:
        return os.stat(f"{folder(pid)}/ns/mnt").st_ino == _mounts()
    except OSError:
        return True


@cache
def _mounts() -> int:
    """The namespace of mounts that we see: its inode."""
    return os.stat("/proc/self/ns/mnt").st_ino


def reach(pid: int, path: str) -> str:
    """A path of the process, as we find the file."""
    return path if not path.startswith("/") or same_mounts(pid) else f"/proc/{pid}/root{path}"


def reach_all(pid: int, modules: list[LoadedModule]) -> list[LoadedModule]:
    """Modules of the process with paths where we find their files."""
    if same_mounts(pid):
        return modules
    return [replace(m, path=f"/proc/{pid}/root{m.path}") for m in modules]


def processes() -> list[int]:
    """Numbers of the processes that this user may look at. Those that were found a moment ago, if
    none has been made since: each of some links asks. What has become this user's meanwhile
    without being made is seen when it executes a program, or by who looks from time to time."""
    now, newest = time.monotonic(), _newest()
    if newest and _listed.newest == newest and now < _listed.until:
        return _listed.pids
    _listed.pids = list(_processes())
    _listed.newest, _listed.until = newest, now + _FRESH
    return _listed.pids


class _Listed:
    """newest: see _newest(). until: time.monotonic()."""

    def __init__(self) -> None:
        self.newest, self.until = b"", 0.0
        self.pids: list[int] = []


_listed = _Listed()


def _newest() -> bytes:
    """The last number that the kernel gave a process or a thread, where that is told (/proc is of
    our own namespace); b"": it is not."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return b""
        with open("/proc/loadavg", "rb", 0) as file:
            return file.read(256).rsplit(None, 1)[-1]
    except (OSError, IndexError):
        return b""


def _processes() -> Iterator[int]:
    me, own = os.geteuid(), os.getpid()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            mine = me == 0 or entry.stat().st_uid == me
        except OSError:
            continue
        if mine:
            pid = int(entry.name)
            if pid != own:
                yield pid


def targets() -> Iterator[Target]:
    """Every process that can be attached to."""
    for pid in processes():
        if (found := look(pid)) and not shares_memory(pid):
            yield found
