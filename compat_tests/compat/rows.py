"""The tools that are compared with the kernel, one row a tool: what is run beside it, and what of
its output is comparable.

A line of output becomes its named groups, less what no two runs share (times, numbers of
processes: `pid` only says whose line it is). Tools that count are read by a function of their own.
Source of the classes A and B: SURFACE.md of the design.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

Reader = Callable[[str, frozenset[int]], list[str]]
BT = "/usr/sbin/{}.bt"


@dataclass(frozen=True)
class Row:
    """One tool. argv: `$PID` is the actor's process, `$V` the folder of its program. ready: what
    the tool says when it has attached, or shortly before. scene: of actor.c, or another workload's
    (workloads.py). last: what its output shows when all of the scene has come, empty: it says so
    when it is interrupted. ordered: its lines come in the order of the events. chance: what it
    shows now and then, on the kernel too, and another process at other addresses does not: then
    the scene is played again by such a one."""

    name: str
    kind: str  # libbpf-tools, bpftrace, bcc
    grade: str  # A, B
    argv: tuple[str, ...]
    ready: str
    scene: str
    read: Reader
    last: str = ""
    ordered: bool = True
    note: str = ""
    chance: str = ""

    @property
    def id(self) -> str:
        return f"{self.kind}-{self.name}"


def lines(pattern: str, drop: str = "libbpf_shim") -> Reader:
    """Lines that match, of the actor and its children: the groups but `pid`. Lines that hold
    `drop` (the preloaded library, which the dynamic linker opens) are left out."""
    compiled = re.compile(pattern)

    def read(text: str, family: frozenset[int]) -> list[str]:
        found = []
        for raw in text.splitlines():
            match = compiled.match(raw.rstrip())
            if not match or (drop and drop in raw):
                continue
            groups = match.groupdict()
            if "pid" in groups and int(groups.pop("pid")) not in family:
                continue
            found.append(" ".join(f"{k}={v}" for k, v in groups.items()))
        return found

    return read


def table(pattern: str, wanted: str) -> Reader:
    """A table of counts that is printed at the end: rows whose first group matches `wanted`."""
    compiled, pick = re.compile(pattern), re.compile(wanted)

    def read(text: str, family: frozenset[int]) -> list[str]:
        found = {}
        for raw in text.splitlines():
            match = compiled.match(raw.rstrip())
            if match and pick.fullmatch(match.group(1)):
                found[match.group(1)] = match.group(2)
        return sorted(f"{k}={v}" for k, v in found.items())

    return read


def histogram(text: str, family: frozenset[int]) -> list[str]:
    """How many values the last histogram holds: their buckets are times."""
    last = text.rpartition("distribution")[2]
    counts = re.findall(r"^ *\d+ -> \d+ *: (\d+) +\|", last, re.M)
    return [f"values={sum(map(int, counts))}"]


def at_least(pattern: str, least: int) -> Reader:
    """The numbers that the pattern's group finds add up to so many; others, and time, add more."""
    compiled = re.compile(pattern, re.M)

    def read(text: str, family: frozenset[int]) -> list[str]:
        total = sum(map(int, compiled.findall(text)))
        return [f"at least {least}" if total >= least else f"only {total}"]

    return read


NO_STACK = "no stack"


def stacks(text: str, family: frozenset[int]) -> list[str]:
    """Frames of the actor's own functions, a stack a line, with its count."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        names = re.findall(r"\b(busy_\w+|spins|busy|main)\b", block)
        count = re.findall(r"^ +(\d+)$", block, re.M)
        if count and not block.strip().isdigit():
            found.append(" ".join([*names, count[-1]]))
        elif count:
            found.append(f"{NO_STACK} {count[-1]}")
    return found


OPENS = r"(?P<pid>\d+) +(?P<comm>\S+) +(?P<fd>-?\d+) +(?P<err>\d+) +(?P<path>.*)$"
_LATENCY = r"\S+ +(?P<pid>\d+) +(?P<comm>\S+) +[\d.]+ +(?P<host>\S+)$"

LIBBPF = (
    Row("opensnoop", "libbpf-tools", "A", ("opensnoop", "-p", "$PID"), "PID ", "opens",
        lines(OPENS), "/nonexistent/last"),
    Row("execsnoop", "libbpf-tools", "A", ("execsnoop", "-x"), "PCOMM", "execs",
        lines(r"(?P<comm>\S+) +(?P<pid>\d+) +\d+ +(?P<ret>-?\d+) +(?P<args>.*)$"), "true last"),
    Row("exitsnoop", "libbpf-tools", "B", ("exitsnoop",), "PCOMM", "exits",
        lines(r"(?P<comm>\S+) +(?P<pid>\d+) +\d+ +\d+ +[\d.]+ +(?P<code>.*)$"),
        "(?=.*signal 15)(?=.*signal 9)(?=.*signal 11)(?=.*code 77)", ordered=False),
    Row("killsnoop", "libbpf-tools", "A", ("killsnoop",), "TIME ", "signals",
        lines(r"\S+ +(?P<pid>\d+) +(?P<comm>\S+) +(?P<sig>\S+) +\d+ +(?P<result>-?\d+)$"),
        r"actor +18 "),
    Row("sigsnoop", "libbpf-tools", "B", ("sigsnoop",), "TIME ", "signals",
        lines(r"\S+ +(?P<pid>\d+) +(?P<comm>\S+) +(?P<sig>\S+) +\d+ +(?P<result>-?\d+)$"),
        "(?=.*actor +17 )(?=.*actor +18 )", ordered=False),
    Row("mountsnoop", "libbpf-tools", "A", ("mountsnoop",), "COMM", "mounts",
        lines(r"(?P<comm>\S+) +(?P<pid>\d+) +\d+ +\d+ +(?P<call>.*)$"), "/nonexistent/last"),
    Row("statsnoop", "libbpf-tools", "A", ("statsnoop", "-p", "$PID"), "COMM", "stats",
        lines(r"(?P<pid>\d+) +(?P<comm>\S+) +(?P<ret>\S+) +(?P<err>\S+) +(?P<path>.*)$"),
        note="0.26 attaches nothing on any kernel: only its header is compared"),
    Row("syscount", "libbpf-tools", "A", ("syscount", "-p", "$PID", "-T", "40"), "Tracing ",
        "calls", table(r"(\w+) +(\d+)$", "getppid|read|sched_yield|umask|getpriority"),
        ordered=False),
    Row("gethostlatency", "libbpf-tools", "A", ("gethostlatency",), "TIME ", "hosts",
        lines(_LATENCY), r"127\.0\.0\.8"),
    Row("bashreadline", "libbpf-tools", "A", ("bashreadline",), "COMMAND", "bash",
        lines(r"\S+ +(?P<pid>\d+) +(?P<command>.*)$"), "echo last"),
    Row("javagc", "libbpf-tools", "A", ("javagc", "-p", "$PID"), "Tracing", "java",
        lines(r"\S+ +\d+ +(?P<pid>\d+) +\d+"), r"(?:\d+:\d+:\d+[^\n]*\n){3}"),
    Row("funclatency", "libbpf-tools", "A", ("funclatency", "$V/actor:busy_inner"), "Tracing ",
        "spins", histogram),
)

BPFTRACE = (
    Row("opensnoop", "bpftrace", "A", (BT.format("opensnoop"),), "PATH", "opens", lines(OPENS),
        "/nonexistent/last"),
    Row("execsnoop", "bpftrace", "A", (BT.format("execsnoop"),), "ARGS", "execs",
        lines(r"\d+ +(?P<pid>\d+) +(?P<args>.*)$"), "true last"),
    Row("killsnoop", "bpftrace", "A", (BT.format("killsnoop"),), "RESULT", "signals",
        lines(r"\S+ +(?P<pid>\d+) +(?P<comm>\S+) +(?P<sig>\d+) +\d+ +(?P<ret>-?\d+)$"),
        r"actor +18 "),
    Row("naptime", "bpftrace", "A", (BT.format("naptime"),), "SECONDS", "naps",
        lines(r"\S+ +\d+ +\S+ +(?P<pid>\d+) +(?P<comm>\S+) +(?P<time>[\d.]+)$"), r"0\.007"),
    Row("setuids", "bpftrace", "A", (BT.format("setuids"),), "SYSCALL", "setuids",
        lines(r"\S+ +(?P<pid>\d+) +(?P<comm>\S+) +(?P<uid>\S+) +(?P<call>.*)$"),
        r"ruid=0 euid=0 suid=0"),
    Row("statsnoop", "bpftrace", "A", (BT.format("statsnoop"),), "PATH", "stats",
        lines(r"(?P<pid>\d+) +(?P<comm>\S+) +(?P<err>\d+) +(?P<path>.*)$"), "/nonexistent/last"),
    Row("syncsnoop", "bpftrace", "A", (BT.format("syncsnoop"),), "EVENT", "syncs",
        lines(r"\S+ +(?P<pid>\d+) +(?P<comm>\S+) +(?P<event>.*)$"), r"msync[^\n]*\n[^\n]*fsync"),
    Row("syscount", "bpftrace", "A", (BT.format("syscount"),), "Hit Ctrl-C", "calls",
        at_least(r"^@process\[actor\]: (\d+)", 613), ordered=False,
        note="by process; the ten calls most used are everybody's"),
    Row("threadsnoop", "bpftrace", "A", (BT.format("threadsnoop"),), "FUNC", "threads",
        lines(r"\d+ +(?P<pid>\d+) +(?P<comm>\S+) +(?P<func>\S+)$"), ordered=False),
    Row("gethostlatency", "bpftrace", "A", (BT.format("gethostlatency"),), "HOST", "hosts",
        lines(_LATENCY), r"127\.0\.0\.8"),
    Row("bashreadline", "bpftrace", "A", (BT.format("bashreadline"),), "COMMAND", "bash",
        lines(r"\S+ +(?P<pid>\d+) +(?P<command>.*)$"), "echo last"),
    Row("sslsnoop", "bpftrace", "A", (BT.format("sslsnoop"),), "FUNC", "tls",
        lines(r"\d+ +(?P<pid>\d+) +(?P<comm>\S+) +\d+ +(?P<ret>-?\d+) +(?P<func>\S+)$"),
        r"(?: 1 SSL_do_handshake.*){2}"),
    Row("ssllatency", "bpftrace", "A", (BT.format("ssllatency"),), "Hit Ctrl-C", "tls",
        lines(r"@(?P<what>\w+)\[(?P<func>\w+)\]:(?: (?P<count>count \d+),.*)?"), ordered=False),
    Row("pidpersec", "bpftrace", "B", (BT.format("pidpersec"),), "Hit Ctrl-C", "forks",
        at_least(r"PIDs/sec: @: (\d+)", 12), r"PIDs/sec: @: \d\d", note="counts everybody's"),
    Row("cpuwalk", "bpftrace", "A", (BT.format("cpuwalk"),), "Hit Ctrl-C", "busy",
        at_least(r"^\[\d+, \d+\) +(\d+) +\|", 60), note="samples everybody"),
    Row("threads of libc", "bpftrace", "A",
        ("bpftrace", "-e", 'BEGIN { printf("FUNC\\n"); } uprobe:libc:pthread_create '
         '{ printf("0 %d %s %s\\n", pid, comm, usym(arg2)); }'), "FUNC", "threads",
        lines(r"\d+ +(?P<pid>\d+) +(?P<comm>\S+) +(?P<func>\S+)$"), r"(?:actor[^\n]*\n.*){5}",
        note="threadsnoop.bt asks for libpthread, which is empty in glibc 2.36"),
)


def bcc(name: str, *arguments: str) -> tuple[str, ...]:
    """With Debian's headers: bcc looks for those of the release that uname(2) reports."""
    return ("sh", "-c", 'LD_PRELOAD="$LD_PRELOAD $0" exec "$@"', "$V/uname.so", f"{name}-bpfcc",
            *arguments)


BCC = (
    Row("funccount", "bcc", "A", bcc("funccount", "-i", "1", "$V/actor:busy_*"), "Hit Ctrl-C",
        "spins", table(r"b?'?(busy_\w+)'? +(\d+)$", "busy_.*"), r"busy_inner'? +\d+", False),
    Row("trace", "bcc", "A", bcc("trace", "$V/actor:busy_spin \"x %d times %d\", arg1 & 1, arg2"),
        "PID ", "spins",
        lines(r"(?P<pid>\d+) +\d+ +(?P<comm>\S+) +(?P<func>\S+) +(?P<what>.*)$"), "times 150"),
    Row("argdist", "bcc", "A",
        bcc("argdist", "-i", "1", "-n", "5", "-C", "p:$V/actor:keeper(size_t size):size_t:size"),
        "[", "leaks", table(r"\s+(\d+ +size = \d+)()$", ".*"), "size = 777", False),
    Row("stackcount", "bcc", "A", bcc("stackcount", "-p", "$PID", "$V/actor:busy_inner"),
        "Hit Ctrl-C", "spins", stacks, ordered=False, chance=NO_STACK,
        note="two of three stacks are in one of 1024 buckets in 3 of 1000 runs: -EEXIST"),
    Row("funclatency", "bcc", "A", bcc("funclatency", "$V/actor:busy_inner"), "Hit Ctrl-C",
        "spins", histogram),
    Row("gethostlatency", "bcc", "A", bcc("gethostlatency"), "HOST", "hosts", lines(_LATENCY),
        r"127\.0\.0\.8"),
    Row("threadsnoop", "bcc", "A", bcc("threadsnoop"), "FUNC", "threads",
        lines(r"\S+ +(?P<pid>\d+) +(?P<comm>\S+) +(?P<func>\S+)$"), r"(?:actor[^\n]*\n.*){5}"),
    Row("memleak", "bcc", "A", bcc("memleak", "-p", "$PID", "1"), "Attaching", "leaks",
        at_least(r"^\s+(\d+) bytes in 10 allocations", 12340), "in 10 allocations"),
    Row("syscount", "bcc", "A", bcc("syscount", "-p", "$PID", "-T", "40"), "Tracing ", "calls",
        table(r"b?'?(\w+)'? +(\d+)$", "getppid|read|sched_yield|umask|getpriority"),
        ordered=False),
    Row("bashreadline", "bcc", "A", bcc("bashreadline"), "COMMAND", "bash",
        lines(r"\S+ +(?P<pid>\d+) +(?P<command>.*)$"), "echo last"),
    Row("profile -U", "bcc", "A", bcc("profile", "-U", "-F", "99", "-p", "$PID"), "Sampling",
        "busy", at_least(r"busy_inner\n(?:.*\n)*?\s+-\s+actor \(\d+\)\n\s+(\d+)", 60)),
)
ALL = (*LIBBPF, *BPFTRACE, *BCC)
