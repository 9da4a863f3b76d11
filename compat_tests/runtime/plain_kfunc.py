"""Scenarios of kernel functions that need no kernel: on strings, on maps, in sections."""

from __future__ import annotations

from collections.abc import Iterator

from compat_tests.runtime import calls as c
from compat_tests.runtime.scenario import ARRAY, Step, n32
from libbpf_shim.btf import kinds
from libbpf_shim.object.btf import MACHINE

_STRINGS = (b"hello", b"HELLO", b"hello world", b"", b"world", b"lo", b"el", b"xyz")
_PLACE = 16  # bytes between strings
_MOST_CPUS = 64
# Type and flags: HASH (BPF_F_NO_PREALLOC), PERCPU_HASH, LRU_HASH (BPF_F_NO_COMMON_LRU),
# LRU_PERCPU_HASH.
_HASHES = ((1, 0), (1, 1), (5, 0), (9, 0), (9, 2), (10, 0))
_HASH_OF_MAPS = 13
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


def kfunc_counts() -> Iterator[Step]:
    """How many elements a map has, of every type that counts them, and of one that does not."""
    inner = c.create(ARRAY, 4, 8, 1)

    def count(fd: int) -> int:
        return c.execute(c.map_fd(1, fd) + kfunc("bpf_map_sum_elem_count") + c.EXIT)

    for kind, flags in (*_HASHES, (_HASH_OF_MAPS, 0)):
        size = 4 if kind == _HASH_OF_MAPS else 8
        value = n32(inner) if size == 4 else bytes(8 * _MOST_CPUS)
        fd = c.create(kind, 4, size, 64, flags, inner=inner if size == 4 else 0)
        found = [fd > 0, count(fd)]
        for n in range(20):
            c.update(fd, n32(n), value)
        found.append(count(fd))
        c.update(fd, n32(3), value)
        for n in range(0, 20, 4):
            c.delete(fd, n32(n))
        found.append(count(fd))
        found.append(c.batch(c.DELETE_BATCH, fd, 4, size, 1))
        for n in range(20):
            c.delete(fd, n32(n))
        yield f"count {kind} {flags}", [*found, count(fd)]
    full = c.create(1, 4, 8, 16)
    yield "full", [*(c.update(full, n32(n), bytes(8)) for n in range(18)), count(full)]
    yield "array", count(inner)


def kfunc_sections() -> Iterator[Step]:
    """Sections are opened and closed."""
    pairs = (("bpf_rcu_read_lock", "bpf_rcu_read_unlock"),
             ("bpf_preempt_disable", "bpf_preempt_enable"),
             ("bpf_local_irq_save", "bpf_local_irq_restore"))  # fmt: skip
    for begin, end in pairs:
        flag = c.copy(1, 10) + c.add(1, -8)
        yield begin, c.execute(flag + kfunc(begin) + flag + kfunc(end) + c.mov(0, 7) + c.EXIT)
