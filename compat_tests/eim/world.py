"""An application that is nothing but types, and programs that are judged under classes of it.

    struct connection { int fd; unsigned flags : 3, kind : 5; struct connection *next;
                        char name[16]; };                                     /* 32 bytes */
    struct str { u64 len; char *data; };
    struct request { u32 magic; struct connection *connection; struct str uri; s64 status;
                     struct pair { int a, b; } in[2]; void *opaque; };        /* 64 bytes */
    int process(struct request *r, int flags);
    void finish(struct request *r);
    struct request *lookup(u64 key);          /* acquires, may fail */
    void release(struct request *r);
    int copy(char *to, u64 size, char *from); /* memory of the program's */
    u32 limit(u32 wanted, u32 most); s64 quota(u64 of);
    s64 served; struct connection *first;
"""

from __future__ import annotations

import functools
import struct
import tempfile
from pathlib import Path
from typing import Any

from compat_tests.verifier.asm import assemble
from compat_tests.victims import build
from libbpf_shim.btf import kinds
from libbpf_shim.btf.write import SIGNED, Writer
from libbpf_shim.eim import grants, policy, usdt
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.facts import Verdict
from libbpf_shim.verifier.policy import Policy
from libbpf_shim.verifier.program import MapDesc, Program

KPROBE = 2
HOST, STATE = 9000, 9100  # `call 9000` is the first function, `r1 = 9100 ll` the first variable
FUNCTIONS = ("host_finish", "host_lookup", "host_release", "host_copy", "host_limit",
             "host_quota", "host_same", "host_gpl", "host_never")
VARIABLES = ("served", "first")
MAPS = (
    MapDesc(2, 4, 8, 1, name="slots"), MapDesc(1, 4, 8, 100, name="counts"),
    MapDesc(27, 0, 0, 4096, name="events"),
    MapDesc(2, 4, 16, 1, 128, name=".rodata", contents=b"%d %x\0%s\0".ljust(16, b"\0")),
)
INTERFACE = """
interface: app
types: {btf: app.btf}
entries:
  process: {where: instead, override: "in [0, 3]", offers: [read(r), read(flags),
            read(r.connection.next.next), read(*r.connection), read(*r.uri.data),
            write(r.status), write(r.in), write(r.connection.fd)]}
  sure: {function: process, where: before, nonnull: [r]}
  finished: {function: finish, where: before}
  skipped: {function: finish, where: instead, override: skip}
  returned: {function: process, where: after}
  swapped: {function: swapped, where: before, prototype: "int (int flags, struct request *r)"}
state:
  served: {offers: [read(served), write(served)]}
  first: {}
functions:
  host_finish: {function: finish, prototype: "void (struct request *r, s64 rc)",
                pre: ["rc in {403, 404}"], nonnull: [r]}
  host_lookup: {function: lookup, prototype: "struct request *(u64 key)", acquires: true,
                may_fail: true, pre: ["key <= 4096"]}
  host_release: {function: release, prototype: "void (struct request *r)", releases: r,
                 nonnull: [r]}
  host_copy: {function: copy, prototype: "int (char *to, u64 size, char *from)",
              memory: {to: {writes: size}, from: {reads: 16}}, nonnull: [to]}
  host_limit: {function: limit, prototype: "u32 (u32 wanted, u32 most)",
               pre: ["wanted <= most", "arg1 != 0"], post: ["rtn <= most"]}
  host_quota: {function: quota, prototype: "s64 (u64 of)", pre: ["of > 0", "of < 100"],
               post: ["rtn >= 0", "rtn < 8"]}
  host_same: {function: finish, prototype: "void (struct request *r)", pre: ["r == entry.r"]}
  host_gpl: {function: quota, prototype: "s64 (u64 of)", gpl: true}
  host_never: {function: quota, prototype: "s64 (u64 of)"}
"""


# The same, with what r.uri.data leads to as many bytes as r.uri.len says.
LENGTHS = INTERFACE.replace("\nstate:", "\nbytes: [{type: struct str, pointer: data, length: len, "
                            "most: 64}]\nstate:")


@functools.cache
def probes() -> str:
    """The same, with the USDT probes of probes/app.c as entries."""
    binary = build.make("probes-app", [Path(__file__).parent / "probes" / "app.c"], ["-g", "-O1"])
    return f"binary: {binary}" + INTERFACE.replace("\nstate:", """
  handled: {usdt: "app:handled", nonnull: [r], offers: [read(r.status), read(r.connection.fd),
            read(code), read(constant), write(r.status)],
            prototype: "void (struct request *r, short code, int constant)"}
  done: {usdt: "app:done", prototype: "void (struct request *r, long status)", nonnull: [r]}
  twice: {usdt: "app:done", prototype: "void (struct connection *c, long status)"}
  far: {usdt: "app:far", prototype: "void (struct request *r, long x)", nonnull: [r]}
state:""")


def types() -> bytes:
    """The application's BTF."""
    w = Writer()
    integer, u32, u64 = w.integer("int", 4, SIGNED), w.integer("u32", 4), w.integer("u64", 8)
    char, s64 = w.integer("char", 1, SIGNED), w.integer("s64", 8, SIGNED)
    name, text = w.array(char, u32, 16), w.ref(kinds.PTR, char)
    next_ = w.ref(kinds.PTR, w.next_id + 1)
    connection = w.fields("connection", 32, [
        ("fd", integer, 0, 0), ("flags", u32, 32, 3), ("kind", u32, 35, 5), ("next", next_, 64, 0),
        ("name", name, 128, 0)], kinds.STRUCT)
    assert connection == next_ + 1
    string = w.struct("str", 16, [("len", u64, 0), ("data", text, 8)])
    pair = w.struct("pair", 8, [("a", integer, 0), ("b", integer, 4)])
    request = _request(w, u32, next_, string, s64, pair)
    r = w.ref(kinds.PTR, request)
    w.func("process", w.proto(integer, [("r", r), ("flags", integer)]))
    w.func("finish", w.proto(0, [("r", r)]))
    w.variable("served", s64)
    w.variable("first", next_)
    return w.blob()


def _request(w: Writer, u32: int, connection: int, string: int, s64: int, pair: int) -> int:
    pairs, nothing = w.array(pair, u32, 2), w.ref(kinds.PTR, 0)
    return w.struct("request", 64, [
        ("magic", u32, 0), ("connection", connection, 8), ("uri", string, 16),
        ("status", s64, 32), ("in", pairs, 40), ("opaque", nothing, 56)])


@functools.cache
def folder() -> Path:
    """With the application's types and interface; gone with the process."""
    kept = tempfile.TemporaryDirectory(prefix="libbpf_shim-eim-test-")
    folders.append(kept)
    found = Path(kept.name)
    (found / "app.btf").write_bytes(types())
    (found / "app.yaml").write_text(INTERFACE)
    return found


folders: list[tempfile.TemporaryDirectory[str]] = []


def read(classes: str, interface: str = INTERFACE) -> tuple[grants.Grants | None, list[str]]:
    """Grants of that text (from `classes:` on), and what is wrong with them, classes included."""
    here = folder()
    (here / "app.yaml").write_text(interface)
    (here / "grants.yaml").write_text("grants: test\ninterface: app.yaml\n" + classes)
    found, wrong = grants.read(str(here / "grants.yaml"))
    if found is not None and not wrong:
        wrong = [e for name in found.classes for e in policy.compiled(found, name).wrong]
    return found, [error.message.replace(f"{here}/", "") for error in wrong]


@functools.lru_cache(maxsize=64)
def class_of(classes: str, name: str, interface: str = INTERFACE) -> Policy:
    """As the verifier holds it. classes: text from `classes:` on."""
    found, wrong = read(classes, interface)
    assert found is not None and not wrong, wrong
    return policy.policy(found, name)


def encoded(text: str, held: Policy | None) -> bytes:
    """A program of asm.py's. `call 9000` and on: functions of the host's; `r1 = 9100 ll`:
    variables."""
    return op.encode(_assembled(text, held))


def _assembled(text: str, held: Policy | None) -> list[op.Insn]:
    insns = assemble(text)
    ids = {f.name: f.id for f in held.functions} if held else {}
    for at, i in enumerate(insns):
        if i.code == op.JMP | op.CALL and i.src == 0 and HOST <= i.imm < STATE:
            i.imm, i.src, i.off = ids[FUNCTIONS[i.imm - HOST]], op.PSEUDO_KFUNC_CALL, 1
        elif i.code == op.LD_IMM64 and i.src == 0 and STATE <= i.imm < STATE + 100 and held:
            i.imm, i.src = held.state[i.imm - STATE][0], op.PSEUDO_BTF_ID
            insns[at + 1].imm = 1
    return insns


def judge(text: str, held: Policy | None, **more: Any) -> Verdict:
    """The verdict on a program under a class."""
    return verify(program(text, held, **more))


def program(text: str, held: Policy | None, **more: Any) -> Program:
    """As it is judged."""
    if f"call {usdt.NAME}" in text:  # what libbpf's does does not matter
        text += f"; {usdt.NAME}: {'r0 = 0; ' * 60}exit"
    insns = _assembled(text, held)
    for marker, name, code, kind in (
            ("func body", "body", op.LD_IMM64, op.PSEUDO_FUNC),
            (f"call {usdt.NAME}", usdt.NAME, op.JMP | op.CALL, op.PSEUDO_CALL)):
        if marker in text:
            bodies = [at + 1 + i.imm for at, i in enumerate(insns)
                      if (i.code, i.src) == (code, kind)]
            more = {**_functions(bodies[0], name), **more}
    rows: dict[str, Any] = {"prog_type": KPROBE, "license": "GPL", "maps": MAPS, "log_level": 1,
                            "locked_down": False, "cpus": 2, "policy": held}
    return usdt.applied(Program(insns=op.encode(insns), **{**rows, **more}))


def _functions(body: int, name: str) -> dict[str, Any]:
    """BTF and func_info of a program whose static function begins at slot body."""
    w = Writer()
    proto = w.proto(w.integer("int", 4, SIGNED), [])
    main, called = w.func("main", proto), w.func(name, proto, 0)
    return {"btf": w.blob(), "func_info_rec_size": 8,
            "func_info": struct.pack("<IIII", 0, main, body, called)}
