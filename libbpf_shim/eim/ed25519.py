"""Ed25519 signatures, checked: nothing here is secret, so nothing needs to take the same time.

Source: RFC 8032, sections 5.1.3 (points), 5.1.4 (adding), 5.1.7 (verification; no cofactor).
Signing is for tools that keep secrets well; `bpf-shim policy sign` asks openssl(1).
"""

from __future__ import annotations

import hashlib
from typing import Final

KEY_SIZE: Final = 32  # bytes
SIGNATURE_SIZE: Final = 64
_P: Final = 2**255 - 19
_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
_D: Final = -121665 * pow(121666, -1, _P) % _P
_ROOT: Final = pow(2, (_P - 1) // 4, _P)  # of -1
_SMALL: Final = 8  # the cofactor
Point = tuple[int, int, int, int]  # X, Y, Z, T: x = X/Z, y = Y/Z, x*y = T/Z
_ZERO: Final[Point] = (0, 1, 1, 0)


def _add(a: Point, b: Point) -> Point:
    low = (a[1] - a[0]) * (b[1] - b[0]) % _P
    high = (a[1] + a[0]) * (b[1] + b[0]) % _P
    twist = 2 * _D * a[3] * b[3] % _P
    both = 2 * a[2] * b[2] % _P
    e, f, g, h = high - low, both - twist, both + twist, high + low
    return e * f % _P, g * h % _P, f * g % _P, e * h % _P


def _point(data: bytes) -> Point | None:
    """None: it is the encoding of none."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number & (1 << 255) - 1
    if len(data) != KEY_SIZE or y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if x * x % _P != square:
        x = x * _ROOT % _P
    if x * x % _P != square or (not x and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


def _bytes(point: Point) -> bytes:
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(KEY_SIZE, "little")


def _base() -> Point:
    found = _point((4 * pow(5, -1, _P) % _P).to_bytes(KEY_SIZE, "little"))
    assert found
    return found


_BASE: Final = _base()


def _sum(s: int, k: int, of: Point) -> Point:
    """s times the base point, and k times `of`."""
    table = (_ZERO, _BASE, of, _add(_BASE, of))
    found = _ZERO
    for at in range(max(s.bit_length(), k.bit_length()) - 1, -1, -1):
        found = _add(found, found)
        if which := (s >> at & 1) | (k >> at & 1) << 1:
            found = _add(found, table[which])
    return found


def is_key(key: bytes) -> bool:
    """It is a point of the curve, and of none of the few small orders, for which anybody could
    sign."""
    point = _point(key)
    if point is None:
        return False
    many = point
    for _ in range(_SMALL.bit_length() - 1):
        many = _add(many, many)
    return many[0] % _P != 0 or (many[1] - many[2]) % _P != 0


def verify(key: bytes, message: bytes, signature: bytes) -> bool:
    """The signature of that message is by the owner of that public key."""
    point = _point(key)
    if point is None or len(signature) != SIGNATURE_SIZE:
        return False
    r, s = signature[:KEY_SIZE], int.from_bytes(signature[KEY_SIZE:], "little")
    if s >= _ORDER:
        return False
    digest = hashlib.sha512(r + key + message).digest()
    k = int.from_bytes(digest, "little") % _ORDER
    minus = (-point[0] % _P, point[1], point[2], -point[3] % _P)
    return _bytes(_sum(s, k, minus)) == r
