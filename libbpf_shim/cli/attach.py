"""attach, detach: the agent into a running process, and out of it with all that sessions have put
there.

attach: the agent stays until it is asked to go, whatever sessions come and end. Live sessions put
there what they have for the process, tracepoints and clocks too, for which nobody is given an
agent. detach: every live session of this user leaves the process and does not come back to it by
itself; then the agent is unmapped. A process that carries the preloaded library keeps that.
"""

from __future__ import annotations

import argparse
import errno
import json
import sys
from typing import Any

from libbpf_shim.attach import target as targets
from libbpf_shim.attach.inherited import sessions
from libbpf_shim.attach.inject import check_version, inject, refusal, stay
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.attach.target import Target, look_closely
from libbpf_shim.backend.rundir import locate
from libbpf_shim.cli.sessions import folders, leave, look
from libbpf_shim.errors import ShimError

_DEAD = (errno.ECONNREFUSED, errno.ENOENT)  # nobody listens at a session's socket


def _process(pid: int) -> Target:
    """The process, with an agent or without; ShimError with the reason."""
    target = look_closely(pid)
    if target is None:
        raise refusal(pid, ShimError("CL0007", errno.EPERM, f"process {pid}: cannot be read"))
    check_version(target)
    return target


def _say(chosen: argparse.Namespace, pid: int, **what: object) -> int:
    if chosen.json:
        print(json.dumps({"pid": pid, **what}))
    else:
        print(f"{pid}: " + "  ".join(f"{name} {value}" for name, value in what.items()))
    return 0


def _kind(target: Target) -> str:
    return "injected" if target.injected else "preloaded"


def attach(chosen: argparse.Namespace) -> int:
    """Gives the process an agent, or finds that it has one."""
    target = _process(chosen.pid)
    keeper = Keeper()
    try:
        if not target.root:
            target = inject(keeper, target.pid, str(locate()))
        if target.injected:
            stay(target)
    finally:
        keeper.close()
    for folder in folders():
        try:
            look(folder, target.pid)
        except ShimError as error:
            if error.errno not in _DEAD:
                print(f"bpf-shim: {error.message}", file=sys.stderr)
    return _say(chosen, target.pid, agent=_kind(target), root=f"{target.root:#x}")


def detach(chosen: argparse.Namespace) -> int:
    """Sessions leave the process, and the agent goes."""
    target = _process(chosen.pid)
    if not target.root:
        raise ShimError("CL0008", errno.ENOENT, f"process {target.pid}: has no agent")
    _all_leave(target)
    if not target.injected:
        return _say(chosen, target.pid, agent="preloaded", left="every session")
    keeper = Keeper()
    try:
        keeper.eject(target.pid, target.root, kept=True, timeout_ms=5000)
    except ShimError as error:
        now = targets.look(target.pid)
        if now is None or not now.injected:  # its session was the quicker one
            return _say(chosen, target.pid, agent="gone")
        print(f"bpf-shim: process {target.pid}: the agent stays, silent: {_still(error)}",
              file=sys.stderr)
        return 3
    finally:
        keeper.close()
    return _say(chosen, target.pid, agent="gone")


def _all_leave(target: Target) -> None:
    """Each session whose backend is alive is asked, however busy it is: it may be on its way into
    the process. ShimError: one that is there has not left."""
    for folder in folders():
        try:
            leave(folder, target.pid)
        except ShimError as error:
            if error.errno in _DEAD:
                continue  # who takes the agent out takes what that left
            inside = sessions(target)
            if inside is None or int(folder.name) in inside:
                raise


def _still(error: ShimError) -> str:
    if error.errno == errno.EBUSY:
        return "a session is in it, or a program runs"
    if error.errno == errno.EAGAIN:
        return "a thread does not leave it"
    return error.message


def _number(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"no process number: {text!r}")
    return int(text)


def add_verbs(verbs: Any) -> None:
    """Adds attach and detach to the parser's verbs."""
    for name, handler, text in (
        ("attach", attach, "put the agent into a running process"),
        ("detach", detach, "take sessions and the agent out of a running process"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("-j", "--json", action="store_true", help="one JSON object")
        verb.add_argument("pid", type=_number, metavar="PID")
        verb.set_defaults(handler=handler)
