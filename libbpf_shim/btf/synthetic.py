"""The vmlinux BTF served where the machine's own cannot be read.

Small on purpose: the types that the tools of docs/compatibility dereference through CO-RE, with
a layout of our own (CO-RE takes offsets from here), and the names that loaders look for. Only
pt_regs has the real layout: programs read it (asm/ptrace.h).
"""

from __future__ import annotations

from . import kinds
from .write import BOOL, SIGNED, Writer

INTEGERS = (
    ("char", 1, SIGNED),
    ("signed char", 1, SIGNED),
    ("unsigned char", 1, 0),
    ("short int", 2, SIGNED),
    ("short unsigned int", 2, 0),
    ("int", 4, SIGNED),
    ("unsigned int", 4, 0),
    ("long int", 8, SIGNED),
    ("long unsigned int", 8, 0),
    ("long long int", 8, SIGNED),
    ("long long unsigned int", 8, 0),
    ("_Bool", 1, BOOL),
    ("__int128", 16, SIGNED),
    ("__int128 unsigned", 16, 0),
)
TYPEDEFS = (
    ("__s8", "signed char"), ("__u8", "unsigned char"), ("__s16", "short int"),
    ("__u16", "short unsigned int"), ("__s32", "int"), ("__u32", "unsigned int"),
    ("__s64", "long long int"), ("__u64", "long long unsigned int"), ("s8", "__s8"),
    ("u8", "__u8"), ("s16", "__s16"), ("u16", "__u16"), ("s32", "__s32"), ("u32", "__u32"),
    ("s64", "__s64"), ("u64", "__u64"), ("bool", "_Bool"), ("umode_t", "short unsigned int"),
    ("__kernel_pid_t", "int"), ("pid_t", "__kernel_pid_t"), ("__kernel_uid32_t", "unsigned int"),
    ("uid_t", "__kernel_uid32_t"), ("gid_t", "__kernel_uid32_t"),
    ("__kernel_size_t", "long unsigned int"), ("size_t", "__kernel_size_t"),
    ("ssize_t", "long int"), ("__kernel_loff_t", "long long int"), ("loff_t", "__kernel_loff_t"),
    ("off_t", "long int"), ("dev_t", "u32"), ("uint8_t", "u8"), ("uint16_t", "u16"),
    ("uint32_t", "u32"), ("uint64_t", "u64"), ("int8_t", "s8"), ("int16_t", "s16"),
    ("int32_t", "s32"), ("int64_t", "s64"), ("qid_t", "__kernel_uid32_t"), ("key_t", "int"),
    ("mqd_t", "int"), ("clockid_t", "int"), ("timer_t", "int"), ("rwf_t", "int"),
    ("aio_context_t", "long unsigned int"), ("key_serial_t", "s32"),
    ("cap_user_header_t", "long unsigned int"), ("cap_user_data_t", "long unsigned int"),
)  # fmt: skip
# fmt: off
PT_REGS = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di",
    "orig_ax", "ip", "cs", "flags", "sp", "ss",
)
# fmt: on
TASK_COMM_LEN = 16
NODENAME_LEN = 65


def build() -> bytes:
    """The blob. A few kilobytes, made in about a millisecond."""
    out = Writer()
    ids = {name: out.integer(name, size, encoding) for name, size, encoding in INTEGERS}
    for name, target in TYPEDEFS:
        ids[name] = out.ref(kinds.TYPEDEF, ids[target], name)
    _registers(out, ids)
    _tasks(out, ids)
    _tracepoints(out, ids)
    _bpf(out, ids)
    return out.blob()


def _registers(out: Writer, ids: dict[str, int]) -> None:
    word = ids["long unsigned int"]
    members = [(name, word, 8 * index) for index, name in enumerate(PT_REGS)]
    ids["pt_regs"] = out.struct("pt_regs", 8 * len(PT_REGS), members)


def _tasks(out: Writer, ids: dict[str, int]) -> None:
    """What bpf_get_current_task leads to: the fields that csrc/runtime/task.c knows."""
    number, word, signed = ids["unsigned int"], ids["u64"], ids["int"]
    ns_common = out.struct("ns_common", 8, [("inum", number, 0)])
    spaces = {
        name: _namespace(out, name, ns_common)
        for name in ("mnt_namespace", "ipc_namespace", "pid_namespace", "net",
                     "cgroup_namespace", "time_namespace", "user_namespace")
    }
    node = out.array(ids["char"], signed, NODENAME_LEN)
    names = out.struct("new_utsname", 2 * NODENAME_LEN,
                       [("sysname", node, 0), ("nodename", node, NODENAME_LEN)])
    uts = out.struct("uts_namespace", 8 + 2 * NODENAME_LEN + 6,
                     [("ns", ns_common, 0), ("name", names, 8)])
    spaces["uts_namespace"] = out.ref(kinds.PTR, uts)
    nsproxy = out.struct("nsproxy", 56, [
        ("uts_ns", spaces["uts_namespace"], 0), ("ipc_ns", spaces["ipc_namespace"], 8),
        ("mnt_ns", spaces["mnt_namespace"], 16),
        ("pid_ns_for_children", spaces["pid_namespace"], 24),
        ("net_ns", spaces["net"], 32), ("time_ns", spaces["time_namespace"], 40),
        ("cgroup_ns", spaces["cgroup_namespace"], 48)])  # fmt: skip
    upid = out.struct("upid", 16, [("nr", signed, 0), ("ns", spaces["pid_namespace"], 8)])
    pid = out.struct("pid", 8, [("level", number, 4), ("numbers", out.array(upid, signed, 0), 8)])
    cred = _cred(out, ids, spaces["user_namespace"])
    pid_ptr, nsproxy_ptr = out.ref(kinds.PTR, pid), out.ref(kinds.PTR, nsproxy)
    comm = out.array(ids["char"], signed, TASK_COMM_LEN)
    # ids are handed out in order: the pointer names the structure that comes next
    task_ptr = out.ref(kinds.PTR, out.next_id + 1)
    members = [
        ("__state", number, 0), ("flags", number, 4), ("exit_code", signed, 8),
        ("pid", ids["pid_t"], 12), ("tgid", ids["pid_t"], 16), ("exit_signal", signed, 20),
        ("real_parent", task_ptr, 24), ("parent", task_ptr, 32), ("group_leader", task_ptr, 40),
        ("start_time", word, 48), ("start_boottime", word, 56), ("nsproxy", nsproxy_ptr, 64),
        ("comm", comm, 72), ("prio", signed, 88), ("static_prio", signed, 92),
        ("loginuid", ids["kuid_t"], 96), ("sessionid", number, 100), ("thread_pid", pid_ptr, 104),
        ("real_cred", cred, 112), ("cred", cred, 120),
    ]  # fmt: skip
    ids["task_struct"] = out.struct("task_struct", 128, members)


def _namespace(out: Writer, name: str, ns_common: int) -> int:
    """A pointer to a namespace."""
    return out.ref(kinds.PTR, out.struct(name, 8, [("ns", ns_common, 0)]))


def _cred(out: Writer, ids: dict[str, int], user_ns: int) -> int:
    """A pointer to struct cred."""
    kuid = out.ref(kinds.TYPEDEF, out.struct("", 4, [("val", ids["uid_t"], 0)]), "kuid_t")
    ids["kuid_t"] = kuid
    kgid = out.ref(kinds.TYPEDEF, out.struct("", 4, [("val", ids["gid_t"], 0)]), "kgid_t")
    caps = out.ref(kinds.TYPEDEF, out.struct("", 8, [("val", ids["u64"], 0)]), "kernel_cap_t")
    order = ("uid", "gid", "suid", "sgid", "euid", "egid", "fsuid", "fsgid")
    members = [(name, kuid if name.endswith("uid") else kgid, 4 * at)
               for at, name in enumerate(order)]
    members += [("cap_inheritable", caps, 32), ("cap_permitted", caps, 40),
                ("cap_effective", caps, 48), ("user_ns", user_ns, 56)]
    return out.ref(kinds.PTR, out.struct("cred", 64, members))


def _tracepoints(out: Writer, ids: dict[str, int]) -> None:
    short, byte, whole = ids["short unsigned int"], ids["unsigned char"], ids["int"]
    entry = out.struct(
        "trace_entry",
        8,
        [
            ("type", short, 0),
            ("flags", byte, 2),
            ("preempt_count", byte, 3),
            ("pid", whole, 4),
        ],
    )
    word, signed = ids["long unsigned int"], ids["long int"]
    args = out.array(word, whole, 6)
    out.struct(
        "trace_event_raw_sys_enter",
        64,
        [
            ("ent", entry, 0),
            ("id", signed, 8),
            ("args", args, 16),
        ],
    )
    out.struct(
        "trace_event_raw_sys_exit",
        24,
        [
            ("ent", entry, 0),
            ("id", signed, 8),
            ("ret", signed, 16),
        ],
    )
    comm = out.array(ids["char"], whole, TASK_COMM_LEN)
    out.struct(
        "trace_event_raw_signal_generate",
        48,
        [
            ("ent", entry, 0),
            ("sig", whole, 8),
            ("errno", whole, 12),
            ("code", whole, 16),
            ("comm", comm, 20),
            ("pid", ids["pid_t"], 36),
            ("group", whole, 40),
            ("result", whole, 44),
        ],
    )
    out.struct(
        "trace_event_raw_sched_process_template",
        32,
        [
            ("ent", entry, 0),
            ("comm", comm, 8),
            ("pid", ids["pid_t"], 24),
            ("prio", whole, 28),
        ],
    )


def _bpf(out: Writer, ids: dict[str, int]) -> None:
    """Names whose existence CO-RE asks for."""
    out.struct("bpf_ringbuf", 8, [("mask", ids["u64"], 0)])
    out.struct(
        "bpf_perf_event_data",
        184,
        [
            ("regs", ids["pt_regs"], 0),
            ("sample_period", ids["__u64"], 168),
            ("addr", ids["__u64"], 176),
        ],
    )
    out.struct("bpf_raw_tracepoint_args", 8, [("args", out.array(ids["__u64"], ids["int"], 0), 0)])
