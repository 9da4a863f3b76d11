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
from libbpf_shim.verifier.policy import Policy

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


def judged(pair: dict[str, Any], side: str) -> tuple[int, str]:
    given = pair[side]
    if isinstance(given, str):
        given = {"class": pair["class"], "program": given}
    policy = held(given["class"])
    maps = world.MAPS if any("map" in str(one) for one in given["class"].get("allow", ())) else ()
    found = world.judge(given["program"], policy, maps=maps)
    return found.errno, found.log


@pytest.mark.parametrize("pair", PAIRS, ids=[pair["name"] for pair in PAIRS])
def test_a_pair(pair: dict[str, Any]) -> None:
    code, log = judged(pair, "accept")
    assert code == 0, log
    code, log = judged(pair, "reject")
    assert code in (13, 22), log
    for words in pair["says"]:
        assert words in log, log


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
