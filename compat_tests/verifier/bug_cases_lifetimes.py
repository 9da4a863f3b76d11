"""Cases of test_bug_classes.py: class, name, program, type, the kernel's errno and last line.

Classes g, lifetimes, and h, resources. {words} are macros of the test. The errno and the
line are what Linux 6.18 answers.
"""

from __future__ import annotations

CASES: tuple[tuple[str, str, str, str, int, str], ...] = (
    ("g", "a record given back",
     "{reserve}; if r0 == 0 goto out; r1 = r0; r2 = 0; call 132; out: {end}",
     "sched_cls", 0, ""),
    ("g", "a record thrown away",
     "{reserve}; if r0 == 0 goto out; r1 = r0; r2 = 0; call 133; out: {end}",
     "sched_cls", 0, ""),
    ("g", "a record kept",
     "{reserve}; if r0 == 0 goto out; *(u64 *)(r0 + 0) = 1; out: {end}",
     "sched_cls", 22, "BPF_EXIT instruction in main prog would lead to reference leak"),
    ("g", "a record that may be NULL given back",
     "{reserve}; r1 = r0; r2 = 0; call 132; {end}",
     "sched_cls", 13, "R1 type=ringbuf_mem_or_null expected=ringbuf_mem"),
    ("g", "a record given back twice",
     "{reserve}; if r0 == 0 goto out; r6 = r0; r1 = r0; r2 = 0; call 132; r1 = r6; r2 = 0; "
     "call 132; out: {end}",
     "sched_cls", 13, "R1 type=scalar expected=ringbuf_mem"),
    ("g", "a record used after it was given back",
     "{reserve}; if r0 == 0 goto out; r6 = r0; r1 = r0; r2 = 0; call 132; "
     "*(u64 *)(r6 + 0) = 1; out: {end}",
     "sched_cls", 13, "R6 invalid mem access 'scalar'"),
    ("g", "a spilled record used after it was given back",
     "{reserve}; if r0 == 0 goto out; *(u64 *)(r10 - 8) = r0; r1 = r0; r2 = 0; call 132; "
     "r6 = *(u64 *)(r10 - 8); *(u64 *)(r6 + 0) = 1; out: {end}",
     "sched_cls", 13, "R6 invalid mem access 'scalar'"),
    ("g", "a part of a record used after it was given back",
     "{reserve}; if r0 == 0 goto out; r6 = r0; r6 += 8; r1 = r0; r2 = 0; call 132; "
     "*(u64 *)(r6 + 0) = 1; out: {end}",
     "sched_cls", 13, "R6 invalid mem access 'scalar'"),
    ("g", "a record given back on one branch",
     "{reserve}; if r0 == 0 goto out; r6 = *(u64 *)(r0 + 0); if r6 == 0 goto out; r1 = r0; "
     "r2 = 0; call 132; out: {end}",
     "sched_cls", 22, "BPF_EXIT instruction in main prog would lead to reference leak"),
    ("g", "a record given back on both branches",
     "{reserve}; if r0 == 0 goto out; r1 = r0; r6 = *(u64 *)(r0 + 0); r2 = 0; "
     "if r6 == 0 goto other; call 132; goto out; other: call 133; out: {end}",
     "sched_cls", 0, ""),
    ("g", "two records, one given back twice",
     "{reserve}; if r0 == 0 goto out; r6 = r0; {reserve}; if r0 == 0 goto one; r7 = r0; "
     "r1 = r6; r2 = 0; call 132; r1 = r6; r2 = 0; call 132; goto out; one: r1 = r6; "
     "r2 = 0; call 132; out: {end}",
     "sched_cls", 13, "R1 type=scalar expected=ringbuf_mem"),
    ("g", "two records, each given back",
     "{reserve}; if r0 == 0 goto out; r6 = r0; {reserve}; if r0 == 0 goto one; r1 = r0; "
     "r2 = 0; call 132; one: r1 = r6; r2 = 0; call 132; out: {end}",
     "sched_cls", 0, ""),
    ("g", "a value in the place of a record",
     "{lookup}; if r0 == 0 goto out; r1 = r0; r2 = 0; call 132; out: {end}",
     "sched_cls", 13, "R1 type=map_value expected=ringbuf_mem"),
    ("g", "the stack in the place of a record",
     "r1 = r10; r1 += -16; r2 = 0; call 132; {end}",
     "sched_cls", 13, "R1 type=fp expected=ringbuf_mem"),
    ("g", "a record given back by a function",
     "{reserve}; if r0 == 0 goto out; r1 = r0; call f; out: {end}; f: r2 = 0; call 132; "
     "{end}",
     "sched_cls", 0, ""),
    ("g", "a record that a function took",
     "r6 = r1; call f; if r0 == 0 goto out; r1 = r0; r2 = 0; call 132; out: {end}; "
     "f: {reserve}; exit",
     "sched_cls", 0, ""),
    ("g", "a record that a function took, kept",
     "r6 = r1; call f; {end}; f: {reserve}; exit",
     "sched_cls", 22, "BPF_EXIT instruction in main prog would lead to reference leak"),
    ("g", "a record used after a function gave it back",
     "{reserve}; if r0 == 0 goto out; r6 = r0; r1 = r0; call f; *(u64 *)(r6 + 0) = 1; "
     "out: {end}; f: r2 = 0; call 132; {end}",
     "sched_cls", 13, "R6 invalid mem access 'scalar'"),
    ("g", "a record over a tail call",
     "r6 = r1; {reserve}; if r0 == 0 goto out; r7 = r0; r1 = r6; r2 = map 2; r3 = 0; "
     "call 12; r1 = r7; r2 = 0; call 132; out: {end}",
     "sched_cls", 22, "tail_call would lead to reference leak"),
    ("g", "a record before a tail call",
     "r6 = r1; {reserve}; if r0 == 0 goto next; r1 = r0; r2 = 0; call 132; next: r1 = r6; "
     "r2 = map 2; r3 = 0; call 12; {end}",
     "sched_cls", 0, ""),
    ("g", "a record over a tail call in a function",
     "r6 = r1; {reserve}; if r0 == 0 goto out; r7 = r0; r1 = r6; call f; r1 = r7; r2 = 0; "
     "call 132; out: {end}; f: r2 = map 2; r3 = 0; call 12; {end}",
     "sched_cls", 0, ""),
    ("g", "a record over a packet load",
     "r6 = r1; {reserve}; if r0 == 0 goto out; r7 = r0; r0 = *(u8 *)skb[0]; r1 = r7; "
     "r2 = 0; call 132; out: {end}",
     "sched_cls", 22, "BPF_LD_[ABS|IND] would lead to reference leak"),
    ("g", "a record over a callback",
     "{reserve}; if r0 == 0 goto out; r6 = r0; r1 = 4; r2 = func f; r3 = 0; r4 = 0; "
     "call 181; r1 = r6; r2 = 0; call 132; out: {end}; f: {end}",
     "sched_cls", 0, ""),
    ("g", "a record that a callback keeps",
     "r1 = 4; r2 = func f; r3 = 0; r4 = 0; call 181; {end}; f: {reserve}; {end}",
     "sched_cls", 22, "BPF_EXIT instruction in main prog would lead to reference leak"),
    ("g", "a record that a callback takes and gives back",
     "r1 = 4; r2 = func f; r3 = 0; r4 = 0; call 181; {end}; f: {reserve}; "
     "if r0 == 0 goto none; r1 = r0; r2 = 0; call 132; none: {end}",
     "sched_cls", 0, ""),
    ("g", "its caller's record, given back by a callback",
     "{reserve}; if r0 == 0 goto out; *(u64 *)(r10 - 8) = r0; r1 = 4; r2 = func f; "
     "r3 = r10; r3 += -8; r4 = 0; call 181; out: {end}; f: r1 = *(u64 *)(r2 + 0); r2 = 0; "
     "call 132; {end}",
     "sched_cls", 22, "BPF_EXIT instruction in main prog would lead to reference leak"),
    ("g", "a record in each round of a loop, given back",
     "r6 = 0; loop: {reserve}; if r0 == 0 goto out; r1 = r0; r2 = 0; call 132; r6 += 1; "
     "if r6 < 4 goto loop; out: {end}",
     "sched_cls", 0, ""),
    ("g", "a record in each round of a loop, the last one given back",
     "r6 = 0; loop: {reserve}; if r0 == 0 goto out; r7 = r0; r6 += 1; if r6 < 4 goto loop; "
     "r1 = r7; r2 = 0; call 132; out: {end}",
     "sched_cls", 22, "BPF_EXIT instruction in main prog would lead to reference leak"),
    ("g", "a record's address in a map",
     "{lookup}; if r0 == 0 goto out; r6 = r0; {reserve}; if r0 == 0 goto out; "
     "*(u64 *)(r6 + 0) = r0; r1 = r0; r2 = 0; call 132; out: {end}",
     "sched_cls", 0, ""),
    ("g", "a dynptr of the ring buffer, given back",
     "{ring_dynptr}; r1 = r10; r1 += -16; r2 = 0; call 199; {end}",
     "sched_cls", 0, ""),
    ("g", "a dynptr of the ring buffer, kept",
     "{ring_dynptr}; {end}",
     "sched_cls", 22, "BPF_EXIT instruction in main prog would lead to reference leak"),
    ("g", "a dynptr of the ring buffer, given back twice",
     "{ring_dynptr}; r1 = r10; r1 += -16; r2 = 0; call 199; r1 = r10; r1 += -16; r2 = 0; "
     "call 199; {end}",
     "sched_cls", 22, "arg 1 is an unacquired reference"),
    ("g", "a slice used after its dynptr was given back",
     "{ring_dynptr}; r1 = r10; r1 += -16; r2 = 0; r3 = 8; call 203; r6 = r0; r1 = r10; "
     "r1 += -16; r2 = 0; call 199; if r6 == 0 goto out; *(u64 *)(r6 + 0) = 1; out: {end}",
     "sched_cls", 13, "R6 invalid mem access 'scalar'"),
    ("g", "a slice used before its dynptr is given back",
     "{ring_dynptr}; r1 = r10; r1 += -16; r2 = 0; r3 = 8; call 203; r6 = r0; "
     "if r6 == 0 goto out; *(u64 *)(r6 + 0) = 1; out: r1 = r10; r1 += -16; r2 = 0; "
     "call 199; {end}",
     "sched_cls", 0, ""),
    ("g", "a lock given back",
     "{lookup_locked}; if r0 == 0 goto out; r6 = r0; {lock r6}; {unlock r6}; out: {end}",
     "sched_cls", 0, ""),
    ("g", "a lock kept",
     "{lookup_locked}; if r0 == 0 goto out; r6 = r0; {lock r6}; out: {end}",
     "sched_cls", 22, "BPF_EXIT instruction in main prog cannot be used inside bpf_spin_loc"),
    ("g", "a lock given back twice",
     "{lookup_locked}; if r0 == 0 goto out; r6 = r0; {lock r6}; {unlock r6}; {unlock r6}; "
     "out: {end}",
     "sched_cls", 22, "bpf_spin_unlock without taking a lock"),
    ("g", "a lock of another value given back",
     "{lookup_locked}; if r0 == 0 goto out; r6 = r0; {lookup_locked}; if r0 == 0 goto out; "
     "r7 = r0; {lock r6}; r1 = r7; r1 += 8; call 94; out: {end}",
     "sched_cls", 22, "bpf_spin_unlock of different lock"),
    ("g", "a helper called under a lock",
     "{lookup_locked}; if r0 == 0 goto out; r6 = r0; {lock r6}; call 7; {unlock r6}; "
     "out: {end}",
     "sched_cls", 22, "function calls are not allowed while holding a lock"),
    ("g", "a function called under a lock",
     "{lookup_locked}; if r0 == 0 goto out; r6 = r0; {lock r6}; call f; {unlock r6}; "
     "out: {end}; f: {end}",
     "sched_cls", 0, ""),
    ("g", "a lock given back by a function",
     "{lookup_locked}; if r0 == 0 goto out; r6 = r0; {lock r6}; r1 = r6; call f; "
     "out: {end}; f: r1 += 8; call 94; {end}",
     "sched_cls", 0, ""),
    ("g", "a lock that a function took",
     "{lookup_locked}; if r0 == 0 goto out; r6 = r0; r1 = r6; call f; {unlock r6}; "
     "out: {end}; f: r1 += 8; call 93; {end}",
     "sched_cls", 0, ""),
    ("g", "a tail call under a lock",
     "r9 = r1; {lookup_locked}; if r0 == 0 goto out; r6 = r0; {lock r6}; r1 = r9; "
     "r2 = map 2; r3 = 0; call 12; {unlock r6}; out: {end}",
     "sched_cls", 22, "function calls are not allowed while holding a lock"),
    ("g", "a callback under a lock",
     "{lookup_locked}; if r0 == 0 goto out; r6 = r0; {lock r6}; r1 = 4; r2 = func f; "
     "r3 = 0; r4 = 0; call 181; {unlock r6}; out: {end}; f: {end}",
     "sched_cls", 22, "function calls are not allowed while holding a lock"),
    ("g", "a packet load under a lock",
     "r9 = r1; {lookup_locked}; if r0 == 0 goto out; r7 = r0; r6 = r7; {lock r6}; r6 = r9; "
     "r0 = *(u8 *)skb[0]; r6 = r7; {unlock r6}; out: {end}",
     "sched_cls", 22, "BPF_LD_[ABS|IND] cannot be used inside bpf_spin_lock-ed region"),
    ("g", "a lock taken twice",
     "{lookup_locked}; if r0 == 0 goto out; r6 = r0; {lock r6}; {lock r6}; {unlock r6}; "
     "out: {end}",
     "sched_cls", 22, "function calls are not allowed while holding a lock"),
    ("g", "a lock's word written",
     "{lookup_locked}; if r0 == 0 goto out; *(u32 *)(r0 + 8) = 1; out: {end}",
     "sched_cls", 13, "bpf_spin_lock cannot be accessed directly by load/store"),
    ("g", "the word behind a lock written",
     "{lookup_locked}; if r0 == 0 goto out; *(u32 *)(r0 + 12) = 1; out: {end}",
     "sched_cls", 0, ""),
    ("g", "a lock's word that a number may reach",
     "{lookup_locked}; if r0 == 0 goto out; r1 = *(u64 *)(r0 + 16); r1 &= 15; r0 += r1; "
     "*(u8 *)(r0 + 0) = 1; out: {end}",
     "sched_cls", 13, "bpf_spin_lock cannot be accessed directly by load/store"),
    ("g", "a helper that may sleep, in a program that may not",
     "r1 = r10; r1 += -8; r2 = 8; r3 = 0; call 148; {end}",
     "kprobe", 22, "helper call might sleep in a non-sleepable prog"),
    ("g", "R1 after a call",
     "call 7; r0 = r1; exit",
     "sched_cls", 13, "R1 !read_ok"),
    ("g", "R6 after a call",
     "r6 = 5; call 7; r0 = r6; exit",
     "sched_cls", 0, ""),
    ("g", "R6 of the caller in a function",
     "r6 = 5; call f; r0 = r6; exit; f: r0 = r6; exit",
     "sched_cls", 13, "R6 !read_ok"),
    ("g", "R6 of a function, after it",
     "call f; r0 = r6; exit; f: r6 = 5; {end}",
     "sched_cls", 13, "R6 !read_ok"),
    ("g", "R1 after a function",
     "r1 = 5; call f; r0 = r1; exit; f: {end}",
     "sched_cls", 13, "R1 !read_ok"),
    ("g", "R1 of the second round of a callback",
     "r1 = 4; r2 = func f; r3 = 0; r4 = 0; call 181; r0 = r1; exit; f: {end}",
     "sched_cls", 13, "R1 !read_ok"),
    ("g", "a slice of a value used while its dynptr is there",
     "{lookup}; if r0 == 0 goto out; r1 = r0; r2 = 16; r3 = 0; r4 = r10; r4 += -32; "
     "call 197; r1 = r10; r1 += -32; r2 = 0; r3 = 8; call 203; if r0 == 0 goto out; "
     "*(u64 *)(r0 + 0) = 1; *(u64 *)(r10 - 32) = 0; out: {end}",
     "sched_cls", 0, ""),
    ("g", "a slice of a value used after its dynptr was overwritten",
     "{lookup}; if r0 == 0 goto out; r1 = r0; r2 = 16; r3 = 0; r4 = r10; r4 += -32; "
     "call 197; r1 = r10; r1 += -32; r2 = 0; r3 = 8; call 203; if r0 == 0 goto out; "
     "*(u64 *)(r10 - 32) = 0; *(u64 *)(r0 + 0) = 1; out: {end}",
     "sched_cls", 13, "R0 invalid mem access 'scalar'"),
    ("h", "two functions of 256 bytes of stack",
     "*(u64 *)(r10 - 256) = 0; call f; {end}; f: *(u64 *)(r10 - 256) = 0; {end}",
     "sched_cls", 0, ""),
    ("h", "two functions of 264 bytes of stack",
     "*(u64 *)(r10 - 264) = 0; call f; {end}; f: *(u64 *)(r10 - 264) = 0; {end}",
     "sched_cls", 13, "combined stack size of 2 calls is 544. Too large"),
    ("h", "three functions, the one in between has no stack",
     "*(u64 *)(r10 - 256) = 0; call f; {end}; f: call g; {end}; "
     "g: *(u64 *)(r10 - 256) = 0; {end}",
     "sched_cls", 0, ""),
    ("h", "two functions of 264 bytes, one after the other",
     "call f; call g; {end}; f: *(u64 *)(r10 - 264) = 0; {end}; "
     "g: *(u64 *)(r10 - 264) = 0; {end}",
     "sched_cls", 0, ""),
    ("h", "256 bytes below a tail call in a function",
     "r6 = r1; *(u64 *)(r10 - 240) = 0; call f; {end}; f: r2 = map 2; r3 = 0; call 12; "
     "{end}",
     "sched_cls", 0, ""),
    ("h", "272 bytes below a tail call in a function",
     "r6 = r1; *(u64 *)(r10 - 272) = 0; call f; {end}; f: r2 = map 2; r3 = 0; call 12; "
     "{end}",
     "sched_cls", 13, "tail_calls are not allowed when call stack of previous frames is 272"),
    ("h", "a function that calls itself",
     "call f; {end}; f: call f; {end}",
     "sched_cls", 7, "the call stack of 9 frames is too deep"),
    ("h", "a loop that does not end",
     "loop: r1 = 0; goto loop; out: {end}",
     "sched_cls", 22, "unreachable insn 2"),
    ("h", "a loop that may not end",
     "loop: call 7; if r0 != 0 goto loop; {end}",
     "sched_cls", 22, "old state: R0=scalar(umin=1) R10=fp0"),
    ("h", "a loop that counts to a number that is known",
     "r6 = 0; loop: r6 += 1; if r6 < 100 goto loop; {end}",
     "sched_cls", 0, ""),
    ("h", "a loop that counts the wrong way",
     "r6 = 0; loop: r6 += 0; if r6 < 100 goto loop; {end}",
     "sched_cls", 22, "old state: R1=ctx() R6=P0 R10=fp0"),
)  # fmt: skip
