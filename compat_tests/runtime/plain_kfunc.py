"""Scenarios of kernel functions that need no kernel: on strings, in sections."""

from __future__ import annotations

from collections.abc import Iterator

from compat_tests.runtime import calls as c
from compat_tests.runtime.scenario import ARRAY, Step
from libbpf_shim.btf import kinds
from libbpf_shim.object.btf import MACHINE

_STRINGS = (b"hello", b"HELLO", b"hello world", b"", b"world", b"lo", b"el", b"xyz")
_PLACE = 16  # bytes between strings
_NUMBERS = (0, 1, 3, 5, 64, 1 << 20)


def kfunc(name: str) -> bytes:
    found = MACHINE.btf.find(name, kinds.FUNC)
    return c.insn(0x85, 0, 2, imm=found.id if found else 0)


def kfunc_strings() -> Iterator[Step]:
    """What each string function says of several strings, and of addresses without one."""
    values = c.create(ARRAY, 4, _PLACE * len(_STRINGS), 1)
    c.update(values, bytes(4), b"".join(s.ljust(_PLACE, b"\0") for s in _STRINGS))

    def at(reg: int, n: int) -> bytes:
        return c.map_value(reg, values, n * _PLACE)

    def ask(name: str, *given: bytes) -> int:
        return c.execute(b"".join(given) + kfunc(name) + c.EXIT)

    for n in range(len(_STRINGS)):
        yield f"length {n}", [ask("bpf_strlen", at(1, n)),
                              *(ask("bpf_strnlen", at(1, n), c.mov(2, m)) for m in _NUMBERS)]
        for byte in b"lo\0Z":
            two = at(1, n) + c.mov(2, byte)
            yield f"byte {n} {byte}", [
                *(ask(name, two) for name in ("bpf_strchr", "bpf_strchrnul", "bpf_strrchr")),
                *(ask("bpf_strnchr", at(1, n), c.mov(2, m), c.mov(3, byte)) for m in _NUMBERS),
            ]
        for m in range(len(_STRINGS)):
            both = at(1, n) + at(2, m)
            yield f"two {n} {m}", [
                *(ask(name, both) for name in (
                    "bpf_strcmp", "bpf_strcasecmp", "bpf_strspn", "bpf_strcspn", "bpf_strstr")),
                *(ask("bpf_strnstr", both, c.mov(3, k)) for k in _NUMBERS),
            ]  # fmt: skip
    for name in ("bpf_strlen", "bpf_strcmp", "bpf_strspn", "bpf_strstr", "bpf_strrchr"):
        yield f"nowhere {name}", ask(name, c.mov(1, 0), at(2, 0))


def kfunc_sections() -> Iterator[Step]:
    """Sections are opened and closed."""
    pairs = (("bpf_rcu_read_lock", "bpf_rcu_read_unlock"),
             ("bpf_preempt_disable", "bpf_preempt_enable"),
             ("bpf_local_irq_save", "bpf_local_irq_restore"))  # fmt: skip
    for begin, end in pairs:
        flag = c.copy(1, 10) + c.add(1, -8)
        yield begin, c.execute(flag + kfunc(begin) + flag + kfunc(end) + c.mov(0, 7) + c.EXIT)
