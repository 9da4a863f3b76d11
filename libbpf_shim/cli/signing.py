"""policy key|sign: signatures of programs, for bindings that name their author's key.

Private keys are openssl's (PEM, Ed25519), and used by openssl(1) alone.
"""

from __future__ import annotations

import argparse
import errno
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from libbpf_shim.errors import ShimError

EX_OK, EX_USAGE = 0, 2
_PUBLIC = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo up to the key


def _openssl(*arguments: str) -> bytes:
    """What it prints. ShimError: there is none, or why it fails."""
    try:
        done = subprocess.run(["openssl", *arguments], capture_output=True, timeout=60,
                              check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ShimError("EP0009", errno.EIO, f"openssl: {error}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").splitlines()
        raise ShimError("EP0009", errno.EINVAL, f"openssl: {lines[0] if lines else 'it failed'}")
    return done.stdout


def public(key: Path) -> bytes:
    """The public key of a private one. EINVAL: it is none of Ed25519."""
    found = _openssl("pkey", "-in", str(key), "-pubout", "-outform", "DER")
    if not found.startswith(_PUBLIC):
        raise ShimError("EP0009", errno.EINVAL, f"{key}: not a key of Ed25519",
                        f"openssl genpkey -algorithm ed25519 -out {key}")
    return found[len(_PUBLIC):]


def signature(key: Path, digest: bytes) -> bytes:
    """Of a program. ShimError."""
    from libbpf_shim.eim import ed25519, signed

    owner = public(key)
    with tempfile.NamedTemporaryFile() as said:
        said.write(signed.message(digest))
        said.flush()
        made = _openssl("pkeyutl", "-sign", "-inkey", str(key), "-rawin", "-in", said.name)
    if not ed25519.verify(owner, signed.message(digest), made):
        raise ShimError("EP0009", errno.EINVAL, f"openssl: no signature of {key}")
    return made


def key_verb(chosen: argparse.Namespace) -> int:
    """The public key, as bindings name it."""
    try:
        print(public(Path(chosen.key)).hex())
    except ShimError as error:
        return _told(error)
    return EX_OK


def sign_verb(chosen: argparse.Namespace) -> int:
    """Signs an object's programs."""
    from libbpf_shim.client import offline
    from libbpf_shim.client.object import Object
    from libbpf_shim.eim import interface, signed
    from libbpf_shim.object.prog import sha256

    try:
        host = None
        if chosen.interface:
            declared, wrong = interface.read(chosen.interface)
            if declared is None or wrong:
                raise wrong[0]
            host = declared.btf
        folder = Path(chosen.out)
        folder.mkdir(exist_ok=True)
        for named in offline.programs(Object.open(chosen.file), chosen.prog, None, host):
            if isinstance(named, offline.Unjudged):
                raise ShimError("EP0009", errno.EINVAL, f"{named.name}: {named.why}")
            digest = sha256(named.program.insns)
            with open(signed.file(folder, digest), "a", encoding="ascii") as file:
                file.write(signature(Path(chosen.key), digest).hex() + "\n")
            print(f"{named.name} {digest.hex()}")
    except ShimError as error:
        return _told(error)
    except OSError as error:
        print(f"bpf-shim: {error}", file=sys.stderr)
        return EX_USAGE
    return EX_OK


def _told(error: ShimError) -> int:
    print(f"bpf-shim: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    return EX_USAGE


def add_verbs(inner: Any) -> None:
    one = inner.add_parser("key", help="the public key of a private one, for bindings")
    one.add_argument("key", metavar="KEY.pem")
    one.set_defaults(handler=key_verb)
    one = inner.add_parser("sign", help="sign an object's programs")
    one.add_argument("file", metavar="FILE.bpf.o")
    one.add_argument("--key", metavar="KEY.pem", required=True, help="of Ed25519, openssl's")
    one.add_argument("--out", metavar="FOLDER", required=True,
                     help="what the grants call `signatures`")
    one.add_argument("--interface", metavar="FILE",
                     help="whose functions and variables they name")
    one.add_argument("--prog", metavar="NAME", default="", help="this program only")
    one.set_defaults(handler=sign_verb)
