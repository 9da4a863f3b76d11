"""Calls of isolated programs in which more is at stake than their own memory: each is tested when
it is made, whatever was believed of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compat_tests.isolation.world import (
    POLICY,
    PROGS,
    STRINGS,
    TEXT,
    Application,
    Prog,
    compiled,
    facts_of,
)
from compat_tests.verifier.asm import assemble
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import encode
from libbpf_shim.jit.image import Image

SAY = "r3 = value 0 + 0; *(u64 *)(r3 + 0) = r0"


def image(text: str, **wrong: Any) -> Image:
    insns = encode(assemble(text))
    return compiled(insns, facts_of(insns, **wrong))


@pytest.mark.parametrize(("value", "returned"), [
    (-1, -1), (3, 3), (403, 403), (4, 15), (402, 15), (-2, 15), (1 << 32, 15), (404, 15),
])  # fmt: skip
def test_an_override_is_one_of_the_class(app: Application, value: int, returned: int) -> None:
    for known in (f"r2 = {value} ll", f"r2 = {value ^ 5} ll; r2 ^= 5"):
        att = app.attach(image(f"{known}; call 58; r0 = 0; exit"), "two")
        assert app.say("two 5") == str(returned)
        assert app.contained(att) == (returned == 15)
        assert app.say("two 5") == str(returned)
        app.host.detach(att)


def test_values_of_an_override_are_of_the_functions_type(app: Application) -> None:
    code = encode(assemble("r2 = 0x100000003 ll; call 58; r0 = 0; exit"))
    for policy, fine in ((replace(POLICY, result=(4, True)), True),
                         (replace(POLICY, result=(8, True)), False),
                         (replace(POLICY, result=(1, False), override=((3, 3),)), True)):
        att = app.attach(compiled(code, facts_of(code), policy=policy), "two")
        app.say("two 5")
        assert app.contained(att) != fine
        app.host.detach(att)


def test_what_the_class_does_not_override_is_refused() -> None:
    insns = encode(assemble("r2 = 0; call 58; r0 = 0; exit"))
    with pytest.raises(ShimError, match="isolated: an override"):
        compiled(insns, policy=replace(POLICY, override=None))


@pytest.fixture(scope="module")
def progs(application: Application) -> list[Prog]:
    """Programs that can be called: 0 says 7 and what it finds in the context, 1 leaves its window,
    2 is of another class, 3 overrides."""
    own = image("r2 = *(u64 *)(r1 + 112); r3 = value 0 + 0; *(u64 *)(r3 + 8) = r2; r0 = 7; "
                f"{SAY}; *(u64 *)(r10 - 8) = 1; r0 = 0; exit", ctx_loads=frozenset(((112, 8),)))
    code = encode(assemble(f"r0 = 9; {SAY}; r0 = 0; exit"))
    others = (own, image("r1 = 0; *(u64 *)(r1 + 0) = 1; r0 = 0; exit"),
              compiled(code, policy=replace(POLICY, name="other")),
              image("r2 = 403; call 58; r0 = 0; exit"))
    found = [Prog(application.host.number(), one, application.maps) for one in others]
    for n, prog in enumerate(found):
        application.maps[PROGS].put(n, prog)
    return found


@pytest.fixture
def called(progs: list[Prog], app: Application) -> Application:
    return app


CALL = "r6 = r1; r1 = r6; r2 = map {map}; r3 = {index}; call 12; r0 = 1; {say}; r0 = 0; exit"


@pytest.mark.parametrize(("index", "said"), [(0, 7), (2, 1), (4, 1), (1 << 31, 1)])
def test_tail_calls_lead_to_programs_of_the_class(
    called: Application, index: int, said: int
) -> None:
    for facts in ({"call_map": {4: PROGS}}, {}):
        code = CALL.format(map=PROGS, index=index, say=SAY)
        assert not called.once(image(code, **facts), 2)
        assert called.maps[0].word(0) == said
        if said == 7:
            assert called.maps[0].word(1) == 1


@pytest.mark.parametrize("array", [0, 3])
def test_a_tail_call_by_another_map_is_by_the_one_that_there_is(
    called: Application, array: int
) -> None:
    assert not called.once(image(CALL.format(map=array, index=0, say=SAY)))
    assert called.maps[0].word(0) == 7


def ended(app: Application) -> set[int]:
    """Programs that were contained since."""
    rows = [row for row in app.host.control.ctl.contained if row.state]
    found = {int(row.prog_id) for row in rows}
    for row in rows:
        row.state = 0
    assert app.say("check") == "fine"
    return found


def test_what_is_called_is_contained_too(called: Application, progs: list[Prog]) -> None:
    att = called.attach(image(CALL.format(map=PROGS, index=1, say=SAY)))
    called.run(3)
    assert ended(called) == {progs[1].id}
    called.host.detach(att)


def test_what_is_called_skips_nothing(called: Application, progs: list[Prog]) -> None:
    att = called.attach(image(CALL.format(map=PROGS, index=3, say=SAY)), "two")
    assert called.say("two 5") == "15"
    assert ended(called) == {progs[3].id}
    called.host.detach(att)


@pytest.mark.parametrize(("given", "found"), [
    ("*(u64 *)(r10 - 16) = r7; r1 = r10; r1 += -16; r2 = 9", 1),
    ("r1 = value 5 + 25; r2 = 9", 0), ("r1 = value 5 + 25; r2 = 64", 0),
])  # fmt: skip
def test_strings_are_compared(app: Application, given: str, found: int) -> None:
    code = f"r7 = 0x7a ll; {given}; r3 = value {STRINGS} + 25; call 182; {SAY}; r0 = 0; exit"
    assert TEXT[25:].startswith(b"/private/")
    assert not app.once(image(code))
    assert app.maps[0].word(0) == found


@pytest.mark.parametrize("given", [
    "r1 = r10; r1 += -16; r2 = 9; r3 = 4096", "r1 = 4096; r2 = 9; r3 = value 5 + 0",
    "r1 = r10; r1 += -16; r2 = -1; r3 = value 5 + 0", "r1 = r10; r1 += -16; r2 = 9; r3 = r10",
    "r1 = r10; r1 += -16; r2 = 9; r3 = r10; r3 += 0x7fff0000",
])  # fmt: skip
def test_strings_elsewhere_are_not(app: Application, given: str) -> None:
    r10 = given.endswith("r3 = r10")  # the end of a slot is the window's
    assert app.once(image(f"{given}; call 182; r0 = 0; exit")) != r10


@pytest.mark.parametrize(("given", "contained"), [
    ("r1 = value 5 + 17; r2 = 8; r3 = 7; call 6", False),
    ("r1 = value 5 + 0; r2 = 17; r3 = 7; r4 = value 5 + 25; call 6", False),
    ("r1 = value 5 + 0; r2 = 17; r3 = 7; r4 = 4096; call 6", True),
    ("r1 = value 5 + 35; r2 = 5; r3 = r10; call 6", False),
    ("r1 = value 5 + 35; r2 = 5; r3 = 99; call 6", True),
    ("r1 = r10; r1 += -16; r2 = 16; r3 = value 5 + 17; *(u64 *)(r10 - 24) = 9; r4 = r10; "
     "r4 += -24; r5 = 8; call 165", False),
    ("r1 = r10; r1 += -16; r2 = 16; r3 = value 5 + 17; r4 = 64; r5 = 8; call 165", True),
    ("r1 = 64; r2 = 16; r3 = value 5 + 17; r4 = r10; r4 += -24; r5 = 8; call 165", True),
    ("r1 = value 5 + 17; r2 = 8; r3 = r10; r3 += -24; r4 = 8; call 177", False),
    ("r1 = value 5 + 17; r2 = 8; r3 = 64; r4 = 8; call 177", True),
    ("r1 = value 5 + 17; r2 = 8; r3 = 0; r4 = 0; call 177", False),
])  # fmt: skip
def test_formats_print_what_is_in_the_window(
    app: Application, given: str, contained: bool
) -> None:
    assert app.once(image(f"{given}; r0 = 0; exit")) == contained


@pytest.mark.parametrize(("given", "says"), [
    ("r1 = r10; r1 += -16; r2 = 8; call 6", "that is not known"),
    ("r1 = value 0 + 0; r2 = 8; call 6", "that is not frozen"),
    ("r1 = value 5 + 100; r2 = 8; call 6", "that is not frozen"),
    ("r1 = value 5 + 0; r2 = 800; call 6", "without an end"),
    ("r1 = r10; r1 += -16; r2 = 16; r3 = value 5 + 0; r4 = 0; r5 = 0; call 165", "prints"),
    ("r1 = value 5 + 0; r2 = 17; r3 = r10; r3 += -16; r4 = 16; call 177", "prints"),
])  # fmt: skip
def test_formats_that_could_print_anything_are_refused(given: str, says: str) -> None:
    with pytest.raises(ShimError, match=f"isolated: .*{says}"):
        image(f"{given}; r0 = 0; exit")
