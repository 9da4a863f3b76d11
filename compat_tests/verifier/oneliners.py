"""bpftrace programs of one line, of every kind of probe, map and function that it has.

Sources: `man bpftrace`, its docs/tutorial_one_liners.md and reference guide, as ideas.
"""

from __future__ import annotations

ONE_LINERS = (
    'BEGIN { printf("hello world\\n"); exit(); }',
    "END { clear(@x); } BEGIN { @x = 1; zero(@x); }",
    "tracepoint:syscalls:sys_enter_openat { printf(\"%s %s\\n\", comm, str(args->filename)); }",
    "tracepoint:raw_syscalls:sys_enter { @[comm] = count(); }",
    "tracepoint:syscalls:sys_exit_read /pid == 18644/ { @bytes = hist(args->ret); }",
    "tracepoint:syscalls:sys_exit_read { @[comm] = lhist(args->ret, 0, 2000, 200); }",
    "tracepoint:sched:sched_switch { @[kstack] = count(); }",
    "tracepoint:sched:sched_process_exec { printf(\"%d %s\\n\", pid, str(args->filename)); }",
    "tracepoint:block:block_rq_issue { @ = hist(args->bytes); }",
    "kprobe:vfs_read { @start[tid] = nsecs; } kretprobe:vfs_read /@start[tid]/ "
    "{ @ns[comm] = hist(nsecs - @start[tid]); delete(@start[tid]); }",
    "kprobe:vfs_* { @[probe] = count(); }",
    'kprobe:do_nanosleep { printf("sleep by %d\\n", tid); }',
    "kprobe:vfs_open { @[arg0, arg1] = sum(arg2); }",
    "kretprobe:vfs_read { @bytes = avg(retval); @low = min(retval); @high = max(retval); }",
    "kretprobe:vfs_read { @ = stats(retval); }",
    "kprobe:vfs_read { @[ksym(reg(\"ip\")), usym(arg0)] = count(); }",
    "kprobe:vfs_read { @[ustack(5)] = count(); @x[kstack(perf, 3)] = count(); }",
    'kprobe:vfs_read { printf("%r %d\\n", buf(arg1, 16), cpu); }',
    'kprobe:vfs_read { if (arg2 > 10 && arg2 < 100) { @a++; } else { @b--; } }',
    "kprobe:vfs_read { unroll(4) { @n++; } $i = 0; while ($i < 10) { $i++; } @ = $i; }",
    "kprobe:vfs_read { $x = (uint8)arg2; $y = (int32)arg1 / 3; @ = $x % 7 + $y << 2; }",
    "kprobe:vfs_read { @ = strncmp(comm, \"bash\", 4) == 0 ? 1 : 2; }",
    "kprobe:vfs_read { @[uid, gid, cgroup, rand, elapsed, curtask] = count(); }",
    "kprobe:vfs_read { $t = (1, \"two\", (3, 4)); @ = $t; }",
    "kprobe:vfs_read { time(\"%H:%M\"); cat(\"/proc/uptime\"); system(\"true\"); }",
    "kprobe:vfs_read { @[ntop(arg0), ntop(2, arg1)] = count(); }",
    "kprobe:vfs_read { join(arg1); printf(\"%s\", kaddr(\"vfs_read\") == 0 ? \"a\" : \"b\"); }",
    "kprobe:vfs_read { print(@x); clear(@x); @x[1] = 2; delete(@x[1]); }",
    "kprobe:vfs_read { printf(\"%s\", strftime(\"%S\", nsecs)); signal(0); }",
    "struct s { int a; long b; char c[8]; } kprobe:vfs_read { $s = (struct s *)arg0; "
    "@[$s->c] = sum($s->a); @b = $s->b; }",
    "kprobe:vfs_read { $p = (uint64 *)arg1; @ = *$p + *($p + 8); }",
    "kprobe:vfs_read { @ = ~arg0 ^ arg1 | (arg2 & 15); @s = -arg2; @n = !arg0; }",
    "uprobe:/bin/bash:main { @[ustack] = count(); }",
    "uretprobe:/bin/bash:readline { printf(\"%s\\n\", str(retval)); }",
    "uprobe:/bin/bash:main { printf(\"%s\", str(sarg0)); @ = uaddr(\"main\"); }",
    "profile:hz:99 { @[kstack] = count(); }",
    "interval:s:1 { print(@); @ = count(); }",
    "software:faults:1 { @[comm] = count(); }",
    "hardware:cache-misses:1000000 { @[pid] = count(); }",
    "rawtracepoint:sched_switch { @[arg0] = count(); }",
)
