"""What programs of type syscall do as their caller: bpf(2), close(2), names that are looked up."""

import ctypes
import os
import struct
import threading
from typing import Any

from compat_tests.clients.testrun.bpf import (
    CLS,
    EXIT,
    RAW_TP,
    SYSCALL,
    at,
    bpf,
    btf,
    call,
    create,
    element,
    insn,
    load,
    ret,
    run,
    say,
)

ATTR, ROOM = 200, 512  # bytes of the program's attr, its context; where pointers lead to in that
HERE = 8 + ATTR
INT, TYPEDEF, FUNC, VAR = 1, 8, 12, 14  # BTF_KIND_*


def signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def asks(pointers: tuple[int, ...] = (), size: int = ATTR) -> bytes:
    """bpf_sys_bpf(): the context is the command, an attr, and what the attr's pointers lead to,
    which are offsets into the context there."""
    code = insn(0xBF, 6, 1)
    for off in range(0, ATTR, 8):
        code += insn(0x79, 0, 6, 8 + off)
        if off in pointers:
            code += insn(0x57, 0, 0, 0, ROOM // 2 - 1) + insn(0x0F, 0, 6)
        code += insn(0x7B, 10, 0, off - ATTR)
    code += insn(0x61, 1, 6, 0) + insn(0xBF, 2, 10) + insn(0x07, 2, 0, 0, -ATTR)
    return code + insn(0xB7, 3, 0, 0, size) + call(166) + EXIT


def ask(fd: int, cmd: int, attr: bytes, more: bytes = b"") -> int:
    """What the command gave."""
    ctx = (struct.pack("<Q", cmd) + attr.ljust(ATTR, b"\0") + more).ljust(ROOM, b"\0")
    done = run(fd, None, None, ctx)
    return signed(done["retval"]) if not done["ret"] else done["ret"]


def tell(name: str, got: int, **more: Any) -> None:
    say(name, {"got": min(got, 0), **more})


def info(fd: int) -> bytes:
    room = ctypes.create_string_buffer(256)
    bpf(15, struct.pack("<IIQ", fd, 256, at(room)))
    return room.raw


def commands() -> None:
    """Which there are: they mind a tail that is not zero."""
    fd = load(SYSCALL, asks())
    for cmd in (*range(41), 1000, 0xFFFFFFFF):
        tell(f"command {cmd}", ask(fd, cmd, bytes(ATTR - 1) + b"\1"))
    for size in (1, 4, 8, 72):
        fd = load(SYSCALL, asks(size=size))
        for cmd in (0, 2, 3, 5, 10, 14, 17, 22, 28):
            tell(f"command {cmd}, {size} bytes", ask(fd, cmd, b"\xff" * ATTR))


def objects() -> None:
    """What they make are descriptors of this process."""
    plain, element_of = load(SYSCALL, asks()), load(SYSCALL, asks((8, 16)))
    key_of = load(SYSCALL, asks((8,)))
    array = struct.pack("<IIIIIII16s", 2, 4, 8, 3, 0, 0, 0, b"nested")
    made = ask(plain, 0, array)
    tell("a map", made, info=info(made)[:4].hex(), label=info(made)[24:40].hex(),
         inherited=made >= 0 and os.get_inheritable(made))
    tell("a map of a type that is none", ask(plain, 0, struct.pack("<I", 1000)))
    for key in (0, 2, 3):
        got = ask(element_of, 2, struct.pack("<I4xQQQ", made, HERE, HERE + 8, 0),
                  struct.pack("<QQ", key, key + 100))
        tell(f"element {key}", got, value=element(1, made, struct.pack("<I", key))[1][:8].hex())
    tell("flags", ask(element_of, 2, struct.pack("<I4xQQQ", made, HERE, HERE + 8, 77), bytes(16)))
    table = create(1, 4, 8, 4)
    element(2, table, struct.pack("<I", 5), bytes(8))
    for key in (5, 5, 6):
        got = ask(key_of, 3, struct.pack("<I4xQ", table, HERE), struct.pack("<Q", key))
        tell(f"delete {key}", got)
    outer = ask(plain, 0, struct.pack("<IIIIII", 12, 4, 4, 2, 0, made))
    tell("a map of maps", outer)
    for key, inner in ((0, made), (1, table), (1, 900), (5, made)):
        got = ask(element_of, 2, struct.pack("<I4xQQ", outer, HERE, HERE + 8),
                  struct.pack("<QQ", key, inner))
        tell(f"element {key} of it", got, value=element(1, outer, struct.pack("<I", key))[0])
    tell("frozen", ask(plain, 22, struct.pack("<I", made)))
    tell("an element then", element(2, made, bytes(4), bytes(8))[0])
    (number,) = struct.unpack_from("<I", info(made), 4)
    again = ask(plain, 14, struct.pack("<I", number))
    tell("by its id", again, same=info(again)[:40] == info(made)[:40])
    tell("by no id", ask(plain, 14, struct.pack("<I", 0x7FFFFFFF)))
    tell("no descriptor", ask(plain, 22, struct.pack("<i", 900)))
    programs(plain)
    blob = btf()
    types = load(SYSCALL, asks((0,)))
    tell("types", ask(types, 18, struct.pack("<QQIII", HERE, 0, len(blob), 0, 0),
                      blob) if len(blob) < ROOM - HERE else 0)
    tell("types cut", ask(types, 18, struct.pack("<QQIII", HERE, 0, 20, 0, 0), blob[:20]))


def programs(plain: int) -> None:
    loads = load(SYSCALL, asks((8, 16)))
    for kind, code in ((RAW_TP, ret(3)), (CLS, ret(4)), (RAW_TP, ret(1) * 3), (RAW_TP, EXIT)):
        attr = struct.pack("<IIQQ", kind, len(code) // 8, HERE, HERE + len(code))
        made = ask(loads, 5, attr, code + b"GPL\0")
        tell(f"a program of {kind} and {len(code)}", made,
             runs=run(made, None, None, bytes(8)) if made >= 0 and kind == RAW_TP else 0)
        if made >= 0 and kind == RAW_TP:
            name = ctypes.create_string_buffer(b"sys_enter")
            link = ask(plain, 17, struct.pack("<QI", at(name), made))
            tell("a link", link, kind=info(link)[:4].hex())
            tell("a link of no event", ask(plain, 17, struct.pack(
                "<QI", at(ctypes.create_string_buffer(b"nowhere")), made)))
            tell("a link by LINK_CREATE", ask(plain, 28, struct.pack("<IIII", made, 0, 77, 0)))
            closed = load(SYSCALL, insn(0x61, 1, 1) + call(168) + EXIT)
            tell("the link closed", run(closed, None, None, struct.pack("<Q", link))["retval"])
            tell("its run", ask(plain, 10, struct.pack("<I", made)))


def turns() -> None:
    """A program that has a CPU's own value goes on with it behind a command, in each thread."""
    each = create(6, 4, 8, 1)
    count = (insn(0x7A, 10, 0, -208, 0) + insn(0xBF, 2, 10) + insn(0x07, 2, 0, 0, -208)
             + insn(0x18, 1, 1, 0, each) + insn(0) + call(1) + insn(0x55, 0, 0, 1) + EXIT
             + insn(0xBF, 7, 0) + insn(0x79, 8, 7) + insn(0x07, 8, 0, 0, 1) + insn(0x7B, 7, 8))
    command = asks()[: -len(EXIT)]
    close = insn(0xBF, 9, 0) + insn(0x65, 9, 0, 2, 2) + insn(0xB7, 0, 0, 0, 99) + EXIT
    close += insn(0xBF, 1, 9) + call(168) + insn(0x67, 0, 0, 0, 1)
    own = insn(0x79, 1, 7) + insn(0x5D, 1, 8, 1) + insn(0x07, 0, 0, 0, 1) + EXIT
    fd = load(SYSCALL, insn(0xBF, 6, 1) + count + insn(0xBF, 1, 6) + command + close + own)
    array = struct.pack("<IIIIIII16s", 2, 4, 8, 3, 0, 0, 0, b"turn")
    say("alone", {"got": ask(fd, 0, array)})
    got: list[int] = []
    crowd = [threading.Thread(target=lambda: got.extend(ask(fd, 0, array) for _ in range(20)))
             for _ in range(4)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    say("together", {"done": sum(n in (0, 1) for n in got)})


def closes() -> None:
    """bpf_sys_close()."""
    fd = load(SYSCALL, insn(0x61, 1, 1, 0) + call(168) + EXIT)
    made = [create(2, 4, 8, 1), os.open("/dev/null", os.O_RDONLY), os.dup(1)]
    for number in (*made, *made, -1, 100000, 0x7FFFFFFF):
        done = run(fd, None, None, struct.pack("<iI", number, 0))
        where = f"{made.index(number)} of {len(made)}" if number in made else number
        say(f"close {where}", {"got": signed(done["retval"]), "there": there(number)})


def ended() -> None:
    """A program goes on behind the end of its own descriptor, which was the last of it."""
    first = insn(0xBF, 6, 1) + insn(0x61, 1, 6, 4) + call(168) + insn(0xBF, 1, 6)
    array = struct.pack("<IIIIIII16s", 2, 4, 8, 3, 0, 0, 0, b"behind")
    fds = [load(SYSCALL, first + asks()) for _ in range(8)]
    for n, fd in enumerate(fds):  # the map takes its number
        tell(f"run {n}", ask(fd, fd << 32, array))
        tell(f"run {n} again", ask(fd, 0, array))


def there(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def names() -> None:
    """bpf_btf_find_by_name_kind(), bpf_kallsyms_lookup_name()."""
    for name in (b"task_struct", b"int", b"u32", b"no_such_name", b"vfs_read", b"", b"x" * 40):
        for kind in (0, INT, 4, TYPEDEF, FUNC, VAR, 31, 32, -1):
            for size, flags in ((len(name) + 1, 0), (len(name) + 1, 1), (len(name), 0)):
                got = look(name, kind, size, flags)
                say(f"type {name!r} {kind} {size} {flags}", {"got": min(got, 1)})
    for name in (b"no_such_symbol", b"", b"x" * 40, b"no symbol"):
        for size, flags in ((len(name) + 1, 0), (len(name) + 1, 1), (len(name), 0)):
            say(f"symbol {name!r} {size} {flags}", {"got": symbol(name, size, flags)})


def held(name: bytes) -> bytes:
    """The name at fp-48."""
    text = name.ljust(48, b"\0")[:48]
    return b"".join(insn(0x18, 0, 0, 0, int.from_bytes(text[n : n + 4], "little"))
                    + insn(0, 0, 0, 0, int.from_bytes(text[n + 4 : n + 8], "little"))
                    + insn(0x7B, 10, 0, n - 48) for n in range(0, 48, 8))


def look(name: bytes, kind: int, size: int, flags: int) -> int:
    code = held(name) + insn(0xBF, 1, 10) + insn(0x07, 1, 0, 0, -48) + insn(0xB7, 2, 0, 0, size)
    code += insn(0xB7, 3, 0, 0, kind) + insn(0xB7, 4, 0, 0, flags) + call(167) + EXIT
    fd = load(SYSCALL, code)
    return signed(run(fd, None, None)["retval"]) if fd >= 0 else fd


def symbol(name: bytes, size: int, flags: int) -> int:
    """What it returned; 1 more: it wrote something."""
    code = held(name) + insn(0x7A, 10, 0, -56, 7)
    code += insn(0xBF, 1, 10) + insn(0x07, 1, 0, 0, -48) + insn(0xB7, 2, 0, 0, size)
    code += insn(0xB7, 3, 0, 0, flags) + insn(0xBF, 4, 10) + insn(0x07, 4, 0, 0, -56) + call(179)
    code += insn(0x79, 1, 10, -56) + insn(0x0F, 0, 1) + EXIT
    fd = load(SYSCALL, code)
    return signed(run(fd, None, None)["retval"]) if fd >= 0 else fd
