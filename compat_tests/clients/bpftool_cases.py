"""bpftool command lines that must answer under the shim as on the kernel.

A case is a list of lines of one shell, $B being the bpffs and $V the folder of the victims; every
bpftool of it is a process of its own, so what one makes the next ones find. The expected answers
are in bpftool_expected.json, recorded from the kernel by record.py and read over.
"""

from __future__ import annotations

from dataclasses import dataclass

Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Case:
    """held: while a loader (build.held) holds its objects. names: of a list, only these."""

    name: str
    lines: tuple[str, ...]
    held: bool = False
    names: tuple[str, ...] = ()
    rules: Rules = ()


MAPS = ("pairs", "by_name")
PROGS = ("straight", "calls_twice", "uses_maps", "first_byte")
HELD = ("bt_tick", "bt_add", "bt_greet", "bt_six", "bt_step", "bt_lib", "bt_scaled", "bt_label",
         "bt_tallies", "bt_by_process", "bt_per_cpu", "bt_events", "held.bss")
# Here are more possible CPUs than the machine has: the first two count.
CPUS: Rules = ((r"^\s*value \(CPU (0[2-9]|[1-9]\d)\):.*\n", ""),
               (r'(,\{"cpu":\d+,"value":(\[[^]]*\]|\d+)\})(?=,\{"cpu"|\]\})', ""))
# The kernel's instructions are those after its own rewriting.
XLATED: Rules = ((r"xlated \d+B", "xlated BYTES"),
                 (r'"bytes_xlated":\d+', '"bytes_xlated":BYTES'))

CASES = (
    Case("an array", (
        "bpftool map create $B/m type array key 4 value 8 entries 2 name m flags 0",
        "bpftool map show pinned $B/m",
        "bpftool -j map show pinned $B/m",
        "bpftool map update pinned $B/m key 1 0 0 0 value 1 2 3 4 5 6 7 8",
        "bpftool map lookup pinned $B/m key 1 0 0 0",
        "bpftool -j map lookup pinned $B/m key 1 0 0 0",
        "bpftool map lookup pinned $B/m key 2 0 0 0",
        "bpftool -j map lookup pinned $B/m key 2 0 0 0",
        "bpftool map dump pinned $B/m",
        "bpftool -j map dump pinned $B/m",
        "bpftool -jp map dump pinned $B/m",
        "bpftool map getnext pinned $B/m",
        "bpftool map getnext pinned $B/m key 0 0 0 0",
        "bpftool -j map getnext pinned $B/m key 0 0 0 0",
        "bpftool map getnext pinned $B/m key 1 0 0 0",
        "bpftool map delete pinned $B/m key 1 0 0 0",
        "bpftool map update pinned $B/m key 1 0 0 0 value 1 2 3 4 5 6 7 8 noexist",
        "bpftool map update pinned $B/m key 2 0 0 0 value 1 2 3 4 5 6 7 8",
        "bpftool map update pinned $B/m key 1 0 0 value 1 2 3 4 5 6 7 8",
        "bpftool map update pinned $B/m key 1 0 0 0 value 1 2 3",
        "bpftool map push pinned $B/m value 1 0 0 0 0 0 0 0",
        "bpftool map pop pinned $B/m",
        "rm $B/m",
        "bpftool map show pinned $B/m",
    )),
    Case("a hash", (
        "bpftool map create $B/h type hash key 4 value 4 entries 3 name h flags 1",
        "bpftool map show pinned $B/h",
        "bpftool map dump pinned $B/h",
        "bpftool -j map dump pinned $B/h",
        "bpftool map getnext pinned $B/h",
        "bpftool map lookup pinned $B/h key 0 0 0 0",
        "bpftool map update pinned $B/h key hex aa bb cc dd value hex 00 11 22 33 exist",
        "bpftool map update pinned $B/h key hex aa bb cc dd value hex 00 11 22 33 noexist",
        "bpftool map update pinned $B/h key hex aa bb cc dd value hex 00 11 22 34 noexist",
        "bpftool map update pinned $B/h key hex aa bb cc dd value hex 00 11 22 35 any",
        "bpftool map dump pinned $B/h",
        "bpftool map getnext pinned $B/h",
        "bpftool -j map getnext pinned $B/h key hex aa bb cc dd",
        "bpftool map delete pinned $B/h key 1 2 3 4",
        "bpftool map delete pinned $B/h key hex aa bb cc dd",
        "bpftool map dump pinned $B/h",
        "for i in 1 2 3 4; do bpftool map update pinned $B/h key $i 0 0 0 value 0 0 0 0; done",
        "bpftool map dump pinned $B/h | sort",
        "rm $B/h",
    )),
    Case("per-CPU maps", (
        "bpftool map create $B/pa type percpu_array key 4 value 8 entries 1 name pa",
        "bpftool map create $B/ph type percpu_hash key 4 value 4 entries 2 name ph",
        "bpftool map show pinned $B/pa",
        "bpftool map update pinned $B/pa key 0 0 0 0 value 1 2 3 4 5 6 7 8",
        "bpftool map lookup pinned $B/pa key 0 0 0 0",
        "bpftool map dump pinned $B/pa",
        "bpftool -j map dump pinned $B/pa",
        "bpftool map update pinned $B/ph key 0 0 0 0 value 1 2 3 4",
        "bpftool map dump pinned $B/ph",
        "bpftool -j map lookup pinned $B/ph key 0 0 0 0",
        "rm $B/pa $B/ph",
    ), rules=CPUS),
    Case("a queue and a stack", (
        "bpftool map create $B/q type queue key 0 value 4 entries 2 name q",
        "bpftool map create $B/s type stack key 0 value 4 entries 2 name s",
        "bpftool map show pinned $B/q",
        "bpftool map show pinned $B/s",
        "bpftool map peek pinned $B/q",
        "bpftool map pop pinned $B/q",
        "bpftool map dequeue pinned $B/q",
        "bpftool map enqueue pinned $B/q value 1 0 0 0",
        "bpftool map enqueue pinned $B/q value 2 0 0 0",
        "bpftool map enqueue pinned $B/q value 3 0 0 0",
        "bpftool map peek pinned $B/q",
        "bpftool -j map peek pinned $B/q",
        "bpftool map dequeue pinned $B/q",
        "bpftool -j map dequeue pinned $B/q",
        "bpftool -j map dequeue pinned $B/q",
        "bpftool map push pinned $B/s value 1 0 0 0",
        "bpftool map push pinned $B/s value 2 0 0 0",
        "bpftool map push pinned $B/s value 3 0 0 0",
        "bpftool map peek pinned $B/s",
        "bpftool map pop pinned $B/s",
        "bpftool map pop pinned $B/s",
        "bpftool map pop pinned $B/s",
        "bpftool map dump pinned $B/q",
        "bpftool map delete pinned $B/q key 0 0 0 0",
        "bpftool map lookup pinned $B/s",
        "rm $B/q $B/s",
    )),
    Case("maps that forget, and prefixes", (
        "bpftool map create $B/lru type lru_hash key 4 value 4 entries 2 name lru",
        "bpftool map create $B/lpm type lpm_trie key 8 value 4 entries 8 name lpm flags 1",
        "bpftool map create $B/lpm2 type lpm_trie key 8 value 4 entries 8 name lpm2",
        "bpftool map show pinned $B/lru",
        "bpftool map show pinned $B/lpm",
        "bpftool map update pinned $B/lru key 1 0 0 0 value 1 0 0 0",
        "bpftool map lookup pinned $B/lru key 1 0 0 0",
        "bpftool map update pinned $B/lpm key 16 0 0 0 10 1 0 0 value 1 0 0 0",
        "bpftool map update pinned $B/lpm key 8 0 0 0 10 0 0 0 value 2 0 0 0",
        "bpftool map update pinned $B/lpm key 33 0 0 0 10 0 0 0 value 3 0 0 0",
        "bpftool map lookup pinned $B/lpm key 32 0 0 0 10 1 2 3",
        "bpftool map lookup pinned $B/lpm key 32 0 0 0 10 2 2 3",
        "bpftool map lookup pinned $B/lpm key 32 0 0 0 11 2 2 3",
        "bpftool map dump pinned $B/lpm",
        "bpftool map getnext pinned $B/lpm",
        "bpftool map delete pinned $B/lpm key 8 0 0 0 10 0 0 0",
        "bpftool map delete pinned $B/lpm key 8 0 0 0 10 0 0 0",
        "bpftool map dump pinned $B/lpm",
        "rm $B/lru $B/lpm",
    )),
    Case("a bloom filter", (
        "bpftool map create $B/b type bloom_filter key 0 value 4 entries 10 name b",
        "bpftool map show pinned $B/b",
        "bpftool map push pinned $B/b value 1 0 0 0",
        "bpftool map peek pinned $B/b",
        "bpftool map pop pinned $B/b",
        "bpftool map dump pinned $B/b",
        "rm $B/b",
    )),
    Case("maps of maps and of programs", (
        "bpftool prog loadall $V/plain.bpf.o $B/progs",
        "bpftool map create $B/in type array key 4 value 4 entries 1 name in",
        "bpftool map create $B/big type array key 4 value 4 entries 2 name big",
        "bpftool map create $B/out type array_of_maps key 4 value 4 entries 2 name out "
        "inner_map pinned $B/in",
        "bpftool map create $B/outh type hash_of_maps key 4 value 4 entries 2 name outh "
        "inner_map pinned $B/in",
        "bpftool map create $B/none type array_of_maps key 4 value 4 entries 2 name none",
        "bpftool map create $B/pa type prog_array key 4 value 4 entries 2 name pa",
        "bpftool map show pinned $B/out",
        "bpftool map show pinned $B/pa",
        "bpftool map update pinned $B/out key 0 0 0 0 value pinned $B/in",
        "bpftool map update pinned $B/out key 0 0 0 0 value pinned $B/big",
        "bpftool map update pinned $B/out key 0 0 0 0 value pinned $B/out",
        "bpftool map update pinned $B/outh key 7 0 0 0 value pinned $B/in",
        "bpftool map update pinned $B/pa key 0 0 0 0 value pinned $B/progs/straight",
        "bpftool map update pinned $B/pa key 1 0 0 0 value pinned $B/progs/first_byte",
        "bpftool map show pinned $B/pa",
        "bpftool -j map show pinned $B/pa",
        "bpftool map dump pinned $B/out",
        "bpftool map dump pinned $B/outh",
        "bpftool map dump pinned $B/pa",
        "bpftool -j map dump pinned $B/out",
        "bpftool map delete pinned $B/out key 0 0 0 0",
        "bpftool map delete pinned $B/pa key 0 0 0 0",
        "bpftool map dump pinned $B/pa",
        "rm -r $B/progs $B/in $B/big $B/out $B/outh $B/pa",
    ), rules=((r"value: \w\w \w\w \w\w \w\w", "value: ID"),
              (r'"value":\[[^]]*\]', '"value":[ID]'))),
    Case("an event pipe", (
        "bpftool map create $B/pe type perf_event_array key 4 value 4 entries 8 name pe",
        "timeout --foreground -s INT 0.3 bpftool map event_pipe pinned $B/pe",
        "timeout --foreground -s INT 0.3 bpftool map event_pipe pinned $B/pe cpu 0 index 1",
        "bpftool map event_pipe pinned $B/pe cpu 0",
        "bpftool map create $B/h type hash key 4 value 4 entries 1 name h",
        "bpftool map event_pipe pinned $B/h",
        "bpftool map dump pinned $B/pe | tail -1",
        "rm $B/pe $B/h",
    )),
    Case("a frozen map", (
        "bpftool map create $B/f type array key 4 value 4 entries 1 name f",
        "bpftool map update pinned $B/f key 0 0 0 0 value 1 0 0 0",
        "bpftool map freeze pinned $B/f",
        "bpftool map show pinned $B/f",
        "bpftool -j map show pinned $B/f",
        "bpftool map update pinned $B/f key 0 0 0 0 value 2 0 0 0",
        "bpftool map delete pinned $B/f key 0 0 0 0",
        "bpftool map dump pinned $B/f",
        "bpftool map freeze pinned $B/f",
        "rm $B/f",
    )),
    Case("what cannot be created", (
        "bpftool map create $B/x type array key 8 value 4 entries 1 name x",
        "bpftool map create $B/x type array key 4 value 0 entries 1 name x",
        "bpftool map create $B/x type array key 4 value 4 entries 0 name x",
        "bpftool map create $B/x type hash key 0 value 4 entries 1 name x",
        "bpftool map create $B/x type hash key 4 value 4 entries 4294967295 name x",
        "bpftool map create $B/x type ringbuf key 0 value 0 entries 4095 name x",
        "bpftool map create $B/x type queue key 4 value 4 entries 1 name x",
        "bpftool map create $B/x type hash key 4 value 4 entries 1 name a-b",
        "bpftool map create $B/x type hash key 4 value 4 entries 1 name x flags 0x80000000",
        "bpftool map create $B/x type nonsense key 4 value 4 entries 1 name x",
        "bpftool map create $B/x.y type hash key 4 value 4 entries 1 name x",
        "ls $B | grep -v debug",
    )),
    Case("what is not there", (
        "bpftool prog show id 4294967290",
        "bpftool map dump id 4294967290",
        "bpftool link show id 4294967290",
        "bpftool btf dump id 4294967290",
        "bpftool btf show id 4294967290",
        "bpftool -j map show id 4294967290",
        "bpftool map show name none_of_that",
        "bpftool map dump name none_of_that",
        "bpftool prog show name none_of_that",
        "bpftool prog dump xlated name none_of_that",
        "bpftool prog show tag 0123456789abcdef",
        "bpftool prog show pinned $B/none",
        "bpftool map show pinned $B",
        "bpftool map show pinned /etc/passwd",
        "bpftool prog load $V/none.o $B/p",
        "bpftool prog load /etc/passwd $B/p 2>&1 | tail -1",
    )),
    Case("names in bpffs", (
        "bpftool map create $B/m type array key 4 value 8 entries 2 name m",
        "touch $B/x",
        "echo hi > $B/x",
        "echo hi > $B/m",
        "cat $B/m",
        "mkdir $B/d",
        "mkdir $B/d.e",
        "mkdir -p $B/a/b",
        "bpftool map pin pinned $B/m $B/d/m2",
        "bpftool map pin pinned $B/m $B/d/m.2",
        "bpftool map pin pinned $B/m $B/nothing/m",
        "bpftool map pin pinned $B/m $B/m",
        "bpftool map pin pinned $B/m $B/d",
        "bpftool map show pinned $B/d",
        "bpftool prog show pinned $B/m",
        "ln -s $B/m $B/lnk",
        "bpftool map show pinned $B/lnk",
        "ln -s m $B/lnk2",
        "bpftool -j map dump pinned $B/lnk2",
        "ln $B/m $B/hard",
        "rm $B/m",
        "bpftool map show pinned $B/hard",
        "mv $B/hard $B/d/moved",
        "bpftool map show pinned $B/d/moved",
        "rmdir $B/d",
        "ls $B $B/d $B/a | grep -v debug",
        "cd $B/d && ls && bpftool map show pinned ./moved; cd /",
        "stat -f -c %T $B $B/d",
        "stat -c '%F %a %s' $B/d/moved",
        "rm -rf $B/d",
        "bpftool map show pinned $B/d/moved",
        "rm -r $B/a $B/lnk $B/lnk2",
        "ls $B | grep -v debug",
    )),
    Case("pinned paths of all maps", (
        "bpftool map create $B/q type hash key 4 value 4 entries 2 name q_everywhere",
        "mkdir $B/d",
        "bpftool map pin pinned $B/q $B/d/again",
        "bpftool -f map show name q_everywhere | sort",
        "bpftool -f -j map show name q_everywhere | tr '[],' '\\n\\n\\n' | grep bpf/ | sort",
        "bpftool map show name q_everywhere",
        "rm -r $B/d $B/q",
        "bpftool -f map show name q_everywhere",
    )),
    Case("objects of a loader that runs", (
        "bpftool prog list",
        "bpftool -j prog list",
        "bpftool map list",
        "bpftool -j map list",
        "bpftool map show name bt_by_process",
        "bpftool prog show name bt_add",
        "bpftool map dump name bt_tallies",
        "bpftool -j map dump name bt_by_process",
        "bpftool map dump name held.bss",
        "bpftool map lookup name bt_tallies key 3 0 0 0",
        "bpftool -j map lookup name bt_tallies key 3 0 0 0",
        "bpftool map update name bt_tallies key 3 0 0 0 value 1 0 0 0 0 0 0 0 2 0 0 0 0 0 0 0",
        "bpftool map lookup name bt_tallies key 3 0 0 0",
        "bpftool map getnext name bt_tallies key 3 0 0 0",
        "bpftool map dump name bt_events",
        "bpftool btf dump map name bt_tallies",
        "bpftool btf dump map name bt_tallies key",
        "bpftool btf dump map name bt_by_process value",
        "bpftool btf dump map name bt_tallies format c",
        "bpftool -j btf dump map name bt_by_process kv",
        "bpftool btf dump prog name bt_add format c",
        "I=$(bpftool map show name bt_tallies | sed -n 's/.*btf_id //p')",
        "bpftool btf show id $I",
        "bpftool -j btf show id $I",
        "bpftool btf dump id $I | tail -3",
        "bpftool -j btf dump id $I | cut -c1-300",
        "bpftool btf dump prog name bt_add | tail -3",
    ), held=True, names=HELD, rules=(*CPUS, *XLATED)),
    Case("links of a loader that runs", (
        "bpftool prog list",
        "bpftool link list",
        "bpftool -j link list",
        "bpftool btf list",
        "bpftool -j btf list",
        "P=$(bpftool prog show name bt_add | sed -n 's/^\\([0-9]*\\):.*/\\1/p'); "
        "L=$(bpftool link list | sed -n \"s/^\\([0-9]*\\): perf_event  prog $P .*/\\1/p\"); ",
        "bpftool link show id $L",
        "bpftool perf list | grep $V",
        "bpftool link pin id $L $B/link",
        "bpftool link show pinned $B/link",
        "bpftool -j link show pinned $B/link",
        "bpftool -f link show id $L; true",  # later ones end with whether errno is ENOENT by then
        "bpftool map show pinned $B/link",
        "bpftool link detach id $L",
        "rm $B/link",
        "bpftool link show id $L",
    ), held=True, names=HELD, rules=XLATED),
    Case("load, show, pin, unload", (
        "bpftool prog loadall $V/plain.bpf.o $B/progs pinmaps $B/maps",
        "ls $B/progs $B/maps",
        "bpftool prog show pinned $B/progs/straight",
        "bpftool -j prog show pinned $B/progs/straight",
        "bpftool prog list",
        "bpftool map list",
        "bpftool prog pin pinned $B/progs/straight $B/again",
        "bpftool prog show pinned $B/again",
        "bpftool prog pin name first_byte $B/byname",
        "bpftool prog show pinned $B/byname",
        "bpftool map dump pinned $B/maps/by_name",
        "bpftool map update pinned $B/maps/pairs key 9 0 0 0 value 1 0 0 0 2 0 3 0",
        "bpftool map dump pinned $B/maps/pairs",
        "bpftool -j map dump pinned $B/maps/pairs",
        "bpftool btf dump map pinned $B/maps/pairs value",
        "bpftool btf dump prog pinned $B/progs/straight | tail -4",
        "rm -r $B/progs",
        "gone bpftool prog show name uses_maps",
        "bpftool prog list",
        "rm -r $B/again $B/byname $B/maps",
        "gone bpftool map show name pairs",
        "gone bpftool prog show name straight",
        "gone bpftool prog show name first_byte",
    ), names=(*PROGS, *MAPS), rules=(
        (r"(name (uses_maps|first_byte|calls_twice).*\n.*\n\s*xlated) \d+B", r"\1 BYTES"),)),
    Case("one program and the maps of another", (
        "bpftool map create $B/mine type hash key 4 value 8 entries 16 name mine",
        "bpftool prog load $V/tool.bpf.o $B/p map name pairs pinned $B/mine",
        "bpftool prog show pinned $B/p",
        "bpftool map show pinned $B/mine",
        "bpftool prog load $V/tool.bpf.o $B/p",
        "bpftool prog load $V/tool.bpf.o $B/q",
        "bpftool map show pinned $B/by_name",
        "ls $B | grep -v debug",
        "rm $B/p $B/q $B/mine $B/by_name",
    )),
    Case("instructions as loaded", (
        "bpftool prog loadall $V/plain.bpf.o $B/progs",
        "bpftool prog dump xlated pinned $B/progs/straight",
        "bpftool prog dump xlated pinned $B/progs/straight linum | head -5",
        "bpftool prog dump xlated pinned $B/progs/straight opcodes | head -12",
        "bpftool -j prog dump xlated pinned $B/progs/straight",
        "bpftool prog dump xlated pinned $B/progs/straight visual | head -5",
        "bpftool prog dump xlated pinned $B/progs/straight file /tmp/dump.$$; "
        "wc -c < /tmp/dump.$$; rm /tmp/dump.$$",
        "bpftool prog dump xlated pinned $B/progs/calls_twice",
        "bpftool -j prog dump xlated pinned $B/progs/calls_twice",
        "bpftool prog dump jited pinned $B/progs/straight",
        "bpftool -j prog dump jited pinned $B/progs/straight",
        "rm -r $B/progs",
    )),
    Case("a program run", (
        "bpftool prog loadall $V/plain.bpf.o $B/progs",
        "printf 'hello world, hello' > /tmp/in.$$",
        "bpftool prog run pinned $B/progs/first_byte data_in /tmp/in.$$ repeat 3",
        "bpftool -j prog run pinned $B/progs/first_byte data_in /tmp/in.$$ data_out -",
        "bpftool prog run pinned $B/progs/first_byte",
        "printf 'aaaaaaaabbbbbbbb' | bpftool prog run pinned $B/progs/straight ctx_in -",
        "rm -r $B/progs /tmp/in.$$",
    ), rules=((r"duration \(average\): \d+ns", "duration (average): TIME"),
              (r'"duration":\d+', '"duration":TIME'))),
)


@dataclass(frozen=True)
class Difference:
    """What docs/parity.md says is not as on the kernel. in_parity: the row's first words. kernel,
    here: answers to the last line."""

    case: Case
    in_parity: str
    kernel: tuple[str, ...]
    here: tuple[str, ...]


LOAD = "bpftool prog loadall $V/plain.bpf.o $B/p pinmaps $B/m"

DIFFERENCES = (
    Difference(
        Case("lookups in xlated dumps", (LOAD, "bpftool prog dump xlated pinned $B/p/uses_maps | "
                                         "grep -c 'call bpf_map_lookup'")),
        "xlated instructions", ("0", "status 1"), ("1",)),
    Difference(
        Case("contexts in xlated dumps", (LOAD, "bpftool prog dump xlated pinned $B/p/first_byte "
                                          "| grep -c 'u64 \\*)(r1 '")),
        "xlated instructions", ("2",), ("0", "status 1")),
    Difference(
        Case("memory of a map", (
            "bpftool map create $B/m type array key 4 value 4 entries 1 name m",
            "bpftool -j map show pinned $B/m | grep -c '\"bytes_memlock\":8192,'")),
        "memlock", ("0", "status 1"), ("1",)),
    Difference(
        Case("a pin read as a file", (LOAD, "tail -1 $B/m/by_name")),
        "reading a pinned map", ("1: 0",),
        ("tail: cannot open '/sys/fs/bpf/m/by_name' for reading: Input/output error", "status 1")),
    Difference(
        Case("a fresh bpffs", ("ls $B; stat -c '%a' $B",)),
        "`maps.debug`", ("maps.debug", "progs.debug", "1777"), ("700",)),
    Difference(
        Case("a name elsewhere that leads in", (
            "bpftool map create $B/m type array key 4 value 4 entries 1 name m",
            "ln -s $B/m /tmp/link.$$; bpftool map show pinned /tmp/link.$$ | grep -c array; "
            "rm /tmp/link.$$"), rules=((r"link\.\d+", "link.$$"),)),
        "names outside", ("1",),
        ("Error: bpf obj get (/tmp/link.$$): No such file or directory", "0")),
)
