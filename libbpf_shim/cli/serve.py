"""serve: a daemon for loaders of other users, which holds them to a policy."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from libbpf_shim.cli.token import size
from libbpf_shim.errors import ShimError


def place() -> Path:
    """Where the daemon of this user serves if it is not told."""
    uid = os.geteuid()
    return Path("/run/libbpf_shim") if uid == 0 else Path(f"/tmp/libbpf_shim-serve-{uid}")


def handler(chosen: argparse.Namespace) -> int:
    """Serves until it is told to end. Prints its folder once it does."""
    from libbpf_shim.backend.served import Limits
    from libbpf_shim.backend.serving import Daemon, Door

    given = {f.name: getattr(chosen, f.name) for f in fields(Limits)}
    policy, folder = Path(os.path.abspath(chosen.policy)), Path(os.path.abspath(chosen.at))
    audit = Path(os.path.abspath(chosen.audit)) if chosen.audit else \
        policy.with_name(policy.name + ".audit")
    key = Path(os.path.abspath(chosen.token_key)) if chosen.token_key else None
    if len(os.fsencode(folder)) > 100:
        raise ShimError("CL0001", errno.ENAMETOOLONG, f"{folder}: a socket's path is shorter")
    if chosen.user:
        from libbpf_shim.backend import becoming

        becoming.become(becoming.user(chosen.user), folder, audit)
    elif not os.geteuid():
        print("bpf-shim serve: root's daemon extends root's processes and no others; --user USER "
              "has it become the application's user", file=sys.stderr)
    door = Door(Daemon(policy, folder, audit, key, Limits.of(given)))
    print(folder, flush=True)
    door.run()
    return 0


def add_verbs(verbs: Any) -> None:
    verb = verbs.add_parser("serve", help="a daemon: other users' programs run as a policy says")
    verb.add_argument("--policy", metavar="DIR", required=True,
                      help="folder of grants (docs/eim.md), which only this user writes")
    verb.add_argument("--at", metavar="DIR", default=str(place()),
                      help="folder of its socket, which all may enter (%(default)s)")
    verb.add_argument("--user", metavar="USER", default="",
                      help="of root's: become the user of the application first")
    verb.add_argument("--audit", metavar="FILE", help="its log (DIR.audit, beside the policy)")
    verb.add_argument("--token-key", metavar="FILE",
                      help="admit loaders that have a token of this key, and nobody else")
    limits = verb.add_argument_group("limits of one user")
    for name, what, kind in (
            ("programs", "programs (64)", int), ("maps", "maps (128)", int),
            ("map-bytes", "bytes of maps (64M)", size), ("btf-bytes", "bytes of BTF (8M)", size),
            ("events", "events, and links (512)", int),
            ("loaders", "processes that are connected (32)", int),
            ("loads", "programs that wait to be verified (4)", int)):
        limits.add_argument(f"--{name}", metavar="N", type=kind, default=0, help=what)
    verb.set_defaults(handler=handler)
