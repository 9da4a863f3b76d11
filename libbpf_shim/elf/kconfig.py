"""Values of kconfig externs: what a line of a kernel's configuration puts into .kconfig.

Source: libbpf 1.1 src/libbpf.c, bpf_object__process_kconfig_line and set_kcfg_value_*.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Mapping
from typing import Final

from libbpf_shim.elf.typeinfo import Extern
from libbpf_shim.errors import ShimError

_TRISTATE: Final = {"n": 0, "y": 1, "m": 2}  # enum libbpf_tristate


def _wrong(extern: Extern, text: str, why: str) -> ShimError:
    return ShimError("EO0002", errno.EINVAL, f"extern {extern.name}: {text!r}: {why}")


def number(extern: Extern, value: int) -> bytes:
    """An integer as the extern holds it. ShimError EINVAL: it does not fit."""
    if extern.form not in ("int", "char", "bool"):
        raise _wrong(extern, str(value), "not for a variable of this type")
    bits = extern.size * 8
    fits = extern.size == 8 or value >> bits == 0
    if extern.signed and extern.size < 8:
        fits = -(1 << bits - 1) <= value < 1 << bits - 1
    if not fits or (extern.form == "bool" and value > 1):
        raise _wrong(extern, str(value), f"does not fit in {extern.size} bytes")
    return (value & (1 << bits) - 1).to_bytes(extern.size, "little")


def value(extern: Extern, text: str) -> bytes:
    """What stands behind CONFIG_X= as the extern holds it."""
    if text in _TRISTATE:
        return _letter(extern, text)
    if text.startswith('"'):
        if extern.form != "string" or len(text) < 2 or not text.endswith('"'):
            raise _wrong(extern, text, "a string, which the variable does not hold")
        return text[1:-1].encode()[: extern.size - 1].ljust(extern.size, b"\0")
    try:
        plain = int(text, 8) if re.fullmatch(r"0[0-7]+", text) else int(text, 0)
    except ValueError:
        raise _wrong(extern, text, "no value") from None
    return number(extern, plain)


def _letter(extern: Extern, text: str) -> bytes:
    if extern.form == "bool" and text != "m":
        return bytes([text == "y"])
    if extern.form == "tristate":
        return _TRISTATE[text].to_bytes(extern.size, "little")
    if extern.form == "char":
        return text.encode()
    raise _wrong(extern, text, "not for a variable of this type")


def options(lines: Iterable[str]) -> dict[str, str]:
    """CONFIG_X -> text of a configuration file; the first line of a name counts."""
    found: dict[str, str] = {}
    for line in lines:
        if line.startswith("CONFIG_") and "=" in line:
            name, text = line.rstrip("\n").split("=", 1)
            found.setdefault(name, text)
    return found


def fill(
    externs: Iterable[Extern], virtual: Mapping[str, int], config: Mapping[str, str]
) -> bytes:
    """The contents of .kconfig. virtual: LINUX_* by name. ShimError ESRCH: a strong extern that is
    nowhere; EINVAL: a value that does not fit."""
    wanted = [e for e in externs if e.kconfig]
    out = bytearray(max((e.offset + e.size for e in wanted), default=0))
    for extern in wanted:
        if extern.name in virtual:
            data = number(extern, virtual[extern.name])
        elif extern.name in config and extern.name.startswith("CONFIG_"):
            data = value(extern, config[extern.name])
        elif extern.weak:
            continue
        else:
            raise ShimError("EO0003", errno.ESRCH, f"extern {extern.name}: not known here",
                            "declare it __weak, or give its value with kconfig=")
        out[extern.offset : extern.offset + extern.size] = data
    return bytes(out)
