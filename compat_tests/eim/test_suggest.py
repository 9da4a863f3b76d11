"""The class that is suggested admits the program, and without any one of its capabilities does
not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compat_tests.eim import world
from libbpf_shim.eim import interface, policy
from libbpf_shim.eim.document import Document
from libbpf_shim.eim.grants import Class, Grants
from libbpf_shim.eim.interface import Interface
from libbpf_shim.eim.suggest import suggest
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

CHAIN = ("r3 = *(u64 *)(r1 + 112); r3 += 8; r2 = 8; r1 = r10; r1 += -8; call 113; "
         "r3 = *(u64 *)(r10 - 8); r2 = 4; r1 = r10; r1 += -16; call 113; exit")
FOUND = [
    ("r0 = 0; exit", []),
    ("r0 = *(u64 *)(r1 + 112); exit", ["read(r)"]),
    ("r1 = *(u64 *)(r1 + 112); if r1 == 0 goto out; call 9006; out: r0 = 0; exit",
     ["call(host_same)"]),
    ("r1 = *(u64 *)(r1 + 112); r0 = *(u64 *)(r1 + 16); exit", ["read(r.uri.len)"]),
    ("r6 = r1; r0 = *(u32 *)(r6 + 104); call 5; exit",
     ["read(flags)", "helper(ktime_get_ns)"]),
    ("r1 = *(u64 *)(r1 + 112); *(u64 *)(r1 + 32) = 1; r0 = 0; exit",
     ["write(r.status)"]),
    (CHAIN, ["read(r.connection.fd)"]),
]


def declared() -> Interface:
    world.read("classes: {}")
    found, wrong = interface.read(str(world.folder() / "app.yaml"))
    assert found is not None and not wrong
    return found


def admits(found: Interface, row: Class, program: Program) -> bool:
    grants = Grants(Document("grants.yaml", {}, {}), "test", found, {row.name: row})
    compiled = policy.compiled(grants, row.name)
    return compiled.policy is not None and \
        not verify(replace(program, policy=compiled.policy)).errno


def program(text: str) -> Program:
    held = world.class_of("classes:\n  c: {entries: [process]}\n", "c")  # for ids of functions
    return Program(world.encoded(text, held), world.KPROBE, license="GPL", name="c",
                   locked_down=False)


@pytest.mark.parametrize("text, wanted", FOUND)
def test_every_line_is_needed(text: str, wanted: list[str]) -> None:
    found, given = declared(), program(text)
    row = suggest(found, ["process"], given)
    assert row.why == "" and [str(one) for one in row.found.allow] == wanted
    assert admits(found, row.found, given)
    for one in row.found.allow:
        less = replace(row.found, allow=tuple(a for a in row.found.allow if a != one))
        assert not admits(found, less, given), one


def test_values_that_are_returned_are_named() -> None:
    text = "r2 = 2; call 58; r0 = 0; exit"
    row = suggest(declared(), ["process"], program(text))
    assert row.why == "" and row.found.override == ((2, 2),)
    assert "override: 2" in row.text()
    text = "r2 = 5; call 58; r0 = 0; exit"
    row = suggest(declared(), ["process"], program(text))
    assert row.why == "5 is not offered by the class's entries"
    row = suggest(declared(), ["skipped"], program(text))
    assert row.why == "" and "override: true" in row.text()


def test_any_memory_is_not_granted_without_a_thought() -> None:
    text = "r3 = 4096; r2 = 8; r1 = r10; r1 += -8; call 112; r0 = 0; exit"
    row = suggest(declared(), ["process"], program(text))
    assert row.why == "it needs read(*)" and not row.found.allow


def test_what_is_not_offered_is_named() -> None:
    text = "r1 = *(u64 *)(r1 + 112); *(u64 *)(r1 + 16) = 1; r0 = 0; exit"
    row = suggest(declared(), ["process"], program(text))
    assert row.why == "write(r.uri.len) is not offered by entry process of the interface"
