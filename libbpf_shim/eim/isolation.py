"""How a class's programs are held to their memory when they run, and what they cannot do then.

`sfi`: within a window of their own (jit/isolated.py). `mpk`: their memory is under a protection
key, which the application's code has closed (attach/keys.py); a machine without such keys refuses
that where a program is put into a process. `auto`: mpk where the machine has keys, else sfi, so
that what sfi cannot hold is refused everywhere. `verify-only`: by what was proved, which is also
what holds where nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from libbpf_shim.eim.capability import ANY
from libbpf_shim.eim.document import Where
from libbpf_shim.eim.grants import Class
from libbpf_shim.jit import window
from libbpf_shim.uapi import machine
from libbpf_shim.uapi.bpf import bpf_map_type
from libbpf_shim.uapi.bpf_func import bpf_func_id
from libbpf_shim.verifier.policy import MPK, SFI, VERIFY_ONLY, Policy

_HELPERS: Final = {m.name.removeprefix("BPF_FUNC_"): int(m) for m in bpf_func_id}
_MAPS: Final = {m.name.removeprefix("BPF_MAP_TYPE_").lower(): int(m) for m in bpf_map_type}
_TAIL_CALL: Final = 12  # BPF_FUNC_tail_call
_PROG_ARRAY: Final = 3  # BPF_MAP_TYPE_PROG_ARRAY
Error = Callable[[Where, str], None]


def chosen(row: Class, error: Error) -> str:
    """VERIFY_ONLY, SFI or MPK, of auto SFI. What cannot be granted then is an error."""
    said = row.choices["isolation"]
    found = {"auto": SFI, "sfi": SFI, "mpk": MPK}.get(said, VERIFY_ONLY)
    if found == SFI:
        _isolated(row, error)
    return found


def tail_calls(row: Class) -> bool:
    """Its programs may call others of the class: which those are is tested when it is done."""
    return row.choices["isolation"] in ("auto", "sfi")


def _isolated(row: Class, error: Error) -> None:
    for n, one in enumerate(row.allow):
        number = _HELPERS.get(one.what, -1) if one.kind == "helper" else -1
        if one.kind == "write" and one.what == ANY:
            why = "stores go to what is granted by name"
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


def narrowed(policy: Policy, row: Class) -> Policy:
    """What `*` comes to for isolated programs, and auto on this machine."""
    if policy.isolation != SFI:
        return policy
    helpers, types = policy.helpers, policy.maps.types
    keys = row.choices["isolation"] == "auto" and machine.has_keys()
    untested = (_TAIL_CALL, _PROG_ARRAY) if keys else (-1, -1)
    return replace(
        policy, kfuncs=(), isolation=MPK if keys else SFI,
        helpers=tuple(n for n in helpers or ()
                      if not window.helper_refused(n) and n != untested[0]),
        maps=replace(policy.maps, types=tuple(n for n in types or () if window.map_type(n)
                                              and n != untested[1])))


def without_keys(row: Class) -> str:
    """Why this machine would run no program of the class; "": it would, as far as this goes."""
    if row.choices["isolation"] != "mpk" or machine.has_keys():
        return ""
    return "isolation: mpk: this machine has no protection keys: programs of the class are " \
           "refused here, where they are attached"
