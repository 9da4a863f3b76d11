"""doctor: what works here, what does not, and why.

Each check looks at one thing, tries it where trying is harmless, and answers ok, limited
(something is refused, the rest goes on) or broken (nothing works until this is mended).
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import mmap
import os
import platform
import resource
import stat
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

OK, LIMITED, BROKEN = "ok", "limited", "broken"
PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
SYS_PROCESS_VM_READV, SYS_MEMBARRIER, SYS_PTRACE = 310, 324, 101
AT_HWCAP2 = 26
HWCAP2_FSGSBASE = 2
MADV_WIPEONFORK, PR_GET_TID_ADDRESS = 18, 40


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's answer; hint is the next command, or empty."""

    check: str
    state: str
    what: str
    hint: str = ""


def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def machine() -> Finding:
    """x86-64 Linux is the one machine that code is generated for."""
    name = f"{platform.system()} {platform.release()} {platform.machine()}"
    good = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    return Finding("machine", OK if good else BROKEN, name)


def cpu() -> Finding:
    """fs base is the key of a thread: rdfsbase needs the kernel's consent (AT_HWCAP2), else the
    word there is taken, in which libc has the same."""
    getauxval = libc().getauxval
    getauxval.restype = ctypes.c_ulong
    if getauxval(ctypes.c_ulong(AT_HWCAP2)) & HWCAP2_FSGSBASE:
        return Finding("cpu", OK, "fsgsbase")
    return Finding("cpu", LIMITED,
                   "no fsgsbase: a hit costs some ns more, in Go's programs a system call")


def _refused(call: Callable[[], object]) -> bool:
    try:
        return call() == -1
    except OSError:
        return True


def kernel() -> Finding:
    """Calls that gVisor and old kernels do not have, in whose place something else is done."""
    page = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    word = ctypes.c_ulong()
    with page, tempfile.TemporaryFile() as file:
        lacks = [what for call, what in (
            (lambda: os.close(os.pidfd_open(os.getpid())),
             "pidfd_open (ends of processes are seen up to 50 ms late, attaching takes longer)"),
            (lambda: page.madvise(MADV_WIPEONFORK),
             "MADV_WIPEONFORK (children of a clone(2) that libc does not make may be taken for "
             "their parent)"),
            (lambda: libc().prctl(PR_GET_TID_ADDRESS, ctypes.byref(word), 0, 0, 0),
             "PR_GET_TID_ADDRESS (each hit asks gettid(2), but where glibc preloaded us)"),
            (lambda: fcntl.fcntl(file, fcntl.F_OFD_GETLK, bytes(32)),
             "OFD locks (perf event arrays keep elements until they end)"),
        ) if _refused(call)]
    return Finding("kernel", LIMITED if lacks else OK,
                   f"no {', no '.join(lacks)}" if lacks else "has what is asked for")


def library() -> Finding:
    """The preload library and the file beside it that names the interpreter."""
    from libbpf_shim.cli.preload import LIBRARY

    if not LIBRARY.exists():
        return Finding("library", BROKEN, f"{LIBRARY}: not built", "make build")
    conf = LIBRARY.with_name("libbpf_shim.conf")
    try:
        interpreter, root = conf.read_text().splitlines()[:2]
    except (OSError, ValueError) as error:
        return Finding("library", BROKEN, f"{conf}: {error}", "make build")
    if not os.access(interpreter, os.X_OK):
        return Finding("library", BROKEN, f"{interpreter}: cannot be executed", "make build")
    if not (Path(root) / "libbpf_shim" / "__init__.py").exists():
        return Finding("library", BROKEN, f"{root}: no libbpf_shim package there", "make build")
    return Finding("library", OK, f"{LIBRARY}, backend by {interpreter}")


def backend() -> Finding:
    """The interpreter of the library's file can import what the backend imports."""
    from libbpf_shim.cli.preload import LIBRARY

    try:
        interpreter, root = LIBRARY.with_name("libbpf_shim.conf").read_text().splitlines()[:2]
    except (OSError, ValueError):
        return Finding("backend", BROKEN, "no library to ask", "make build")
    script = ("import sys; sys.path.insert(0, sys.argv[1]); import libbpf_shim._native, "
              "capstone, keystone, elftools, libbpf_shim.backend.main")
    try:
        done = subprocess.run([interpreter, "-I", "-c", script, root], capture_output=True,
                              text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("backend", BROKEN, str(error), "make build")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return Finding("backend", BROKEN, last, "make build")
    keeper = Path(root) / "libbpf_shim" / "_bin" / "keeper"
    if not os.access(keeper, os.X_OK):
        return Finding("backend", BROKEN, f"{keeper}: not built", "make build")
    return Finding("backend", OK, "modules and keeper are there")


def run_directory() -> Finding:
    """Owned by this user, 0700, not a link; or absent and creatable."""
    from libbpf_shim.backend.rundir import locate

    path = locate()
    try:
        found = path.lstat()
    except FileNotFoundError:
        if os.access(path.parent, os.W_OK | os.X_OK):
            return Finding("run directory", OK, f"{path} (made at first use)")
        return Finding("run directory", BROKEN, f"{path.parent}: not writable",
                       "set XDG_RUNTIME_DIR to a folder of yours")
    except OSError as error:
        return Finding("run directory", BROKEN, str(error))
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o77:
        return Finding("run directory", BROKEN,
                       f"{path}: mode {stat.S_IMODE(found.st_mode):o}, owner {found.st_uid}; "
                       f"expected a folder of mode 700, owner {os.getuid()}", f"ls -ld {path}")
    return Finding("run directory", OK, str(path))


def seccomp() -> Finding:
    """Whether a filter is on this process, which may refuse more than bpf(2)."""
    fields = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text()
                  .splitlines() if ":\t" in line)
    mode = fields.get("Seccomp", "0").strip()
    words = {"0": "no filter", "1": "strict", "2": "a filter"}
    return Finding("seccomp", OK if mode in "02" else BROKEN, words.get(mode, mode))


def ptrace() -> Finding:
    """Seizes a child of this process, as the keeper seizes a target that is not its child."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    seized = libc().syscall(ctypes.c_long(SYS_PTRACE), ctypes.c_long(PTRACE_SEIZE),
                            ctypes.c_long(child), None, None)
    error = ctypes.get_errno()
    os.close(write_end)
    if seized == 0:
        libc().syscall(ctypes.c_long(SYS_PTRACE), ctypes.c_long(PTRACE_DETACH),
                       ctypes.c_long(child), None, None)
    os.waitpid(child, 0)
    if seized:
        return Finding("ptrace", LIMITED, f"{os.strerror(error)}: only targets that were started "
                       "under the shim, at single-instruction sites", "bpf-shim run -- TARGET")
    from libbpf_shim.attach.target import may_trace_others

    if os.geteuid() == 0 and not may_trace_others():
        return Finding("ptrace", LIMITED, "other users' processes take CAP_SYS_PTRACE",
                       "as their user, or docker run --cap-add SYS_PTRACE")
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except (OSError, ValueError):
        return Finding("ptrace", OK, "allowed")
    if scope and os.geteuid():
        return Finding("ptrace", LIMITED, f"Yama {scope}: children alone may be traced",
                       "bpf-shim run -- TARGET")
    return Finding("ptrace", OK, f"allowed (Yama {scope})")


def process_vm() -> Finding:
    """process_vm_readv(2) on oneself: how memory is read where a fault may not happen."""
    source = ctypes.create_string_buffer(b"shim", 8)
    target = ctypes.create_string_buffer(8)

    def iovec(buffer: Any) -> Any:
        return (ctypes.c_ulong * 2)(ctypes.addressof(buffer), 4)

    got = libc().syscall(ctypes.c_long(SYS_PROCESS_VM_READV), ctypes.c_long(os.getpid()),
                         iovec(target), ctypes.c_long(1), iovec(source), ctypes.c_long(1),
                         ctypes.c_long(0))
    if got == 4 and target.value == b"shim":
        return Finding("process_vm_readv", OK, "allowed")
    return Finding("process_vm_readv", LIMITED,
                   f"{os.strerror(ctypes.get_errno())}: threads that block SIGSEGV read zeros")


def membarrier() -> Finding:
    """Code written by another thread is made visible with membarrier(2)."""
    if libc().syscall(ctypes.c_long(SYS_MEMBARRIER), ctypes.c_long(0), ctypes.c_long(0),
                      ctypes.c_long(0)) < 0:
        return Finding("membarrier", LIMITED, os.strerror(ctypes.get_errno()))
    return Finding("membarrier", OK, "allowed")


def sessions() -> Finding:
    """Folders of sessions that nobody answers for: the next session removes them."""
    from libbpf_shim.cli.sessions import all_sessions

    try:
        found = all_sessions()
    except ImportError as error:
        return Finding("sessions", BROKEN, str(error), "make build")
    stale = [s for s in found if s.status is None]
    inert = [site for s in found if s.status for site in s.status.get("inert", [])]
    text = f"{len(found) - len(stale)} live"
    if stale:
        text += "; stale: " + ", ".join(f"{s.name} ({s.why})" for s in stale)
    if inert:
        text += "; inert sites: " + ", ".join(map(str, inert))
    return Finding("sessions", LIMITED if stale or inert else OK, text)


def newcomers() -> Finding:
    """How a session finds processes that begin without the library: told of by the kernel (the
    process connector), or by looking."""
    from libbpf_shim.attach.connector import reason
    from libbpf_shim.attach.newcomers import AGAIN, TICK

    if not (why := reason()):
        return Finding("newcomers", OK, "told of by the kernel at their exec; attached to some "
                       f"milliseconds later, to what they load later within {AGAIN:g} s")
    return Finding("newcomers", LIMITED, f"looked for every {TICK:g} to {AGAIN:g} s (process "
                   f"connector: {why}): what they do before that is not seen",
                   "bpf-shim run -- TARGET")


def isolation() -> Finding:
    """What `isolation: auto` in a class comes to here, and its cost (docs/performance.md)."""
    from libbpf_shim.uapi import machine

    sfi = "an entry and exit 0.4 ns more, programs on maps up to 9 %"
    if machine.has_keys():
        what = "mpk (auto): two wrpkru and two rdpkru a hit, which C meets (see --gadgets for " \
               f"what it does not contain); sfi: {sfi}"
    else:
        what = f"sfi (auto): {sfi}; no protection keys for mpk"
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        return Finding("isolation", LIMITED, f"{what}; processes started from here have {soft} "
                       "bytes of addresses, a window takes 4 GiB", "ulimit -v unlimited")
    return Finding("isolation", OK, what)


CHECKS: tuple[Callable[[], Finding], ...] = (
    machine, kernel, cpu, library, backend, run_directory, seccomp, ptrace, process_vm, membarrier,
    newcomers, isolation, sessions,
)


def examine(chosen: argparse.Namespace) -> int:
    """Runs every check; 3 if one of them is broken."""
    if chosen.gadgets:
        from libbpf_shim.cli import gadgets

        return gadgets.listed(chosen.gadgets, chosen.json)
    findings = [check() for check in CHECKS]
    if chosen.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{finding.state:8}{finding.check}: {finding.what}")
            if finding.hint and finding.state != OK:
                print(f"        hint: {finding.hint}")
    return 3 if any(finding.state == BROKEN for finding in findings) else 0


def add_verbs(verbs: Any) -> None:
    """Adds doctor."""
    verb = verbs.add_parser("doctor", help="what works here and why not")
    verb.add_argument("-j", "--json", action="store_true", help="as JSON")
    verb.add_argument("--gadgets", metavar="BINARY|PID", help="list the instructions there that "
                      "change rights to protection keys (isolation: mpk)")
    verb.set_defaults(handler=examine)
