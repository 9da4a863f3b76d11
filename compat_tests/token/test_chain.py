"""Tokens: what is genuine, what is not, and that each step only narrows.

The steps of a hostile holder are made here as he would make them: he has the last link, and can
chain to it whatever bytes he likes.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest

from libbpf_shim.errors import ShimError
from libbpf_shim.token import chain, claims
from libbpf_shim.token.chain import Token
from libbpf_shim.token.claims import Attach, Claims

KEY = bytes(range(32))
NOW = 1_000_000
RETURN_1 = bytes.fromhex("b700000001000000" "9500000000000000")
FULL = Claims(expires=NOW + 100, uids=(0, 7, 1000), build_ids=(b"a" * 20, b"b" * 16),
              classes=("firewall", "observe"), attach=Attach.UPROBE | Attach.TEST_RUN,
              map_bytes=1 << 20, program=RETURN_1)


def four() -> Token:
    token = chain.mint(KEY, Claims(expires=NOW + 100, uids=(1, 2, 3), map_bytes=1 << 20))
    token = chain.attenuate(token, Claims(uids=(1, 2), attach=claims.EVERYWHERE))
    token = chain.attenuate(token, Claims(build_ids=(b"a" * 20,), program=RETURN_1))
    return chain.attenuate(token, Claims(expires=NOW + 50, attach=Attach.UPROBE))


def hostile(token: Token, step: bytes) -> Token:
    """With a step that `attenuate` would not make."""
    return Token(token.nonce, (*token.steps, step), chain._next(token.link, step))


def why_not(token: Token, now: int = NOW, revoked: tuple[bytes, ...] = (),
            key: bytes = KEY) -> str:
    """"": accepted."""
    try:
        chain.check(key, chain.unpack(chain.pack(token)), revoked, now)
    except ShimError as error:
        assert error.errno == errno.EPERM
        return error.message
    return ""


def test_a_token_grants_what_all_its_steps_grant() -> None:
    grant = chain.check(KEY, chain.from_text(chain.to_text(four()).encode() + b"\n"), (), NOW)
    assert len(grant.steps) == 4 and len(set(grant.ids)) == 4
    assert grant.claims == Claims(NOW + 50, (1, 2), (b"a" * 20,), None, Attach.UPROBE, 1 << 20,
                                  RETURN_1)


def test_every_claim_has_one_encoding() -> None:
    data = claims.encode(FULL)
    assert claims.decode(data) == FULL
    rng = random.Random(1)
    read = 0
    for _ in range(3000):
        other = bytearray(data)
        for _ in range(rng.randrange(1, 3)):
            at = rng.randrange(len(other))
            other[at : at + rng.randrange(2)] = rng.randbytes(rng.randrange(3))
        try:
            found = claims.decode(bytes(other))
        except ShimError as error:
            assert error.errno == errno.EPERM and error.message == "token: not a valid one"
            continue
        read += 1
        assert claims.encode(found) == other  # else two encodings of one content
    assert read > 300


@pytest.mark.parametrize("step", [
    b"", b"\x01", b"\x01\x08\x00" + bytes(7), b"\x01\x09\x00" + bytes(9),
    b"\x01\x08\x00" + b"\xff" * 8,  # beyond 63 bits
    b"\x06\x08\x00" + bytes(8) + b"\x01\x08\x00" + bytes(8),  # out of order
    (b"\x01\x08\x00" + bytes(8)) * 2, b"\x00\x00\x00", b"\x08\x00\x00",
    b"\x02\x00\x00", b"\x02\x08\x00" + b"\x01\0\0\0" * 2, b"\x02\x08\x00" + b"\2\0\0\0\1\0\0\0",
    b"\x03\x04\x00\x03abc", b"\x04\x03\x00\x02a/", b"\x04\x04\x00\x01b\x01a",
    b"\x05\x04\x00\x00\x01\x00\x00", b"\x07\x00\x00", b"\x07\x07\x00" + bytes(7),
    b"\x07\x08\x10" + bytes(8 * 513), b"\x04\x03\x00\x05ab", b"\x04\x02\x00\x01\xff",
], ids=lambda step: step[:12].hex())
def test_no_other_encoding_is_read_even_under_a_genuine_link(step: bytes) -> None:
    token = chain.mint(KEY, Claims(uids=(1,)))
    assert why_not(hostile(token, step)) == "token: not a valid one"


WIDER = {
    "expires": (Claims(expires=NOW + 9), Claims(expires=NOW + 10)),
    "uids": (Claims(uids=(1, 2)), Claims(uids=(1, 3))),
    "build_ids": (Claims(build_ids=(b"a" * 20,)), Claims(build_ids=(b"a" * 20, b"b" * 20))),
    "classes": (Claims(classes=("observe",)), Claims(classes=("firewall",))),
    "attach": (Claims(attach=Attach(0)), Claims(attach=Attach.UPROBE)),
    "map_bytes": (Claims(map_bytes=0), Claims(map_bytes=1)),
}


@pytest.mark.parametrize("name", WIDER)
@pytest.mark.parametrize("between", [None, Claims(program=RETURN_1)], ids=["next", "later"])
def test_a_step_that_widens_is_not_made_and_makes_a_token_void(
    name: str, between: Claims | None
) -> None:
    narrow, wide = WIDER[name]
    token = chain.mint(KEY, narrow)
    if between:
        token = chain.attenuate(token, between)
    assert why_not(chain.attenuate(token, narrow)) == ""
    with pytest.raises(ShimError, match=name) as refused:
        chain.attenuate(token, wide)
    assert refused.value.errno == errno.EINVAL
    assert why_not(hostile(token, claims.encode(wide))).startswith(f"token: {name}: a step")


def test_an_expired_token_is_refused_from_that_second_on() -> None:
    assert why_not(four(), NOW + 49) == ""
    assert why_not(four(), NOW + 50) == "token: expired"


def test_another_key_another_nonce_and_another_chain_are_refused() -> None:
    token, other = four(), four()
    said = "token: not a valid one"
    assert why_not(token, key=KEY[::-1]) == said
    assert why_not(Token(other.nonce, token.steps, token.link)) == said
    assert why_not(Token(token.nonce, token.steps, other.link)) == said
    assert why_not(Token(token.nonce, token.steps, bytes(32))) == said


def test_no_step_can_be_taken_away_moved_or_repeated() -> None:
    token = four()
    first, second, third, last = token.steps
    for steps in ((first,), (first, second, third), (second, third, last), (first, third, last),
                  (first, third, second, last), (second, first, third, last),
                  (first, second, second, third, last), (first, second, third, last, last)):
        assert why_not(Token(token.nonce, steps, token.link)) == "token: not a valid one"


def test_bounds_of_a_token() -> None:
    token = chain.mint(KEY, Claims(uids=(1,)))
    for _ in range(chain.MAX_STEPS - 1):
        token = chain.attenuate(token, Claims(uids=(1,)))
    assert why_not(token) == ""
    with pytest.raises(ShimError):
        chain.attenuate(token, Claims(uids=(1,)))
    assert why_not(hostile(token, claims.encode(Claims(uids=(1,))))) == "token: not a valid one"
    large = chain.mint(KEY, Claims(program=RETURN_1 * 256))
    for _ in range(2):
        large = chain.attenuate(large, Claims(program=RETURN_1 * 256))
    assert why_not(large) == ""
    with pytest.raises(ShimError):
        chain.attenuate(large, Claims(program=RETURN_1 * 256))
    with pytest.raises(ShimError):
        chain.from_text(b"bst1." + b"A" * chain.MAX_TEXT)


def test_a_revoked_name_ends_what_comes_of_it_and_nothing_else() -> None:
    parent = chain.mint(KEY, Claims(uids=(1, 2)))
    one, two = (chain.attenuate(parent, Claims(uids=(uid,))) for uid in (1, 2))
    below = chain.attenuate(one, Claims(attach=Attach.UPROBE))
    gone = (one.ids[-1],)
    assert [why_not(token, NOW, gone) for token in (parent, one, two, below)] == [
        "", "token: revoked", "", "token: revoked"]
    assert {why_not(t, NOW, (parent.ids[0],)) for t in (parent, one, two, below)} == {
        "token: revoked"}


@pytest.mark.parametrize("change", [
    lambda text: text + b"\n\n", lambda text: b" " + text, lambda text: text + b"=",
    lambda text: text.upper(), lambda text: text.replace(b"bst1.", b"bst2."),
    lambda text: text + b"\0", lambda text: text[:-1], lambda text: text + b"A",
    lambda text: text.replace(b"_", b"/").replace(b"-", b"+") + b"\r\n",
])
def test_the_text_has_one_form(change: Callable[[bytes], bytes]) -> None:
    text = chain.to_text(four()).encode()
    with pytest.raises(ShimError, match="not a valid one"):
        chain.check(KEY, chain.from_text(change(text)), (), NOW)


def test_bits_of_the_last_letter_that_mean_nothing_are_zero() -> None:
    token = four()
    while len(chain.pack(token)) % 3 != 1:
        token = chain.attenuate(token, Claims(classes=("x" * random.Random(0).randrange(1, 9),)) if
                                not token.claims[-1].classes else Claims(program=RETURN_1))
    text = chain.to_text(token).encode()
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    same = [text[:-1] + letters[at : at + 1] for at in range(64)
            if at >> 4 == letters.index(text[-1]) >> 4]
    accepted = 0
    for other in same:
        try:
            chain.check(KEY, chain.from_text(other), (), NOW)
            accepted += 1
        except ShimError:
            pass
    assert len(same) == 16 and accepted == 1


def _mutant(rng: random.Random, token: Token, other: Token) -> bytes:
    """The bytes of a token that somebody has worked on."""
    data = bytearray(chain.pack(token))
    kind = rng.randrange(9)
    if kind == 0:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(4)] = rng.randbytes(rng.randrange(1, 5))
    elif kind == 2:
        del data[rng.randrange(len(data)) :]
    elif kind == 3:
        data += rng.randbytes(rng.randrange(1, 40))
    elif kind == 4:
        at = rng.randrange(len(data))
        del data[at : at + rng.randrange(1, 9)]
    else:
        steps, links = list(token.steps), [token.link, other.link, rng.randbytes(32)]
        nonce = token.nonce
        if kind == 5:
            rng.shuffle(steps)
        elif kind == 6:
            del steps[rng.randrange(len(steps))]
        elif kind == 7:
            steps.insert(rng.randrange(len(steps) + 1), rng.choice(other.steps))
        else:
            nonce, steps = other.nonce, rng.sample(other.steps, len(other.steps))
        data = bytearray(chain.pack(Token(nonce, tuple(steps), rng.choice(links))))
    return bytes(data)


def accepted_mutants(seed: int, count: int) -> int:
    """How many of so many changed tokens are accepted; those that came out as they were are not
    counted."""
    rng = random.Random(seed)
    token = chain.attenuate(four(), Claims(classes=("firewall", "observe")))
    other = chain.attenuate(four(), Claims(uids=(1,), classes=("observe",)))
    genuine = {chain.pack(token), chain.pack(other)}
    tried = accepted = 0
    while tried < count:
        data = _mutant(rng, token, other)
        if data in genuine:
            continue
        tried += 1
        try:
            chain.check(KEY, chain.unpack(data), (), NOW)
            accepted += 1
        except ShimError as error:
            assert (error.errno, error.message) == (errno.EPERM, "token: not a valid one")
    return accepted


def test_none_of_100_000_changed_tokens_is_accepted() -> None:
    assert accepted_mutants(1, 100_000) == 0
