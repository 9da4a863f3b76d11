"""load FILE.bpf.o: an object is loaded, shown, and kept by a pin or for as long as this runs."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
from typing import Any

from libbpf_shim.cli import told
from libbpf_shim.errors import ShimError

EX_OK, EX_REJECTED, EX_USAGE, EX_UNAVAILABLE = 0, 1, 2, 3
_BPFFS = "/sys/fs/bpf"
_NOT_HERE = frozenset((errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO))


def kind_of(names: Any, prefix: str, number: int) -> str:
    """bpftool's word for a type."""
    try:
        return str(names(number).name).removeprefix(prefix).lower()
    except ValueError:
        return str(number)


def describe(loaded: Any) -> dict[str, list[dict[str, Any]]]:
    """Programs and maps of a loaded object, as `-j` prints them."""
    from libbpf_shim.uapi.bpf import bpf_map_type, bpf_prog_type

    programs = [
        {"name": p.name, "type": kind_of(bpf_prog_type, "BPF_PROG_TYPE_", p.type),
         "section": p.section, "id": p.id, "insns": int(p.info()["xlated_prog_len"]) // 8}
        for p in loaded.programs.values() if not p.closed
    ]
    maps = [
        {"name": name, "type": kind_of(bpf_map_type, "BPF_MAP_TYPE_", m.type), "id": m.id,
         "key": m.key_size, "value": m.value_size, "max_entries": m.max_entries}
        for name, m in loaded.maps.items()
    ]
    return {"programs": programs, "maps": maps}


def show(found: dict[str, list[dict[str, Any]]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    for row in found["programs"]:
        print(f"program {row['name']}: {row['type']}  SEC({row['section']})  "
              f"{row['insns']} instructions  id {row['id']}")
    for row in found["maps"]:
        print(f"map {row['name']}: {row['type']}  key {row['key']}B  value {row['value']}B  "
              f"max_entries {row['max_entries']}  id {row['id']}")


def pin(loaded: Any, folder: str) -> None:
    """Everything below a folder of the bpffs; nothing, if one of them cannot be had."""
    from libbpf_shim.client.handle import unpin

    folder = folder if folder.startswith("/") else f"{_BPFFS}/{folder}"
    made: list[str] = []
    held = [*((p.name, p) for p in loaded.programs.values() if not p.closed),
            *loaded.maps.items(),
            *((f"link_{link.name}", link) for link in loaded.links)]
    try:
        for name, what in held:
            path = f"{folder}/{name.replace('.', '_')}"
            what.pin(path)
            made.append(path)
    except ShimError:
        for path in made:
            with contextlib.suppress(OSError):
                unpin(path)
        raise


def wait() -> None:
    """Until somebody ends it."""
    wanted = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    sys.stdout.flush()
    print("attached; Ctrl-C ends it", file=sys.stderr, flush=True)
    signal.sigwait(wanted)


def refused(error: ShimError) -> int:
    """Says why, with the verifier's log if there is one; the exit code."""
    from libbpf_shim.client.program import LoadError

    rejected = isinstance(error, LoadError)
    if isinstance(error, LoadError) and error.log:
        print(error.log.rstrip("\n"), file=sys.stderr)
    print(f"bpf-shim: {error.message}: {os.strerror(error.errno)}", file=sys.stderr)
    if error.hint and not rejected:
        print(f"hint: {error.hint}", file=sys.stderr)
    no_session = error.code.startswith("CS")
    not_here = not rejected and (no_session or error.errno in _NOT_HERE)
    return EX_UNAVAILABLE if not_here else EX_REJECTED


def load(chosen: argparse.Namespace) -> int:
    """The verb."""
    from libbpf_shim.client.object import Object

    try:
        opened = Object.open(chosen.file, btf=chosen.btf)
    except ShimError as error:
        told(error)
        return EX_USAGE
    try:
        with opened:
            opened.load()
            if chosen.attach:
                opened.attach()
            if chosen.pin:
                pin(opened, chosen.pin)
            show(describe(opened), chosen.json)
            if chosen.attach and not chosen.pin:
                wait()
    except ShimError as error:
        return refused(error)
    return EX_OK


def add_verbs(verbs: Any) -> None:
    verb = verbs.add_parser("load", help="load a .bpf.o, show its programs and maps")
    verb.add_argument("file", metavar="FILE.bpf.o")
    verb.add_argument("--attach", action="store_true",
                      help="attach what says where in its SEC(), until Ctrl-C or by its pins")
    verb.add_argument("--pin", metavar="DIR", help=f"pin everything below {_BPFFS}/DIR and leave")
    verb.add_argument("--btf", metavar="FILE", help="BTF that CO-RE relocates against")
    verb.add_argument("-j", "--json", action="store_true", help="as JSON")
    verb.set_defaults(handler=load)
