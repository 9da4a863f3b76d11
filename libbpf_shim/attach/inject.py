"""An agent for a process that was started without one, and out of it again.

The keeper maps `_lib/agent.so` by system calls of one of the process's own threads
(csrc/keeper/inject.c); the image's name in /proc/PID/maps says its version and where its root is,
so that whoever comes later finds it as it finds a preloaded library (attach/target.py).
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.attach.target import Target, look, same_mounts
from libbpf_shim.compiled import PACKAGE
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.process import folder
from libbpf_shim.errors import ShimError

_FOR_GOOD = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOEXEC)
_AGAIN_AFTER = 1.0  # seconds
IMAGE = Path(PACKAGE, "_lib", "agent.so")


@cache
def image_name() -> str:
    """What the image is called in a process."""
    from libbpf_shim._native import lib

    module = Module(str(IMAGE))
    root = module.find_object("shim_agent_root")
    assert root
    return f"bpf-agent-{lib.SHIM_AGENT_VERSION}-{root.vaddr - module.load_base:x}"


def refusal(pid: int, error: ShimError) -> ShimError:
    """Why a process gets no agent, for a person."""
    why = error.hint or _why(pid, error.errno)
    return ShimError("AI0001", error.errno, f"process {pid}: no agent: {why}")


def _why(pid: int, code: int) -> str:
    status = _status(pid)
    tracer = status.get("TracerPid", "0")
    uids = status.get("Uid", "").split()
    if not status:
        return "it has ended"
    if tracer != "0":
        return f"process {tracer} traces it"
    if code in (errno.EPERM, errno.EACCES):
        if uids and any(uid != str(os.geteuid()) for uid in uids[:3]):
            return f"it runs as user {uids[1]}"
        return "ptrace is refused (not dumpable, capabilities, or kernel.yama.ptrace_scope)"
    if code == errno.EBUSY:
        return "a thread of it cannot be stopped now (in vfork, or traced)"
    if code == errno.EAGAIN:
        return "no thread of it can be taken at the moment"
    return os.strerror(code)


def _status(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return {}
    return {k: v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}


def check_version(target: Target) -> None:
    """ShimError EPROTO: the agent in it is another version's."""
    from libbpf_shim._native import lib

    if target.version not in (0, lib.SHIM_AGENT_VERSION):
        raise ShimError("AI0002", errno.EPROTO, f"process {target.pid}: its agent is of version "
                        f"{target.version}, expected {lib.SHIM_AGENT_VERSION}",
                        f"bpf-shim detach {target.pid}, with the version that is in it")


class Agents:
    """Agents that one session gives to processes. keeper: the session's; run_dir: where agents
    find its socket and those of others."""

    def __init__(self, keeper: Callable[[], Keeper], run_dir: str) -> None:
        self._keeper, self._run_dir = keeper, run_dir
        # process: which image of it, and until when
        self._refused: dict[int, tuple[str, float]] = {}

    def give(self, target: Target) -> Target:
        """The process with an agent; see `inject`."""
        return inject(self._keeper(), target.pid, self._run_dir)

    def refused(self, target: Target) -> bool:
        """It was refused already, and has not become another program since."""
        which, until = self._refused.get(target.pid, ("", 0.0))
        return which == _identity(target) and time.monotonic() < until

    def note_refusal(self, target: Target, code: int) -> bool:
        """It is not tried again, or (errno: something stood in the way) a second later. True: for
        the first time."""
        which, _ = self._refused.get(target.pid, ("", 0.0))
        until = math.inf if code in _FOR_GOOD else time.monotonic() + _AGAIN_AFTER
        self._refused[target.pid] = (_identity(target), until)
        return which != _identity(target)

    def take(self, target: Target) -> None:
        """The agent out again, now or not. ShimError: EBUSY (another session is in the process),
        EAGAIN, EEXIST (`bpf-shim attach` wants it to stay)."""
        if target.injected:
            self._keeper().eject(target.pid, target.root, timeout_ms=0)


def _identity(target: Target) -> str:
    first = next((m for m in target.maps if m.ino and not m.path.startswith("/memfd:")), None)
    return f"{first.start:x} {first.ino} {first.path}" if first else ""


def stay(target: Target) -> None:
    """The agent that is there stays when the last session has gone. ShimError."""
    from libbpf_shim._native import ffi

    try:
        with open(f"{folder(target.pid)}/mem", "r+b", buffering=0) as memory:
            memory.seek(target.root + ffi.offsetof("struct shim_agent", "kept"))
            memory.write((1).to_bytes(4, "little"))
    except OSError as error:
        raise refusal(target.pid, ShimError("AI0003", error.errno or errno.EIO, "")) from error


def inject(keeper: Keeper, pid: int, run_dir: str) -> Target:
    """Gives the process an agent, or finds that it has one by now; the process as a target.
    ShimError with the reason: EACCES, EPERM, EOPNOTSUPP for good; EAGAIN, EBUSY at the moment."""
    try:
        # where it would not find them it is not told where sessions are
        keeper.inject(pid, str(IMAGE), image_name(), run_dir if same_mounts(pid) else "")
    except ShimError as error:
        if error.errno != errno.EEXIST:
            raise refusal(pid, error) from error
    target = look(pid)
    if target is None:
        raise ShimError("AI0001", errno.ESRCH, f"process {pid}: has ended")
    return target
