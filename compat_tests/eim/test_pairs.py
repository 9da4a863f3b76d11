"""Every right and every limit of a class: what it lets pass, and what it refuses, with its words.

pairs.yaml has the pairs. A program without a class is judged as ever (compat_tests/verifier).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from compat_tests.eim import world
from libbpf_shim.btf import kinds
from libbpf_shim.btf.lazy import LazyBtf
from libbpf_shim.btf.write import Writer
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.diagnose.errors import errors
from libbpf_shim.verifier.policy import Policy
from libbpf_shim.verifier.program import Program

BASES = {
    "base": {"entries": ["sure"], "allow": ["read(r.uri)"]},
    "other": {"entries": ["sure"], "allow": ["read(r.status)"]},
    "strict": {"entries": ["sure"], "deny": ["read(r.uri)"]},
    "small": {"entries": ["sure"], "instructions": 2},
    "counter": {"entries": ["sure"], "instructions": 100, "budget": "counter",
                "allow": ["helper(loop)"]},
}
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
PAIRS: list[dict[str, Any]] = yaml.load(
    Path(__file__).with_name("pairs.yaml").read_text(), LOADER)


def held(row: dict[str, Any]) -> Policy:
    rest = {key: value for key, value in row.items() if key not in ("lengths", "probes")}
    own = rest if "entries" in row or "extends" in row else {"entries": ["sure"], **rest}
    text = yaml.safe_dump({"classes": {**BASES, "c": own}}, width=200)
    interface = world.probes() if "probes" in row else \
        world.LENGTHS if "lengths" in row else world.INTERFACE
    return world.class_of(text, "c", interface)


def program_of(pair: dict[str, Any], side: str) -> Program:
    """The program of that side."""
    given = pair[side]
    if isinstance(given, str):
        given = {"class": pair["class"], "program": given}
    policy = held(given["class"])
    maps = world.MAPS if any("map" in str(one) for one in given["class"].get("allow", ())) else ()
    return world.program(given["program"], policy, maps=maps)


@pytest.mark.parametrize("pair", PAIRS, ids=[pair["name"] for pair in PAIRS])
def test_a_pair(pair: dict[str, Any]) -> None:
    """And `bpf-shim verify` says the same of a refused one."""
    good, bad = verify(program_of(pair, "accept")), verify(program_of(pair, "reject"))
    assert good.errno == 0, good.log
    assert bad.errno in (13, 22), bad.log
    told = [one.message for one in errors(program_of(pair, "reject"))]
    for words in pair["says"]:
        assert words in bad.log, bad.log
        assert any(words in one for one in told), told


def test_a_pointer_to_anywhere_is_followed_only_with_any_reading() -> None:
    """One that a structure of the kernel's holds, of no type: the verifier lets it be read."""
    w = Writer()
    w.struct("task_struct", 8, [("stack", w.ref(kinds.PTR, 0), 0)])
    blob = w.blob()
    text = "call 158; r1 = *(u64 *)(r0 + 0); r0 = *(u64 *)(r1 + 0); exit"
    for allow, code in (("read(*)", 0), ("read(regs)", 13)):
        policy = held({"allow": [allow, "helper(get_current_task_btf)"]})
        found = world.judge(text, policy, maps=(), kernel_btf=LazyBtf(lambda: blob))
        assert found.errno == code, found.log
        assert code == 0 or "missing capability read(*)" in found.log
