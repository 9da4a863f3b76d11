"""token key|mint|attenuate|explain|revoke|header: what a token grants, in files.

A token is a line of text. TOKEN is a file, or - for stdin; a new one goes to stdout or, for its
owner alone, to a file that is not there yet.
"""

from __future__ import annotations

import argparse
import datetime
import errno
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from libbpf_shim.cli import token_show
from libbpf_shim.errors import ShimError
from libbpf_shim.token import chain, keys
from libbpf_shim.token.chain import Token
from libbpf_shim.token.claims import Attach, Claims
from libbpf_shim.token.error import wrong

EX_OK, EX_REJECTED = 0, 1
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_FOR = re.compile(r"(\d{1,9})([smhd])\Z")
_SIZE = re.compile(r"(\d{1,15})([KMG]?)\Z")
ATTACH = {kind.name.lower(): kind for kind in Attach if kind.name}


def expiry(text: str) -> int:
    """90s, 15m, 12h, 30d from now, or a date of ISO 8601 (UTC if it names no zone), in seconds
    since 1970."""
    if found := _FOR.match(text):
        return int(time.time()) + int(found[1]) * _UNITS[found[2]]
    try:
        date = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise wrong(f"{text}: neither 90s, 15m, 12h, 30d nor a date") from None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.timezone.utc)
    return max(int(date.timestamp()), 0)


def size(text: str) -> int:
    """Bytes; K, M or G behind them."""
    if not (found := _SIZE.match(text)):
        raise wrong(f"{text}: not a size")
    return int(found[1]) * _SIZES[found[2]]


def kinds(text: str) -> Attach:
    """Names with commas between them, or none."""
    found = Attach(0)
    for name in text.split(",") if text != "none" else ():
        if name not in ATTACH:
            raise wrong(f"attach {name}: not one of {', '.join(ATTACH)}, none")
        found |= ATTACH[name]
    return found


def build_id(path: str) -> bytes:
    """Of a file of ELF."""
    from libbpf_shim.elf.module import Module

    found = Module(path).build_id
    if not found:
        raise wrong(f"{path}: has no build-id")
    return found


def instructions(name: str) -> bytes:
    """The program of FILE.bpf.o, or of FILE.bpf.o:NAME, if it can be a constraint."""
    from libbpf_shim.client import offline
    from libbpf_shim.client.object import Object
    from libbpf_shim.token.claims import MAX_INSNS
    from libbpf_shim.token.program import why_not

    path, _, wanted = name.partition(":")
    found = [one for one in offline.programs(Object.open(path), wanted)
             if isinstance(one, offline.Named)]
    if len(found) != 1:
        raise wrong(f"{name}: {len(found)} programs, expected one", hint="FILE.bpf.o:NAME")
    program = found[0].program
    if program.maps:
        raise wrong(f"{name}: it uses maps, or variables that are not on its stack")
    if len(program.insns) > 8 * MAX_INSNS:
        raise wrong(f"{name}: {len(program.insns) // 8} instructions, at most {MAX_INSNS}")
    if why := why_not(program.insns):
        raise wrong(f"{name}: {why}", hint=f"bpf-shim verify {path}")
    return program.insns


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise wrong(f"{text}: not hexadecimal") from None


def granted(chosen: argparse.Namespace) -> Claims:
    """The claims that the options say."""
    ids = [_hex(text) for text in chosen.build_id] + [build_id(path) for path in chosen.binary]
    found = Claims(
        expires=expiry(chosen.expires) if chosen.expires else None,
        uids=tuple(sorted(set(chosen.uid))) or None, build_ids=tuple(sorted(set(ids))) or None,
        classes=tuple(sorted(set(chosen.cls))) or None,
        attach=kinds(chosen.attach) if chosen.attach else None,
        map_bytes=size(chosen.map_bytes) if chosen.map_bytes else None,
        program=instructions(chosen.program) if chosen.program else None)
    if found == Claims():
        raise wrong("it would say nothing", hint="--expires 12h")
    return found


def read(path: str) -> Token:
    """The token in a file; ShimError."""
    try:
        with sys.stdin.buffer if path == "-" else open(path, "rb") as file:
            token = chain.from_text(file.read(chain.MAX_TEXT + 1))
            assert token.claims  # they can be read
            return token
    except OSError as error:
        raise wrong(f"{path}: {error.strerror}", error.errno or errno.EIO) from error


def give(token: Token, path: str) -> None:
    """To stdout, or a new file of this user's alone."""
    text = chain.to_text(token) + "\n"
    if not path:
        sys.stdout.write(text)
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise wrong(f"{path}: {error.strerror}", error.errno or errno.EIO) from error
    with open(fd, "w", encoding="ascii") as file:
        file.write(text)


def _made(work: Callable[[], Token]) -> Token:
    """What chain.mint and attenuate make; what they cannot encode was asked wrongly."""
    try:
        return work()
    except ShimError as error:
        if error.code == "TK0001":
            raise wrong("a name, build-id or number that no token can have") from error
        raise


def _told(verb: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """The verb, with a token that is none as a rejection."""
    def told(chosen: argparse.Namespace) -> int:
        try:
            return verb(chosen)
        except ShimError as error:
            if error.code not in ("TK0001", "TK0002"):
                raise
            print(f"bpf-shim: {error.message}", file=sys.stderr)
            return EX_REJECTED
    return told


def key(chosen: argparse.Namespace) -> int:
    keys.make(Path(chosen.file))
    return EX_OK


def mint(chosen: argparse.Namespace) -> int:
    claims = granted(chosen)
    give(_made(lambda: chain.mint(keys.read(Path(chosen.key)), claims)), chosen.out)
    return EX_OK


def attenuate(chosen: argparse.Namespace) -> int:
    token, claims = read(chosen.token), granted(chosen)
    give(_made(lambda: chain.attenuate(token, claims)), chosen.out)
    return EX_OK


def explain(chosen: argparse.Namespace) -> int:
    """What each step grants; with the key, whether the token is accepted."""
    token = read(chosen.token)
    verdict = ""
    if chosen.key:
        path = Path(chosen.key)
        secret, revoked = keys.read(path), keys.Revoked(path).now()
        try:
            chain.check(secret, token, revoked)
        except ShimError as error:
            verdict = error.message.removeprefix("token: ")
    told = token_show.Told(token, bool(chosen.key), verdict)
    print(json.dumps(told.plain()) if chosen.json else told.text())
    return EX_REJECTED if verdict else EX_OK


def revoke(chosen: argparse.Namespace) -> int:
    """A token and all that comes of it, by the token or by its name."""
    if re.fullmatch(f"[0-9a-f]{{{2 * chain.ID_SIZE}}}", chosen.token):
        name = bytes.fromhex(chosen.token)
    else:
        token = read(chosen.token)
        name = token.ids[0 if chosen.family else -1]
    done = keys.revoke(Path(chosen.key), name)
    print(f"{name.hex()} {'revoked' if done else 'was revoked before'}")
    return EX_OK


def header(chosen: argparse.Namespace) -> int:
    from libbpf_shim.token import request

    print(request.header(), end="")
    return EX_OK


def _claims(verb: Any) -> None:
    verb.add_argument("--expires", metavar="WHEN", help="90s, 15m, 12h, 30d or a date")
    verb.add_argument("--uid", type=int, action="append", default=[], metavar="N",
                      help="of processes that may use it; may be given again")
    verb.add_argument("--build-id", action="append", default=[], metavar="HEX",
                      help="attach to no file but this; may be given again")
    verb.add_argument("--binary", action="append", default=[], metavar="FILE",
                      help="the same by a file that has the build-id")
    verb.add_argument("--class", dest="cls", action="append", default=[], metavar="NAME",
                      help="load no program but of this class; may be given again")
    verb.add_argument("--attach", metavar="KINDS",
                      help=f"attach by these alone: {','.join(ATTACH)}, or none")
    verb.add_argument("--map-bytes", metavar="SIZE", help="of all its maps together: 64M")
    verb.add_argument("--program", metavar="FILE.bpf.o[:NAME]",
                      help="a program of SEC(\"syscall\") that answers 0 for no")
    verb.add_argument("--out", default="", metavar="FILE", help="a new file; else stdout")


def add_verbs(verbs: Any) -> None:
    verb = verbs.add_parser("token", help="make, narrow, explain and revoke capability tokens")
    inner = verb.add_subparsers(metavar="VERB", required=True)
    one = inner.add_parser("key", help="make a key")
    one.add_argument("file", metavar="FILE")
    one.set_defaults(handler=_told(key))
    one = inner.add_parser("mint", help="make a token with a key")
    one.add_argument("--key", required=True, metavar="FILE")
    _claims(one)
    one.set_defaults(handler=_told(mint))
    one = inner.add_parser("attenuate", help="make a token that grants less; needs no key")
    one.add_argument("token", metavar="TOKEN")
    _claims(one)
    one.set_defaults(handler=_told(attenuate))
    one = inner.add_parser("explain", help="say what a token grants")
    one.add_argument("token", metavar="TOKEN")
    one.add_argument("--key", metavar="FILE", help="say whether it is accepted, too")
    one.add_argument("-j", "--json", action="store_true", help="as JSON")
    one.set_defaults(handler=_told(explain))
    one = inner.add_parser("revoke", help="end a token and all that comes of it")
    one.add_argument("token", metavar="TOKEN", help="or its name, as explain prints it")
    one.add_argument("--key", required=True, metavar="FILE")
    one.add_argument("--family", action="store_true", help="from its first step on")
    one.set_defaults(handler=_told(revoke))
    one = inner.add_parser("header", help="print what a token's program is given, as C")
    one.set_defaults(handler=header)
