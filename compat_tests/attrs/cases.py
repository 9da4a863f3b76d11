"""The attrs that are asked: of every command of Linux 6.18, right ones and wrong ones.

A base is a right attr of a command. Its cases are the base itself, the base with one field changed
to each value of that field's sort, bytes behind its last field, and sizes around its own. What
takes more than one change stands in SINGLE.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from compat_tests.attrs import sweeps
from compat_tests.btf.mutants import mutants
from libbpf_shim.uapi.structs import ATTR

Value = int | str
Case = dict[str, Any]
LARGE = 0xFFFFFFFF


@dataclass(frozen=True)
class Base:
    """A right attr. name: of its cases. part, last: what of union bpf_attr the command has. also:
    fields that its cases change beside those of `put`, which keep their values otherwise."""

    name: str
    cmd: int
    part: str
    last: str
    put: dict[str, Value]
    also: tuple[str, ...] = ()
    bufs: dict[str, str | int] = field(default_factory=dict)
    fill: tuple[tuple[str, int, int, Value], ...] = ()
    say: tuple[str, ...] = ()
    show: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def case(self, change: dict[str, Value] | None = None, **more: Any) -> Case:
        """The base with some fields changed."""
        fields = ATTR[self.part]
        end = sum(fields[self.last])
        values = self.put | (change or {})
        made: Case = {"cmd": self.cmd, "size": end,
                      "put": [[*fields[name], value] for name, value in values.items()]}
        for name, what in (("bufs", self.bufs), ("fill", self.fill), ("show", self.show),
                           ("say", [fields[name] for name in self.say])):
            if what:
                made[name] = what
        return made | more


# What a field of a sort is changed to.
FD = (LARGE, 9999, "fd:null", "fd:memfd", "fd:pipe", "fd:array", "fd:prog", "fd:btf", "fd:link",
      "fd:clock")  # fmt: skip
POINTER = (0, "ptr:bad", "ptr:kernel")
NUMBER = (0, 1, 0x7FFFFFFF, LARGE)
SIZES = {  # what the kernel would really allocate is no case
    "key_size": (0, 1, 3, 512, 513, LARGE), "value_size": (0, 1, 3, 9, LARGE),
    "max_entries": (0, 1, 3),
}
IDS = ("start_id", "prog_id", "map_id", "link_id")  # whether 1 is one of those is chance
BITS = (*(1 << bit for bit in range(32)), LARGE)

POINTERS = frozenset((
    "pathname", "insns", "license", "log_buf", "func_info", "line_info", "fd_array", "core_relos",
    "signature", "key", "value", "next_key", "info", "btf", "btf_log_buf", "buf", "prog_ids",
    "name", "data_in", "data_out", "ctx_in", "ctx_out", "keys", "values", "in_batch", "out_batch",
    "iter_info", "stream_buf", "excl_prog_hash", "link_ids",
))  # fmt: skip


def sort_of(name: str) -> tuple[Value, ...]:
    """The values that a field is changed to, by its name."""
    if name.endswith("fd"):
        return FD
    if "flags" in name:
        return BITS
    if name in SIZES:
        return SIZES[name]
    if name in IDS:
        return NUMBER[:1] + NUMBER[2:]
    size = {name: s for part in ATTR.values() for name, (_, s) in part.items()}[name]
    if name in POINTERS:
        return POINTER
    if size == 8:
        return (0, 1, 1 << 63)
    return NUMBER


def told(value: Value) -> str:
    return value if isinstance(value, str) else hex(value)


def around(base: Base) -> dict[str, Case]:
    """Every case of a base."""
    end = sum(ATTR[base.part][base.last])
    found = {base.name: base.case()}
    for name in (*base.put, *base.also):
        if name in base.skip:
            continue
        for value in sort_of(name):
            if base.put.get(name) != value:
                found[f"{base.name}: {name} {told(value)}"] = base.case({name: value})
    if end < 168:
        found[f"{base.name}: a byte behind its last field"] = base.case(
            put=[*base.case()["put"], [end, 1, 1]], size=end + 1)
        found[f"{base.name}: the last byte of the union"] = base.case(
            put=[*base.case()["put"], [167, 1, 1]], size=168)
    whole_id = any(str(value).startswith(("id:", "pid")) for value in base.put.values())
    for size in (0, 1, end // 2, 168, 176, 4096, 4097):
        if whole_id and 0 < size < 4:
            continue  # what the first bytes of an id name is chance
        found[f"{base.name}: {size} bytes"] = base.case(size=size)
    found[f"{base.name}: a byte behind the union"] = base.case(
        put=[*base.case()["put"], [168, 1, 1]], size=169)
    for name, at in (("no", 0), ("a bad", 0x10), ("a kernel", 0xFFFFFFFF81000000)):
        found[f"{base.name}: {name} address"] = base.case(at=at or 8)
    return found


RET0 = "b700000000000000" "9500000000000000"
LICENSE = "47504c00"
# ld_imm64 r1, map by index 0 of fd_array; r0 = 0; exit
BY_INDEX = "1851000000000000" "0000000000000000" + RET0

MAP = ("map_type", "key_size", "value_size", "max_entries", "map_flags")
MAP_MORE = (
    "inner_map_fd", "numa_node", "map_ifindex", "btf_fd", "btf_key_type_id", "btf_value_type_id",
    "btf_vmlinux_value_type_id", "map_extra", "value_type_btf_obj_fd", "map_token_fd",
    "excl_prog_hash", "excl_prog_hash_size",
)  # fmt: skip


def map_base(name: str, *values: int, also: tuple[str, ...] = (), **put: Value) -> Base:
    whole: dict[str, Value] = {**dict(zip(MAP, values, strict=True)), **put}
    return Base(name, 0, "map_create", "excl_prog_hash_size", whole, also)


BASES = (
    map_base("array", 2, 4, 8, 4, 0, also=MAP_MORE),
    map_base("hash", 1, 4, 8, 4, 0),
    map_base("array with BTF", 2, 4, 8, 1, 0, btf_fd="fd:btf", btf_key_type_id=1,
             btf_value_type_id=3),
    map_base("array of another node", 2, 4, 8, 4, 4, numa_node=0),
    Base("lookup", 1, "elem", "flags", {"map_fd": "fd:hash", "key": "ptr:k", "value": "ptr:v",
         "flags": 0}, bufs={"k": "01000000", "v": 64}, show=("v",)),
    Base("update", 2, "elem", "flags", {"map_fd": "fd:new-hash", "key": "ptr:k", "value": "ptr:v",
         "flags": 0}, bufs={"k": "01000000", "v": 64}),
    Base("delete", 3, "elem", "key", {"map_fd": "fd:new-hash", "key": "ptr:k"},
         bufs={"k": "01000000"}),
    Base("next key", 4, "elem", "next_key", {"map_fd": "fd:hash", "key": "ptr:k",
         "next_key": "ptr:v"}, bufs={"k": "05000000", "v": 8}, show=("v",)),
    Base("lookup and delete", 21, "elem", "flags", {"map_fd": "fd:new-hash", "key": "ptr:k",
         "value": "ptr:v", "flags": 0}, bufs={"k": "01000000", "v": 64}, show=("v",)),
    Base("program", 5, "prog_load", "keyring_id", {"prog_type": 1, "insn_cnt": 2,
         "insns": "ptr:i", "license": "ptr:l"},
         ("log_level", "log_size", "log_buf", "kern_version", "prog_flags", "prog_ifindex",
          "expected_attach_type", "prog_btf_fd", "func_info_rec_size", "func_info",
          "func_info_cnt", "line_info_rec_size", "line_info", "line_info_cnt", "attach_btf_id",
          "attach_prog_fd", "core_relo_cnt", "fd_array", "core_relos", "core_relo_rec_size",
          "log_true_size", "prog_token_fd", "fd_array_cnt", "signature", "signature_size",
          "keyring_id"),
         bufs={"i": RET0, "l": LICENSE}),
    Base("program with a log", 5, "prog_load", "keyring_id", {"prog_type": 1, "insn_cnt": 2,
         "insns": "ptr:i", "license": "ptr:l", "log_level": 1, "log_size": 4096,
         "log_buf": "ptr:log"}, bufs={"i": RET0, "l": LICENSE, "log": 4096}),
    Base("program by fd_array", 5, "prog_load", "keyring_id", {"prog_type": 1, "insn_cnt": 4,
         "insns": "ptr:i", "license": "ptr:l", "fd_array": "ptr:f", "fd_array_cnt": 1},
         bufs={"i": BY_INDEX, "l": LICENSE, "f": 64}, fill=(("f", 0, 4, "fd:array"),)),
    Base("program with infos", 5, "prog_load", "keyring_id", {"prog_type": 1, "insn_cnt": 2,
         "insns": "ptr:i", "license": "ptr:l", "prog_btf_fd": "fd:btf", "func_info_rec_size": 8,
         "func_info": "ptr:fi", "func_info_cnt": 1, "line_info_rec_size": 16,
         "line_info": "ptr:li", "line_info_cnt": 1},
         bufs={"i": RET0, "l": LICENSE, "fi": "0000000005000000",
               "li": "00000000010000000100000000040000"}),
    Base("pin", 6, "obj", "path_fd", {"pathname": "ptr:p", "bpf_fd": "fd:array", "file_flags": 0},
         ("path_fd",), bufs={"p": b"/nowhere/x\0".hex()}),
    Base("get", 7, "obj", "path_fd", {"pathname": "ptr:p", "bpf_fd": 0, "file_flags": 0},
         ("path_fd",), bufs={"p": b"/nowhere/x\0".hex()}),
    Base("attach", 8, "attach", "expected_revision", {"target_fd": "fd:null",
         "attach_bpf_fd": "fd:prog", "attach_type": 0, "attach_flags": 0},
         ("replace_bpf_fd", "relative_fd", "expected_revision")),
    Base("detach", 9, "attach", "expected_revision", {"target_fd": "fd:null",
         "attach_bpf_fd": "fd:prog", "attach_type": 0, "attach_flags": 0},
         ("replace_bpf_fd", "relative_fd", "expected_revision")),
    Base("run", 10, "test", "batch_size", {"prog_fd": "fd:raw-tp"},
         ("data_size_in", "data_size_out", "data_in", "data_out", "duration", "ctx_size_in",
          "ctx_size_out", "ctx_out", "flags", "cpu", "batch_size"), say=("retval",)),
    *(Base(f"next {what} id", cmd, "by_id", "next_id", {"start_id": 0}, ("next_id",),
           skip=("next_id",))
      for what, cmd in (("program", 11), ("map", 12), ("BTF", 23), ("link", 31))),
    Base("program by id", 13, "by_id", "prog_id", {"prog_id": "id:prog"}),
    Base("map by id", 14, "by_id", "open_flags", {"map_id": "id:array", "open_flags": 0},
         ("next_id",)),
    Base("BTF by id", 19, "by_id", "fd_by_id_token_fd", {"btf_id": "id:btf"},
         ("next_id", "open_flags", "fd_by_id_token_fd")),
    Base("link by id", 30, "by_id", "link_id", {"link_id": "id:link"}),
    *(Base(f"info of {what}", 15, "info", "info", {"bpf_fd": f"fd:{what}", "info_len": size,
           "info": "ptr:o"}, bufs={"o": 256}, say=("info_len",))
      for what, size in (("array", 104), ("prog", 232), ("btf", 32), ("link", 64))),
    Base("query", 16, "query", "revision", {"target_fd": "fd:null", "attach_type": 0,
         "query_flags": 0}, ("attach_flags", "prog_ids", "prog_cnt", "prog_attach_flags",
         "link_ids", "link_attach_flags", "revision")),
    Base("raw tracepoint", 17, "raw_tracepoint", "cookie", {"name": "ptr:n",
         "prog_fd": "fd:raw-tp", "cookie": 0}, bufs={"n": b"no_such_thing\0".hex()}),
    Base("BTF", 18, "btf_load", "btf_token_fd", {"btf": "ptr:b", "btf_size": 24},
         ("btf_log_buf", "btf_log_size", "btf_log_level", "btf_log_true_size", "btf_flags",
          "btf_token_fd"), bufs={"b": "9feb0100180000000000000000000000000000000100000000"}),
    Base("what is at", 20, "task_fd_query", "probe_addr", {"pid": "pid", "fd": "fd:null",
         "flags": 0, "buf_len": 64, "buf": "ptr:b"}, bufs={"b": 64}),
    Base("freeze", 22, "elem", "map_fd", {"map_fd": "fd:new-array"}),
    Base("link create", 28, "link_create", "uprobe_multi.pid", {"prog_fd": "fd:perf",
         "target_fd": "fd:clock2", "attach_type": 41, "flags": 0}),
    Base("link update", 29, "link_update", "old_prog_fd", {"link_fd": "fd:link",
         "new_prog_fd": "fd:perf", "flags": 0, "old_prog_fd": 0}),
    Base("stats", 32, "enable_stats", "type", {"type": 0}),
    Base("iterator", 33, "iter_create", "flags", {"link_fd": "fd:link", "flags": 0}),
    Base("link detach", 34, "link_detach", "link_fd", {"link_fd": "fd:link"}),
    Base("bind", 35, "prog_bind_map", "flags", {"prog_fd": "fd:prog", "map_fd": "fd:array",
         "flags": 0}),
    Base("token", 36, "token_create", "bpffs_fd", {"flags": 0, "bpffs_fd": "fd:root"}),
    Base("stream", 37, "prog_stream_read", "prog_fd", {"stream_buf": "ptr:b",
         "stream_buf_len": 16, "stream_id": 1, "prog_fd": "fd:prog"}, bufs={"b": 64}),
)  # fmt: skip

# Pointers in what OBJ_GET_INFO_BY_FD is given: (object, size, count's offset, pointer's offset).
NESTED = (
    ("prog", 232, 52, 56), ("prog", 232, 20, 32), ("prog", 232, 16, 24), ("prog", 232, 104, 112),
    ("prog", 232, 108, 120), ("prog", 232, 144, 136), ("prog", 232, 148, 152),
    ("prog", 232, 168, 160), ("prog", 232, 180, 184), ("prog-infos", 232, 144, 136),
    ("prog-infos", 232, 148, 152), ("prog-infos", 232, 168, 160), ("prog-maps", 232, 52, 56),
    ("prog-maps", 232, 20, 32), ("btf", 32, 8, 0), ("btf", 32, 24, 16), ("vmlinux", 32, 8, 0),
    ("vmlinux", 32, 24, 16), ("array", 104, 96, 88), ("hash", 104, 96, 88),
    ("frozen", 104, 96, 88), ("link", 64, 32, 24), ("uprobe-link", 64, 32, 24),
)  # fmt: skip
RECORDS = ((132, 8), (172, 16), (176, 8))  # *_rec_size of struct bpf_prog_info


def nested() -> dict[str, Case]:
    """Informations with pointers in them."""
    found = {}
    for what, size, count_at, at in NESTED:
        for count in (0, 1, 3, 8, 32, 4096):
            for value in (0, "ptr:n", "ptr:bad", "ptr:kernel"):
                for sized in (True, False) if size == 232 else (True,):
                    fill: list[tuple[str, int, int, Value]] = [
                        ("o", count_at, 4, count), ("o", at, 8, value)]
                    if sized and size == 232:
                        fill += [("o", where, 4, each) for where, each in RECORDS]
                    name = f"info of {what}: {count} at {at}, {told(value)}"
                    found[name if sized else f"{name}, no sizes"] = {
                        "cmd": 15, "size": 16, "bufs": {"o": size, "n": 8192}, "fill": fill,
                        "put": [[0, 4, f"fd:{what}"], [4, 4, size], [8, 8, "ptr:o"]],
                    }
    for at, _ in RECORDS:
        for value in (1, 8, 16):
            found[f"info of prog: {value} at {at}"] = {
                "cmd": 15, "size": 16, "bufs": {"o": 232}, "fill": [("o", at, 4, value)],
                "put": [[0, 4, "fd:prog"], [4, 4, 232], [8, 8, "ptr:o"]],
            }
    for what, size in (("array", 104), ("prog", 232), ("btf", 32), ("link", 64)):
        for given, extra in ((size + 8, 0), (size + 8, 1), (4096, 0), (4096, 1), (4097, 0), (1, 0),
                             (size - 1, 0)):
            found[f"info of {what}: {given} bytes, then {extra}"] = {
                "cmd": 15, "size": 16, "bufs": {"o": 8192},
                "fill": [("o", size, 1, extra)] if given > size else [],
                "put": [[0, 4, f"fd:{what}"], [4, 4, given], [8, 8, "ptr:o"]], "say": [[4, 4]],
            }
    return found


CASES: dict[str, Case] = {name: case for base in BASES for name, case in around(base).items()}


def mixed() -> dict[str, Case]:
    """Bases with two to four fields changed at once, the same ones every time."""
    rng, found = random.Random(618), {}
    for base in BASES:
        names = [name for name in (*base.put, *base.also) if name not in base.skip]
        for number in range(30 if len(names) > 1 else 0):
            some = rng.sample(names, min(len(names), rng.choice((2, 2, 3, 4))))
            change = {name: rng.choice(sort_of(name)) for name in some}
            if base.cmd or change.get("value_size") != LARGE:  # no case: really allocated
                found[f"{base.name}, mixed: {number}"] = base.case(change)
    return found


CASES |= mixed() | nested() | sweeps.CASES
CASES |= {f"BTF: mutant {n}": {"cmd": 18, "size": 40, "put": [[0, 8, "ptr:b"], [16, 4, len(blob)]],
                               "bufs": {"b": blob.hex()}}
          for n, blob in enumerate(mutants(18, 400))}  # fmt: skip
