"""What a token permits: one pair a claim, and that no sequence of steps ever permits more."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from libbpf_shim.backend import classes
from libbpf_shim.errors import ShimError
from libbpf_shim.isa.insn import Insn, encode
from libbpf_shim.token import chain, claims, judge, program, request
from libbpf_shim.token.chain import Grant
from libbpf_shim.token.claims import Attach, Claims
from libbpf_shim.token.request import Op, Request
from libbpf_shim.verifier.program import Program

CLASSES = ("look", "mark", "see")
KEY = bytes(32)
NOW = 5000
ID_A, ID_B = b"a" * 20, b"b" * 20
LOAD = Request(Op.LOAD, uid=1, now=NOW, insn_cnt=10, prog_type=2)
MAP = Request(Op.MAP, uid=1, now=NOW, map_bytes=4096, map_type=1)
ATTACH = Request(Op.ATTACH, uid=1, now=NOW, attach=Attach.UPROBE, build_id=ID_A)
RUN = Request(Op.RUN, uid=1, now=NOW, attach=Attach.TEST_RUN)


def program_at_most(field: str, most: int) -> bytes:
    """return ctx->field <= most"""
    at, size = request.place(field)
    load = {4: 0x61, 8: 0x79}[size]
    return encode([Insn(load, 2, 1, at, 0), Insn(0xB7, 0, 0, 0, 0), Insn(0x25, 2, 0, 1, most),
                   Insn(0xB7, 0, 0, 0, 1), Insn(0x95, 0, 0, 0, 0)])


SHORT = program_at_most("insn_cnt", 10)
PAIRS = [
    (Claims(expires=NOW + 1), LOAD, Claims(expires=NOW), "expires"),
    (Claims(uids=(0, 1)), MAP, Claims(uids=(0, 2)), "uid 1"),
    (Claims(build_ids=(ID_A,)), ATTACH, Claims(build_ids=(ID_B,)), f"build_id {ID_A.hex()}"),
    (Claims(build_ids=(ID_A,)), RUN, Claims(attach=Attach(0)), "attach test_run"),
    (Claims(), replace(ATTACH, build_id=b""), Claims(build_ids=(ID_A,)),
     "attachment to no file"),
    (Claims(classes=("see",)), replace(LOAD, class_="see"), Claims(classes=("look",)),
     "class see"),
    (Claims(), LOAD, Claims(classes=("see",)), "a program without a class"),
    (Claims(attach=Attach.UPROBE), ATTACH, Claims(attach=Attach.URETPROBE), "attach uprobe"),
    (Claims(map_bytes=4096), MAP, Claims(map_bytes=4095), "map_bytes 4096"),
    (Claims(program=SHORT), LOAD, Claims(program=program_at_most("insn_cnt", 9)),
     "program: it says no"),
]


def grant_of(*steps: Claims) -> Grant:
    token = chain.mint(KEY, steps[0])
    for step in steps[1:]:
        token = chain.attenuate(token, step)
    return chain.check(KEY, token, (), 0)


@pytest.mark.parametrize("row", PAIRS, ids=lambda row: row[3])
def test_a_claim_permits_and_refuses(row: tuple[Claims, Request, Claims, str]) -> None:
    yes, asked, no, lacks = row
    programs = program.Programs()
    root = Claims(attach=claims.EVERYWHERE)
    assert judge.missing(grant_of(root, *([yes] if yes != Claims() else [])), asked, {},
                         programs) == ""
    assert judge.missing(grant_of(root, no), asked, {}, programs) == lacks


def test_maps_count_for_all_that_comes_of_a_step() -> None:
    root = chain.mint(KEY, Claims(map_bytes=10_000))
    one, two = (chain.check(KEY, chain.attenuate(root, Claims(map_bytes=size)), (), 0)
                for size in (8000, 9000))
    used = {root.ids[0]: 4096 * 2, one.id: 4096 * 2}
    programs = program.Programs()
    assert judge.missing(two, MAP, {}, programs) == ""
    assert judge.missing(two, MAP, used, programs) == "map_bytes 12288"


WRONG = {
    "it calls helpers or uses maps": encode([Insn(0x85, 0, 0, 0, 5), Insn(0x95, 0, 0, 0, 0)]),
    "R0 !read_ok": encode([Insn(0x95, 0, 0, 0, 0)]),
    "it reads behind the": encode([Insn(0x79, 0, 1, request.SIZE, 0),
                                   Insn(0x95, 0, 0, 0, 0)]),
    "instructions to be verified": encode([
        Insn(0xB7, 6, 0, 0, 0), Insn(0x07, 6, 0, 0, 1), Insn(0x25, 6, 0, 1, 100_000),
        Insn(0x05, 0, 0, -3, 0), Insn(0xB7, 0, 0, 0, 1), Insn(0x95, 0, 0, 0, 0)]),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_no_constraint_is_refused_with_a_reason(said: str) -> None:
    assert said in program.why_not(WRONG[said])
    with pytest.raises(ShimError, match="token: its program"):
        program.Programs().grants(WRONG[said], LOAD, 0)


def test_the_structure_is_what_the_header_says() -> None:
    assert request.SIZE % 8 == 0
    text = request.header()
    for name in ("op", "build_id", "map_used", "name"):
        at, size = request.place(name)
        assert at % min(size, 8) == 0 and f" {name}" in text
    packed = replace(MAP, name="x" * 99, build_id=ID_A).packed(77)
    at, size = request.place("map_used")
    assert int.from_bytes(packed[at : at + size], "little") == 77
    assert len(packed) == request.SIZE and packed[-1] == 0


def _some(rng: random.Random, members: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(sorted(rng.sample(members, rng.randrange(1, len(members) + 1))))


def _step(rng: random.Random) -> Claims:
    """Anything, narrower or not."""
    said: dict[str, object] = {
        "expires": NOW + rng.randrange(-1, 3), "uids": _some(rng, (1, 2, 3)),
        "build_ids": _some(rng, (ID_A, ID_B)), "classes": _some(rng, ("look", "see")),
        "attach": Attach(rng.randrange(256)), "map_bytes": 2048 * rng.randrange(8),
        "program": program_at_most(rng.choice(("insn_cnt", "uid", "map_bytes", "map_used")),
                                   rng.choice((0, 2, 9, 4096, 9000)))}
    names = rng.sample(sorted(said), rng.randrange(1, 3))
    return Claims(**{name: said[name] for name in names})  # type: ignore[arg-type]


def _asked(rng: random.Random) -> Request:
    build_id = rng.choice((b"", ID_A, ID_B))
    return Request(
        rng.choice(list(Op)), uid=rng.randrange(1, 4), now=NOW, insn_cnt=rng.randrange(12),
        map_bytes=rng.choice((0, 2048, 4096, 8192)), attach=rng.choice(list(Attach)),
        build_id=build_id, class_=rng.choice(("", "look", "see")))


def admitted_beyond(seed: int, chains: int) -> tuple[int, int]:
    """Of so many random chains: how often a token permits what one that it comes from refuses, and
    how often it permits at all. Steps that widen are chained too, as a hostile holder would."""
    rng, programs = random.Random(seed), program.Programs()
    beyond = permitted = 0
    for _ in range(chains):
        token = chain.mint(KEY, _step(rng))
        grants = [chain.check(KEY, token, (), 0)]
        for _ in range(rng.randrange(1, 6)):
            step = claims.encode(_step(rng))
            token = chain.Token(token.nonce, (*token.steps, step), chain._next(token.link, step))
            try:
                grants.append(chain.check(KEY, token, (), 0))
            except ShimError:
                token = chain.Token(token.nonce, token.steps[:-1], b"")
                break
        used = {grant.id: rng.choice((0, 2048, 6000)) for grant in grants}
        for _ in range(8):
            asked = _asked(rng)
            says = [not judge.missing(grant, asked, used, programs) for grant in grants]
            permitted += says[-1]
            beyond += sum(now and not then for then, now in zip(says, says[1:], strict=False))
    return beyond, permitted


class _Bound:
    """Grants as far as a program's class depends on them: bindings give it those of `to`."""

    def __init__(self, to: tuple[str, ...]) -> None:
        self.to, self.classes = to, dict.fromkeys(CLASSES)


def _class_under(grant: Grant, to: tuple[str, ...]) -> str | None:
    """The class that a program which is bound to those has with that token; None: it is refused;
    "": it has none, and runs nowhere."""
    every: Any = [_Bound(to)]
    found = classes.chosen(every, Program(insns=b"", prog_type=2),
                           tuple((every[0], name) for name in to), grant.steps[0].classes)
    return None if len(found) > 1 else found[0][1] if found else ""


def classed_beyond(seed: int, chains: int) -> tuple[int, int]:
    """The same of what class a program has in a session with a policy: how often it runs with a
    token, and does not, or as another class, with one that this comes from; how often it runs."""
    rng, programs = random.Random(seed), program.Programs()
    beyond = ran = 0
    for _ in range(chains):
        steps = [Claims(classes=_some(rng, CLASSES)) if rng.randrange(3) else Claims(uids=(1,))]
        token = chain.mint(KEY, steps[0])
        grants = [chain.check(KEY, token, (), 0)]
        for _ in range(rng.randrange(1, 4)):
            now = grants[-1].claims.classes or CLASSES
            token = chain.attenuate(token, Claims(classes=_some(rng, now)))
            grants.append(chain.check(KEY, token, (), 0))
        to = _some(rng, CLASSES) if rng.randrange(4) else ()
        runs = []
        for grant in grants:
            of = _class_under(grant, to)
            asked = replace(LOAD, class_=of)
            runs.append(of if of and not judge.missing(grant, asked, {}, programs) else "")
        ran += bool(runs[-1])
        beyond += sum(now not in ("", then) for then, now in zip(runs, runs[1:], strict=False))
    return beyond, ran


def test_no_step_gives_a_program_a_class_that_it_had_not_before() -> None:
    beyond, ran = classed_beyond(3, 1000)
    assert beyond == 0 and ran > 100


def test_no_sequence_of_steps_permits_what_the_parent_refuses() -> None:
    beyond, permitted = admitted_beyond(1, 600)
    assert beyond == 0 and permitted > 300


@pytest.mark.long
def test_no_sequence_of_steps_permits_more_in_many_chains() -> None:
    beyond, permitted = admitted_beyond(2, 30_000)
    assert beyond == 0 and permitted > 10_000
