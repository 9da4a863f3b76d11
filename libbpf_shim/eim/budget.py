"""How a class's instructions are held: `static`, by proof alone, which is also what holds where
nothing is said; `counter`, where nothing can be proved, by counting when a program runs
(jit/charge.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from libbpf_shim.eim.constraint import Ranges
from libbpf_shim.eim.document import Where
from libbpf_shim.eim.grants import Class

_S32: Final = 1 << 31
Error = Callable[[Where, str], None]


def counted(row: Class, override: Ranges | None, error: Error) -> dict[str, Any]:
    """Policy.counter and Policy.default. override: what the class may make its entries return."""
    counter, default = row.choices["budget"] == "counter", row.default
    if counter and "instructions" not in row.limits:
        error(("budget",), "counter: instructions says how many are granted, and is missing")
    if default is not None and not counter:
        error(("default",), "it is what a run comes to that a counter has ended: say budget: "
                            "counter")
    elif default is not None and override is not None:
        if not any(low <= default <= high for low, high in override):
            error(("default",), f"{default}: no value that the class may override with")
    elif default is not None and not -_S32 <= default < _S32:
        error(("default",), f"{default}: a program returns 32 bits")
    return {"counter": counter, "default": default}
