"""How a class's programs are held to their memory when they run, and what they cannot do then.

`sfi`: within a window of their own (jit/isolated.py). `auto`: what this machine has, which is sfi
as long as there is no other back end. `verify-only`: by what was proved, which is also what holds
where nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from libbpf_shim.eim.capability import ANY
from libbpf_shim.eim.document import Where
from libbpf_shim.eim.grants import Class
from libbpf_shim.jit import window
from libbpf_shim.uapi.bpf import bpf_map_type
from libbpf_shim.uapi.bpf_func import bpf_func_id
from libbpf_shim.verifier.policy import SFI, VERIFY_ONLY, Policy

AUTO: Final = SFI  # what this machine gets
_HELPERS: Final = {m.name.removeprefix("BPF_FUNC_"): int(m) for m in bpf_func_id}
_MAPS: Final = {m.name.removeprefix("BPF_MAP_TYPE_").lower(): int(m) for m in bpf_map_type}
_NO_MPK: Final = "mpk is not supported: the back end of protection keys is not built yet; say " \
                 "sfi, or auto"
Error = Callable[[Where, str], None]


def chosen(row: Class, error: Error) -> str:
    """VERIFY_ONLY or SFI. What isolated programs cannot be granted is an error."""
    said = row.choices["isolation"]
    if said == "mpk":
        error(("isolation",), _NO_MPK)
    found = {"verify-only": VERIFY_ONLY, "auto": AUTO, "sfi": SFI}.get(said, VERIFY_ONLY)
    if found == SFI:
        _isolated(row, error)
    return found


def _isolated(row: Class, error: Error) -> None:
    for n, one in enumerate(row.allow):
        number = _HELPERS.get(one.what, -1) if one.kind == "helper" else -1
        if one.kind == "write":
            why = "stores into the host's memory cannot be held to what is granted at run time"
        elif one.kind == "call":
            why = "functions of the host's work on memory outside of the window"
        elif one.kind == "kfunc" and one.what != ANY:
            why = "what kernel functions are given is not tested at run time"
        elif number >= 0 and window.helper_refused(number):
            why = "what it is given is not tested at run time, or it keeps something afterwards"
        elif one.kind == "map" and _MAPS.get(one.what, -1) >= 0 and \
                not window.map_type(_MAPS[one.what]):
            why = "such maps cannot lie in a window"
        else:
            continue
        error(("allow", n), f"{one} is not supported with isolation: sfi: {why}")


def narrowed(policy: Policy) -> Policy:
    """What `*` comes to for isolated programs."""
    if policy.isolation != SFI:
        return policy
    helpers, types = policy.helpers, policy.maps.types
    return replace(
        policy, kfuncs=(),
        helpers=tuple(n for n in helpers or () if not window.helper_refused(n)),
        maps=replace(policy.maps, types=tuple(n for n in types or () if window.map_type(n))))
