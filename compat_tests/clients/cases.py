"""bpftrace one-liners that must answer under the shim as the kernel answers.

$V is the folder of the victim (compat_tests/victims/calls.c says what it calls). The expected
lines are in expected.json, recorded from the kernel by record.py and read over; a case is
added here, recorded, and its lines checked against the arithmetic of the victim.
"""

from __future__ import annotations

from dataclasses import dataclass

Rules = tuple[tuple[str, str], ...]
ADDRESS: Rules = ((r"0x[0-9a-f]{6,}", "ADDR"),)
PIDS: Rules = ((r"\[\d{2,}", "[PID"), (r"\bpid \d+", "pid N"))
# What time took is not repeatable: the buckets go, the number of values stays.
LATENCY: Rules = ((r"^\[.*\) \d+ ?$|^\[\d+\] \d+ ?$", "BUCKET"),)


@dataclass(frozen=True)
class Case:
    """One one-liner; `attach` is how the victim is met: child (-c), pid (-p) or none."""

    name: str
    program: str
    victim: str = "-n 10"
    attach: str = "child"
    rules: Rules = ()
    drop: str = ""  # lines matching this pattern are left out of the comparison
    arguments: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


U = "uprobe:$V/calls:"
R = "uretprobe:$V/calls:"

CASES = (
    # aggregations
    Case("count without a key", U + "v_tick { @ = count(); }"),
    Case("count by an argument", U + "v_add { @[arg0] = count(); }"),
    Case("sum of an argument", U + "v_add { @ = sum(arg0 + arg1); }", "-n 1000"),
    Case("avg, min, max of an argument",
         U + "v_scale { @a = avg(arg0); @i = min(arg0); @x = max(arg0); }", "-n 50"),
    Case("stats of a return value", R + "v_add { @ = stats(retval); }", "-n 100"),
    Case("hist of an argument", U + "v_scale { @ = hist(arg0); }", "-n 200"),
    Case("hist of a return value by key", R + "v_scale { @[retval % 2] = hist(retval); }",
         "-n 64"),
    Case("lhist of an argument", U + "v_value { @ = lhist(arg0, 0, 100, 10); }",
         "-n 120 -m tick"),
    Case("hist of negative values", U + "v_add { @ = hist((int64)arg0 - 5); }"),
    Case("lhist below and above its range", U + "v_add { @ = lhist((int64)arg0, 3, 7, 1); }"),
    Case("count by comm in four threads", U + "v_tick { @[comm] = count(); }", "-n 25 -t 4"),
    Case("sum by tuple key", U + "v_six { @[arg0 % 2, arg1, arg5] = sum(arg2 * arg4); }"),
    Case("count by a tuple of a string and a number",
         U + "v_greet { @[str(arg0), arg1 > 4] = count(); }"),
    Case("a map of tuples", U + "v_add { @[arg0] = (arg0, arg1, 7); }", "-n 4"),
    # printf and builtins
    Case("printf of arguments", U + 'v_six { printf("%d %d %d %d %d %d\\n", arg0, arg1, arg2,'
         " arg3, arg4, arg5); }"),
    Case("printf of a string argument", U + 'v_greet { printf("%s %d\\n", str(arg0), arg1); }'),
    Case("printf of a returned string", R + 'v_label { printf("label %s\\n", str(retval)); }'),
    Case("str with a length", U + "v_greet { @[str(arg0, 3)] = count(); }"),
    Case("buf of an argument", U + 'v_greet { printf("%r\\n", buf(arg0, 3)); }', "-n 3"),
    Case("printf in hexadecimal", U + 'v_scale { printf("%x %lx %02d\\n", arg0, arg0, arg0); }'),
    Case("comm, pid and tid agree in one thread",
         U + 'v_tick { printf("%s %d\\n", comm, pid == tid); }', "-n 3"),
    Case("tid differs from pid in threads", U + "v_tick { @[comm, pid == tid] = count(); }",
         "-n 5 -t 3"),
    Case("uid is that of the process", U + "v_tick { @[uid == gid] = count(); }"),
    Case("nsecs never goes back",
         U + "v_tick { @[nsecs >= @last] = count(); @last = nsecs; } END { clear(@last); }",
         "-n 100"),
    Case("elapsed is below a minute", U + "v_tick { @[elapsed < 60000000000] = count(); }"),
    Case("probe names the place", U + "v_tick { @[probe] = count(); }"),
    Case("func is an address in the function", U + "v_tick { @[func] = count(); }", rules=ADDRESS),
    Case("cpu is a small number", U + "v_tick { @[cpu < 4096] = count(); }", "-n 50 -t 4"),
    Case("str of a bad address is empty", U + 'v_add { printf("<%s>\\n", str(arg0)); }', "-n 3"),
    Case("a bad address reads as zero", U + "v_add { @[*(uint64 *)(arg0 + 8)] = count(); }"),
    Case("ntop of a number", U + "v_add { @[ntop(0x0100007f + (arg0 << 24))] = count(); }",
         "-n 3"),
    Case("cat prints a file", 'BEGIN { cat("/proc/sys/kernel/ostype"); exit(); }',
         attach="none"),
    Case("system runs a command", U + 'v_add { system("echo got %d", arg0); }', "-n 3",
         options=("--unsafe",)),
    Case("reg reads what arg reads", U + 'v_six { @[reg("di") == arg0, reg("r8") == arg4] ='
         " count(); }"),
    Case("rand differs from call to call",
         U + "v_tick { $r = rand; @[$r == @old] = count(); @old = $r; } END { clear(@old); }",
         drop="true"),
    # filters and flow
    Case("filter on an argument", U + "v_add /arg0 >= 3 && arg0 < 7/ { @[arg0] = count(); }"),
    Case("filter on comm", U + 'v_tick /comm == "t2"/ { @ = count(); }', "-n 9 -t 4"),
    Case("filter on a string argument", U + 'v_greet /str(arg0) == "bob"/ { @ = sum(arg1); }'),
    Case("filter with strncmp", U + 'v_greet /strncmp(str(arg0), "car", 3) == 0/'
         " { @ = count(); }"),
    Case("if and else", U + "v_add { if (arg0 & 1) { @odd = count(); } else { @even = sum(arg0);"
         " } }"),
    Case("ternary", U + 'v_add { @[arg0 > 6 ? "big" : "small"] = count(); }'),
    Case("unroll", U + "v_add { $i = 0; unroll(5) { @[$i] = sum(arg0); $i = $i + 1; } }"),
    Case("while", U + "v_add { $i = 0; while ($i < 6) { @[$i] = sum(arg0); $i++; } }"),
    Case("increment in one thread", U + "v_tick { @++; @two += 2; }", "-n 300"),
    Case("delete of a key", U + "v_add { @[arg0] = 1; if (arg0 > 5) { delete(@[arg0]); } }"),
    Case("clear and zero at the end", U + "v_add { @a[arg0] = count(); @b = count(); }"
         " END { clear(@a); zero(@b); }"),
    Case("print with top and divisor", U + "v_add { @[arg0] = sum(arg0 * 100); }"
         " END { print(@, 3, 10); clear(@); }"),
    Case("integer arithmetic", U + "v_scale { @[arg0] = (arg0 * 7 - 3) / 2 % 11; }", "-n 8"),
    Case("shifts and bits", U + "v_add { @[arg0] = ((arg0 << 3) | 1) ^ (arg0 >> 1); }"),
    Case("casts narrow", U + "v_scale { @[arg0] = (uint8)(arg0 * 100); }", "-n 6"),
    Case("positional parameters", U + "v_add /arg0 > $1/ { @[str($2)] = count(); }",
         arguments=("6", "late")),
    Case("a structure behind a pointer",
         "struct two { char a; char b; } "
         + U + "v_greet { $p = (struct two *)arg0; @[$p->a, $p->b] = count(); }"),
    Case("a byte behind a pointer", U + "v_greet { @[*(uint8 *)arg0] = count(); }"),
    # both ends of a function
    Case("latency between entry and return",
         U + "v_greet { @s[tid] = nsecs; } " + R + "v_greet /@s[tid]/ { @ok[nsecs > @s[tid]] ="
         " count(); delete(@s[tid]); }", "-n 40 -t 4"),
    Case("latency as a histogram",
         U + "v_greet { @s[tid] = nsecs; } " + R + "v_greet /@s[tid]/ { @h = hist(nsecs -"
         " @s[tid]); @n = count(); delete(@s[tid]); }", "-n 40", rules=LATENCY, drop="BUCKET"),
    Case("entry and return counts", U + "v_six { @e = count(); } " + R + "v_six"
         " { @r = sum(retval); }"),
    Case("recursion at entry", U + "v_fib { @[arg0] = count(); }", "-n 1 -r 8"),
    Case("recursion at return", R + "v_fib { @[retval] = count(); }", "-n 1 -r 8"),
    Case("depth of recursion", U + "v_fib { @d++; @max = max(@d); } " + R + "v_fib { @d--; }",
         "-n 1 -r 9"),
    # places
    Case("two probes on one function", U + "v_tick { @a = count(); } " + U + "v_tick { @b ="
         " count(); }"),
    Case("several functions in one probe", U + "v_tick," + U + "v_add," + U + "v_label"
         " { @[probe] = count(); }"),
    Case("wildcard", U + "v_s* { @[probe] = count(); }"),
    Case("function of a library", "uprobe:$V/libvictim.so:lib_work { @ = sum(arg0); }"),
    Case("return from a library", "uretprobe:$V/libvictim.so:lib_work { @ = sum(retval); }"),
    Case("function of a dlopen'ed library", "uprobe:$V/libplug.so:plug_work { @ = sum(arg0); }"
         " uretprobe:$V/libplug.so:plug_work { @r = sum(retval); }", "-n 20 -p $V/libplug.so"),
    Case("floating point is left alone",
         U + "v_half { @ = sum(arg0); } " + R + "v_half { @n = count(); }"),
    # processes
    Case("fork children are counted", U + "v_tick { @ = count(); }", "-n 50 -f 3"),
    Case("each fork child has its own pid", U + "v_tick { @[pid] = count(); }", "-n 50 -f 3",
         rules=PIDS),
    Case("threads in fork children", R + "v_add { @ = sum(retval); }", "-n 10 -t 4 -f 3"),
    Case("-p counts a running process", U + "v_add { @ = sum(arg0); }", "-n 500", "pid"),
    Case("-p counts a running process with threads", U + "v_tick { @[comm] = count(); }",
         "-n 100 -t 4", "pid"),
    Case("-p sees returns", R + "v_add { @ = stats(retval); }", "-n 100", "pid"),
    Case("-p and a filter on pid", U + "v_tick /pid == $1/ { @ = count(); }", "-n 33", "pid",
         arguments=("PID",)),
    # no target
    Case("BEGIN prints and exits", 'BEGIN { printf("hello %d\\n", 42); exit(); }', attach="none"),
    Case("BEGIN and END", 'BEGIN { @x = 3; exit(); } END { printf("end %d\\n", @x); }',
         attach="none"),
    Case("interval counts to three",
         'interval:ms:20 /@n < 3/ { @n++; if (@n == 3) { exit(); } } END { printf("n %d\\n", @n);'
         " clear(@n); }", attach="none"),
    Case("two intervals", "interval:ms:10 { @a = count(); } interval:ms:35 /@b < 2/ { @b++; "
         "if (@b == 2) { exit(); } } END { @more = @b; clear(@b); clear(@a); }", attach="none"),
    Case("exit from a uprobe", U + "v_add /arg0 == 4/ { @ = count(); exit(); }", "-n 10"),
    Case("time and strftime are formatted", 'BEGIN { time("T%%\\n"); exit(); }', attach="none"),
    Case("maps with many keys", U + "v_value { @[arg0] = sum(arg0); } END { print(@, 2);"
         " clear(@); }", "-n 3000 -m tick"),
)
