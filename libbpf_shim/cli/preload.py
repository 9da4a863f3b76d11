"""run, path, env: how a process gets the library."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from libbpf_shim.cli import asks, static
from libbpf_shim.errors import ShimError

LIBRARY = Path(__file__).resolve().parents[1] / "_lib" / "libbpf_shim.so"

# Every variable the product reads, with what it does. docs/reference/environment.md says more.
VARIABLES = {
    "LD_PRELOAD": "names the library; inherited by children, which become targets too",
    "LIBBPF_BPF_TOKEN_PATH": "file with the loader's capability token (run --token)",
    "LIBBPF_SHIM_AUDIT": "log of what tokens were granted (run --audit); unset: KEY.audit",
    "LIBBPF_SHIM_DEBUG": "1: the backend keeps stderr and says what it decides",
    "LIBBPF_SHIM_FOLLOW": "1: programs get the library whatever environment they are given (run)",
    "LIBBPF_SHIM_MAP_MEMORY": "bytes that a session's maps may have (512M); unset: half of all",
    "LIBBPF_SHIM_POLICY": "grants: programs have the classes that they say (run --policy)",
    "LIBBPF_SHIM_QUICK_READS": "0: each read of a target's memory is a system call; no SIGSEGV",
    "LIBBPF_SHIM_SERVED": "number of a process in which the library sleeps (run); -: does not",
    "LIBBPF_SHIM_SERVER": "folder of a daemon that the loader uses (run --server, serve)",
    "LIBBPF_SHIM_SESSION": "private: share no objects with other loaders of this user",
    "LIBBPF_SHIM_TIER": "1: LLVM compiles nothing; 2: all, at once (llvmlite); 0: nothing does",
    "LIBBPF_SHIM_TOKEN_KEY": "file with a key: loaders need a token of it (run --token-key)",
    "XDG_RUNTIME_DIR": "its folder libbpf_shim holds the sessions; unset: /tmp/libbpf_shim-UID",
}


def library() -> Path:
    """The preload library; ShimError(ENOENT) if it was never built."""
    if not LIBRARY.exists():
        raise ShimError("BS0001", errno.ENOENT, f"{LIBRARY}: not built", "make build")
    return LIBRARY


def preload_value(current: str) -> str:
    """LD_PRELOAD with the library first and whatever was in it kept."""
    ours = str(library())
    if any(blank in ours for blank in " :"):
        raise ShimError("BS0002", errno.EINVAL,
                        f"{ours}: LD_PRELOAD cannot name a path with a blank or a colon",
                        "move the installation, or use `make install`")
    kept = [part for part in current.replace(":", " ").split() if part != ours]
    return ":".join([ours, *kept])


def run(chosen: argparse.Namespace) -> int:
    """Replaces this process by the command, with the library preloaded; a loader that does not ask
    libc, statically linked or of Go, is served from another process."""
    command: list[str] = chosen.command
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        print("bpf-shim run: no command", file=sys.stderr)
        return 2
    environment = dict(os.environ)
    environment["LD_PRELOAD"] = preload_value(environment.get("LD_PRELOAD", ""))
    if not chosen.program:
        environment["LIBBPF_SHIM_FOLLOW"] = "1"
    for name, file in (("LIBBPF_SHIM_TOKEN_KEY", chosen.token_key),
                       ("LIBBPF_SHIM_AUDIT", chosen.audit),
                       ("LIBBPF_SHIM_POLICY", chosen.policy),
                       ("LIBBPF_SHIM_SERVER", chosen.server),
                       ("LIBBPF_BPF_TOKEN_PATH", chosen.token)):
        if file:  # the process that serves a static program is a fork of this one
            environment[name] = os.environ[name] = os.path.abspath(file)
    try:
        found = chosen.program or static.find(command[0], environment.get("PATH", os.defpath))
        program, alone = static.image(found)
        by_libc = bool(program) and not alone and not chosen.loader and asks.has_asked(program)
        if program and (chosen.loader or by_libc or asks.asks(program, alone)):
            return static.serve(found, command, environment, by_libc or bool(chosen.program))
        if alone:
            return static.run(found, command, environment, library())
        if chosen.program:
            return static.leave(found, command, environment)
        static.restore_signals()
        os.execvpe(command[0], command, environment)
    except OSError as error:
        print(f"bpf-shim run: {command[0]}: {error.strerror}", file=sys.stderr)
        return 127 if error.errno == errno.ENOENT else 126


def path(chosen: argparse.Namespace) -> int:
    """Prints the library's path."""
    print(library())
    return 0


def env(chosen: argparse.Namespace) -> int:
    """Prints shell assignments for a tool started by hand."""
    value = preload_value(os.environ.get("LD_PRELOAD", ""))
    print(f"export LD_PRELOAD={shlex.quote(value)}")
    return 0


def add_verbs(verbs: Any) -> None:
    """Adds run, path and env to the parser's verbs."""
    verb = verbs.add_parser("run", help="run a loader or a target with the library preloaded")
    verb.add_argument("--token", metavar="FILE", help="the loader's capability token")
    verb.add_argument("--token-key", metavar="FILE",
                      help="admit loaders that have a token of this key, and nobody else")
    verb.add_argument("--audit", metavar="FILE", help="log of what was granted (KEY.audit)")
    verb.add_argument("--policy", metavar="GRANTS",
                      help="programs have the classes that they are bound to there (docs/eim.md)")
    verb.add_argument("--server", metavar="DIR",
                      help="folder of the daemon that is asked (bpf-shim serve)")
    verb.add_argument("--loader", action="store_true",
                      help="COMMAND, or what it starts, makes bpf(2) without libc")
    # of the library, for a program that has begun under another name than its file's (outside.c)
    verb.add_argument("--program", default="", help=argparse.SUPPRESS)
    verb.add_argument("command", nargs=argparse.REMAINDER, metavar="[--] COMMAND ...")
    verb.set_defaults(handler=run)
    verb = verbs.add_parser("path", help="print the path of libbpf_shim.so")
    verb.set_defaults(handler=path)
    listed = "\n".join(f"  {name:24}{what}" for name, what in VARIABLES.items())
    verb = verbs.add_parser(
        "env", help="print the variables, for eval", epilog=f"variables:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(handler=env)
