"""The chain of a token: minted with a key, narrowed without it, checked with it.

A token is a nonce, one to MAX_STEPS steps (claims.py) and the last link of a chain of HMAC-SHA256:
the first is of nonce and first step under the key, each further one of its step under the link
before. Who has a token has its last link alone: he can add steps, and can neither take one away,
nor change or move one, since for that he would need a link that he cannot compute back to. The
steps grant together what each of them grants, and a step that says more than those before it makes
the token void.

Binary: "BST" 1, nonce, u8 steps, of each u16 bytes and the bytes, 32 bytes of link. As text:
"bst1." and base64url without padding, perhaps a newline. Both have one form only.
Source: the construction is that of Birgisson et al., Macaroons, NDSS 2014; RFC 2104.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import struct
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from libbpf_shim.token import claims as rows
from libbpf_shim.token.claims import Claims
from libbpf_shim.token.error import invalid, refused, wrong

KEY_SIZE: Final = 32  # bytes
ID_SIZE: Final = 16  # bytes
MAX_STEPS: Final = 16
MAX_SIZE: Final = 16384  # bytes of a token
MAX_TEXT: Final = 5 + (MAX_SIZE * 4 + 2) // 3 + 1
_MAGIC: Final = b"BST\x01"
_PREFIX: Final = b"bst1."
_NONCE, _LINK = 16, 32
_DOMAIN: Final = b"libbpf_shim token 1\0"
_LENGTH = struct.Struct("<H")
_TEXT = re.compile(rb"bst1\.([A-Za-z0-9_-]+)\n?\Z")


@dataclass(frozen=True, slots=True)
class Token:
    """A token taken apart; nothing is said about who made it. steps: their encodings."""

    nonce: bytes
    steps: tuple[bytes, ...]
    link: bytes

    @property
    def ids(self) -> tuple[bytes, ...]:
        """The name of the token after each of its steps: what can be revoked. A token that was
        narrowed has a name of its own, and those of all that it comes from."""
        found, digest = [], hashlib.sha256(self.nonce)
        for step in self.steps:
            digest.update(_sized(step))
            found.append(digest.digest()[:ID_SIZE])
        return tuple(found)

    @property
    def claims(self) -> tuple[Claims, ...]:
        """Of each step, whoever wrote it; ShimError EPERM."""
        return tuple(rows.decode(step) for step in self.steps)


@dataclass(frozen=True, slots=True)
class Grant:
    """A genuine token. ids, steps: as Token's. claims: all of them together."""

    ids: tuple[bytes, ...]
    steps: tuple[Claims, ...]
    claims: Claims

    @property
    def id(self) -> bytes:
        """The token's name."""
        return self.ids[-1]


def _sized(step: bytes) -> bytes:
    return _LENGTH.pack(len(step)) + step


def _next(link: bytes, step: bytes) -> bytes:
    return hmac.digest(link, _sized(step), "sha256")


def _first(key: bytes, nonce: bytes, step: bytes) -> bytes:
    return hmac.digest(key, _DOMAIN + nonce + _sized(step), "sha256")


def mint(key: bytes, granted: Claims) -> Token:
    """A token that grants what the claims leave. ShimError EINVAL."""
    if len(key) != KEY_SIZE:
        raise wrong(f"a key of {len(key)} bytes, expected {KEY_SIZE}")
    step, nonce = rows.encode(granted), os.urandom(_NONCE)
    return Token(nonce, (step,), _first(key, nonce, step))


def attenuate(token: Token, granted: Claims) -> Token:
    """The token with one more step. ShimError EINVAL: the step would widen it, which makes a
    token void; E2BIG: it has too many."""
    before = Claims()
    for claims in token.claims:
        before = claims.after(before)
    if name := granted.widens(before):
        raise wrong(f"{name}: more than the token grants")
    step = rows.encode(granted)
    out = Token(token.nonce, (*token.steps, step), _next(token.link, step))
    if len(out.steps) > MAX_STEPS or len(pack(out)) > MAX_SIZE:
        raise wrong(f"more than {MAX_STEPS} steps or {MAX_SIZE} bytes")
    return out


def pack(token: Token) -> bytes:
    """The binary form."""
    body = b"".join(_sized(step) for step in token.steps)
    return _MAGIC + token.nonce + bytes([len(token.steps)]) + body + token.link


def unpack(data: bytes) -> Token:
    """From the binary form; ShimError EPERM. What is in the steps is not looked at."""
    at = len(_MAGIC) + _NONCE + 1
    if not at + _LINK <= len(data) <= MAX_SIZE or data[:4] != _MAGIC:
        raise invalid()
    steps, end = [], len(data) - _LINK
    for _ in range(data[at - 1]):
        if at + 2 > end:
            raise invalid()
        (size,) = _LENGTH.unpack_from(data, at)
        steps.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    if at != end or not 0 < len(steps) <= MAX_STEPS:
        raise invalid()
    return Token(data[4:20], tuple(steps), data[end:])


def to_text(token: Token) -> str:
    """The text form, without a newline."""
    return (_PREFIX + base64.urlsafe_b64encode(pack(token)).rstrip(b"=")).decode()


def from_text(text: bytes) -> Token:
    """From the text form; ShimError EPERM."""
    found = _TEXT.match(text) if len(text) <= MAX_TEXT else None
    if found is None:
        raise invalid()
    try:
        data = base64.urlsafe_b64decode(found[1] + b"=" * (-len(found[1]) % 4))
    except (ValueError, binascii.Error):
        raise invalid() from None
    # bits of the last letter that mean nothing could be anything
    if base64.urlsafe_b64encode(data).rstrip(b"=") != found[1]:
        raise invalid()
    return unpack(data)


def genuine(key: bytes, token: Token) -> Grant:
    """The token is of this key and narrows at each step. ShimError EPERM. Nothing of a forgery but
    its lengths is looked at."""
    link = _first(key, token.nonce, token.steps[0])
    for step in token.steps[1:]:
        link = _next(link, step)
    if not hmac.compare_digest(link, token.link):
        raise invalid()
    steps, together = token.claims, Claims()
    for claims in steps:
        if name := claims.widens(together):
            raise refused(f"{name}: a step grants more than the one before it")
        together = claims.after(together)
    return Grant(token.ids, steps, together)


def check(key: bytes, token: Token, revoked: Collection[bytes] = (),
          now: float | None = None) -> Grant:
    """The token is genuine, neither revoked nor expired. ShimError EPERM."""
    grant = genuine(key, token)
    still(grant, revoked, now)
    return grant


def still(grant: Grant, revoked: Collection[bytes], now: float | None = None) -> None:
    """It is neither revoked nor expired; ShimError EPERM."""
    if revoked and any(one in revoked for one in grant.ids):
        raise refused("revoked")
    expires = grant.claims.expires
    if expires is not None and (time.time() if now is None else now) >= expires:
        raise refused("expired")
