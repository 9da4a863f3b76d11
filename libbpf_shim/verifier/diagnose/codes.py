"""The mistakes that have a name: one row each, found by what the kernel's message says.

A row is found by its pattern in the whole message; the first that fits counts, so special ones
stand before general ones. `(?P<r>..)` names the register that the message is about, other groups
may be used in `needed`. Codes are stable: a number is never given to another mistake.
Source of the messages: Linux 6.18, kernel/bpf/verifier.c, as this verifier says them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """needed: the fact that is missing. hint: what to do. The page of a code is in pages.py."""

    code: str
    title: str
    patterns: tuple[str, ...]
    needed: str
    hint: str


_R = r"R(?P<r>\d+)"
OTHER = Row("BV0001", "refused", (), "what the kernel's line says", "see the kernel's line")
ROWS: tuple[Row, ...] = (
    # a class's
    Row("BV1003", "a run that cannot be bounded",
        (r"the number of instructions cannot be proved",
         r"something is held where no number of instructions"),
        "a run's instructions can be counted: no call that calls back, no endless loop; with "
        "budget: counter, not where something is held",
        "bound the loop by a constant, make functions static, give back what is held before"),
    Row("BV1007", "a number that no bounds hold ahead of a branch",
        (r"spectre: insn (?P<at>\d+) adds numbers to pointers",),
        "numbers and pointers that meet at one instruction do so in any combination",
        "write the access once for each path"),
    Row("BV1001", "not granted by the program's class",
        (r"class [\w-]+: missing capability (?P<capability>[^\n]+)",),
        "the class grants {capability}",
        "ask the manager of the deployment for it, or do without; what would grant it is the "
        "message's last line"),
    Row("BV1002", "a condition of a host function that is not proved",
        (rf"is not proved: {_R}", rf"{_R}, \w+ of \w+: ",
         r"is not the argument of the entry|is compared with|NULL, where it may not be|"
         r"a number is expected, not|object of the host's is expected|may be NULL[:,] test it|"
         r"not at the beginning of the object|size of memory, use|: of type \S+, \S+ is expected|"
         r"host function \S+ from non-GPL|a pointer: the host would be given an address"),
        "the conditions that the interface puts on the function's arguments hold for all that "
        "they may be", "test the argument before the call"),
    Row("BV1004", "an access of the host's memory that cannot be judged",
        (rf"{_R} is \S+, variable offset", r"of the context, which has 168",
         r"a format outside of its map", r"an argument of a probe that the class does not know"),
        "accesses of the host's memory are at constant offsets, and inside",
        "use the field's name; arrays of the host's with constant indices"),
    Row("BV1006", "bytes of the host's that are not read by their number",
        (rf"{_R} is \S+, bytes as many as", r"bytes of \S+, which has at most \d+",
         r"same insn cannot read"),
        "bytes of which another field says the number are read by bpf_probe_read_user() or "
        "bpf_probe_read_user_str(), at most as many as the interface says, by a call that reads "
        "nothing else", "read them by a call of their own, into a buffer that is no larger"),
    Row("BV1005", "not a program of the class's kind", (r"is of functions of the host's",),
        "programs of a class are uprobes (type kprobe), no sessions", "SEC(\"uprobe\")"),
    # structure
    Row("BV0101", "code that no path reaches", (r"unreachable insn (?P<at>\d+)",),
        "every instruction is reached from the first one",
        "remove the code, or compile with -O2, which does"),
    Row("BV0102", "a jump that leaves the function",
        (r"jump out of range from insn (?P<at>\d+)|jump into the middle of ldimm64",),
        "a jump leads to an instruction of its own function", "let the compiler make the jumps"),
    Row("BV0103", "a function that does not end",
        (r"last insn is not an exit or jmp|invalid insn idx",),
        "the last instruction is an exit or a jump", "return from every path of the function"),
    Row("BV0104", "an instruction that does not exist",
        (r"unknown opcode|uses reserved fields|invalid bpf_ld_imm64|unrecognized bpf_ld_imm64|"
        r"BPF_ATOMIC uses invalid|invalid atomic|invalid may_goto|invalid shift|R\d+ is invalid|"
        r"cpumask_size|div by zero|addr_space_cast insn",),
        "an instruction of the instruction set (RFC 9669) with its reserved fields zero",
        "compile with clang -target bpf; do not divide by, or shift by, what makes no sense"),
    Row("BV0105", "too much stack",
        (r"combined stack size|stack size \d+ too|tail_calls are not allowed when call stack",
         r"stack size of subprog"),
        "at most 512 bytes of stack over all functions that call each other (256 before a tail "
        "call)", "move large variables into a map: a per-CPU array of one element"),
    Row("BV0106", "calls that are nested too deep",
        (r"call stack of \d+ frames|too many subprograms|"
        r"recursive call|the call stack",),
        "at most 8 functions that call each other, none of them itself",
        "inline functions (static __always_inline), or make recursion a loop"),
    # registers
    Row("BV0201", "a register that holds nothing", (rf"{_R} !read_ok",
         r"__bpf_trap"),
        "R{r} was written before it is read, on every path",
        "initialise the variable; registers R1 to R5 are lost by a call"),
    Row("BV0202", "R10 was written", (r"frame pointer is read only",),
        "R10 stays what it is", "let the compiler manage the stack"),
    # limits
    Row("BV0701", "too complex",
        (r"BPF program is too large|sequence of \d+ jumps is too complex",
         r"too many states"),
        "all paths are judged within 1,000,000 instructions and 8,192 open branches",
        "bound loops tightly, use bpf_loop() or bpf_for(), split into functions that are global"),
    Row("BV0702", "a loop that may not end", (r"infinite loop detected|back-edge",),
        "something changes from one round to the next, until the loop ends",
        "bound the loop by a constant, or use bpf_loop(), bpf_for() or may_goto"),
    # resources
    Row("BV0601", "a resource that is not given back",
        (r"Unreleased reference id=\d+ alloc_insn=(?P<from>\d+)|would lead to reference leak",),
        "what was acquired is released on every path, and before tail calls",
        "release it on this path too (bpf_ringbuf_discard(), bpf_sk_release(), ...)"),
    Row("BV0602", "released without being held",
        (rf"must be referenced when passed|reference has not been acquired|unacquired reference|"
        rf"release unowned|{_R} must be a referenced",),
        "what is released was acquired and is not released yet",
        "release the very pointer that the acquiring call gave, once"),
    Row("BV0603", "a lock that is still held",
        (r"inside bpf_spin_lock-ed region|while holding a lock|bpf_spin_lock is missing unlock|"
        r"cannot be used inside \S+_lock",),
        "the lock is given back before calls, exits and tail calls",
        "call bpf_spin_unlock() first, on every path"),
    Row("BV0604", "a lock used wrongly",
        (r"Locking two|without taking a lock|of different lock|bpf_res_spin_|spin_lock",
         r"_unlock cannot be|can't spin_"),
        "one lock at a time, given back by who took it, in a map value with BTF",
        "put struct bpf_spin_lock into the map's value, and lock and unlock the same value"),
    Row("BV0605", "a dynptr or iterator in the wrong state",
        (r"dynptr|iter_|iterator|potential write to",
         r"cannot pass in \S+ at an offset"),
        "it is initialised once, used while valid, and lies whole and untouched on the stack",
        "use the variable only between the call that makes it and the one that ends it"),
    Row("BV0606", "a section that is not closed",
        (r"rcu_read_(un)?lock|bpf_preempt_(dis|en)able|local_irq|IRQ|RCU|preempt",
         r"irq state|cannot be used inside"),
        "RCU, preemption and interrupts are as they were when the function began",
        "close the section on every path"),
    # memory: what it is
    Row("BV0301", "a pointer that may be NULL", (rf"{_R} invalid mem access '\w*_or_null'",
            r"Possibly NULL pointer passed",),
        "R{r} is not NULL", "test it: if (!ptr) return 0;"),
    Row("BV0302", "a number used as an address", (rf"{_R} invalid mem access",),
        "R{r} is a pointer that may be read and written directly",
        "read other memory with bpf_probe_read_kernel() or bpf_probe_read_user(); a pointer that "
        "was stored as a number, or changed in 32 bits, is a number"),
    # memory: bounds
    Row("BV0311", "outside of a map's value",
        (r"invalid access to map value, value_size=(?P<limit>\d+) off=(?P<off>-?\d+) "
        rf"size=(?P<size>\d+)(?:.*\n{_R})?",
         r"invalid access to map value pointer, value_size=(?P<limit>\d+) off=(?P<off>-?\d+)"),
        "offset + {size} <= {limit}, the size of the map's value",
        "test the index before it is used: if (i >= MAX) return 0;"),
    Row("BV0312", "outside of the packet",
        (rf"{_R} offset is outside of the packet",
         r"invalid access to packet|helper access to the packet"),
        "a comparison with data_end proves that the bytes are there",
        "if (ptr + size > data_end) return ...; with the same ptr that is then read"),
    Row("BV0325", "stack that was never written", (
            rf"invalid (?:indirect )?(?:read|access) (?:from|to) stack {_R} (?:var_)?off \S+\+",
            r"invalid read from stack off"),
        "every byte that is read was written before, on every path",
        "initialise the whole variable, padding too: struct x v = {{}}; or memset()"),
    Row("BV0313", "outside of the stack",
        (r"invalid(?: indirect)?(?: variable-offset| unbounded variable-offset)?"
        rf"(?: write to| read from| access to)? stack {_R}|invalid read from stack|"
        r"invalid variable-offset",
         r"^invalid.* stack R\d"),
        "every byte lies in the 512 below R10, and was written before it is read by a helper",
        "check the index, or the size that is given to the helper"),
    Row("BV0314", "outside of a memory region",
        (r"invalid access to (?:memory|map key|\S+), (?:mem|key|\w+)_size=(?P<limit>\d+) "
        rf"off=(?P<off>-?\d+) size=(?P<size>\d+)(?:.*\n{_R})?",),
        "offset + {size} <= {limit}, the size of the region", "test the offset before it is used"),
    Row("BV0315", "an offset that may be negative", (rf"{_R} min value is negative",),
        "the number in R{r} is at least 0",
        "make it unsigned, or test it: if (n < 0) return 0;"),
    Row("BV0316", "an offset without a limit", (
            rf"{_R} (?:unbounded memory access|invalid zero-sized read)",
            r"unbounded (?:min|max) value",
         r"invalid zero-sized read"),
        "the number in R{r} has an upper limit, and for a size a lower one too",
        "bound it: n &= MASK, or if (n > MAX) return 0;"),
    Row("BV0317", "misaligned", (r"misaligned",),
        "the address is a multiple of the access's size",
        "align the variable, or copy it with memcpy of single bytes"),
    Row("BV0318", "memory that may only be read, or only written",
        (rf"{_R} cannot write into|write into map forbidden|read from map forbidden|map forbidden|"
        r"cannot write into packet|write to change key|only read is supported|"
        r"leaks addr into|read-only|does not allow writes",),
        "the memory may be accessed in that way", "write to a copy"),
    Row("BV0319", "a field that has calls of its own",
        (r"cannot be accessed (?:directly|indirectly) by|access cannot have variable offset|"
         r"access size must be BPF_DW|kptr|store to uptr",),
        "locks, timers and other special fields are left to their helpers",
        "do not copy or zero the whole value; go around the field"),
    Row("BV0327", "an atomic operation where there is none",
        (rf"BPF_ATOMIC (?:stores into|loads from) {_R}",),
        "R{r} points to the stack, a map's value or an arena",
        "work on a copy on the stack, then store it"),
    Row("BV0321", "no such field in the context",
        (r"invalid bpf_context access off=(?P<off>-?\d+) size=(?P<size>\d+)",),
        "the context of this program type has a field of {size} bytes at offset {off} that may be "
        "accessed in that way", "look at the context's structure in linux/bpf.h"),
    Row("BV0326", "no such field in the object",
        (rf"{_R} invalid (?:\S*sock|variable buffer|tracepoint buffer|buffer)\S* ",
         r"access beyond struct|doesn't have field at offset|is ptr_\S* |invalid negative access|"
         r"direct access to|no write support|only (?:read from|access to)|flow keys|"
         r"invalid \S+ access off|"
         r"with off \d+ size|doesn't have size"),
        "the access is to a field of the object, of that size and in that way",
        "look at the object's structure in linux/bpf.h"),
    Row("BV0322", "a context pointer that was moved",
        (r"dereference of modified|variable \w+ access var_off|negative offset \w+ ptr",),
        "the pointer is as it was given, without arithmetic",
        "use the field's name: ctx->field; do not compute its address"),
    Row("BV0323", "one instruction, two kinds of pointers",
        (r"same insn cannot be used with different pointers",),
        "an instruction is given the same kind of pointer on every path",
        "split the code so that each kind has its own access"),
    Row("BV0324", "a pointer that does not fit", (r"invalid size of register (spill|fill)|"
        r"cannot spill pointers to stack",), "a pointer is stored and loaded as 8 aligned bytes",
        "store the whole pointer in a variable of its own"),
    # arithmetic on pointers
    Row("BV0401", "arithmetic before the test for NULL",
        (rf"{_R} pointer arithmetic on \S+_or_null",),
        "R{r} is not NULL before it is moved", "test it first: if (!ptr) return 0;"),
    Row("BV0402", "arithmetic that pointers do not have",
        (rf"{_R} (?:bitwise operator|pointer arithmetic|32-bit pointer|pointer \S+ pointer|"
        r"subtraction from stack|tried to subtract)",),
        "pointers are only added to and subtracted from, in 64 bits",
        "do other arithmetic on the offset, then add it"),
    Row("BV0403", "a pointer that goes too far",
        (r"makes \w+ pointer be out of bounds|math between \w+ pointer|pointer offset -?\d+",),
        "the pointer stays within 2^29 bytes of where it began", "bound the offset first"),
    # calls
    Row("BV0501", "a helper that this program type does not have",
        (r"program of this type cannot use helper (?P<name>\w+)|"
         r"func \w+#\d+ not supported for|supported only for|"
         r"helper call is not allowed in probe",),
        "{name} is a helper of this program type",
        "`bpftool feature probe` lists the helpers of each type"),
    Row("BV0502", "no such helper", (r"invalid func|helper \S+ is not supported|unknown func",),
        "the number is of a helper that there is", "a newer kernel's header was used"),
    Row("BV0503", "an argument of the wrong type",
        (rf"{_R} type=(?P<type>\S+) expected=(?P<want>.+)",
         r"type=\S+"),
        "R{r} is of type {want}", "look at the helper's prototype in bpf-helpers(7)"),
    Row("BV0504", "a helper for GPL programs", (r"GPL",),
        "the program's licence is compatible with the GPL",
        'char LICENSE[] SEC("license") = "GPL";'),
    Row("BV0505", "sleeping where it is not allowed", (r"sleep",),
        "a program, or a place in it, that may sleep", "use SEC(\"uprobe.s/...\") or a like one"),
    Row("BV0506", "a map that the helper does not take",
        (r"cannot pass map_type (?P<type>\d+) into func (?P<name>\w+)|expected prog array map|"
         r"invalid arg_type for sockmap/sockhash|"
        r"map pointer in R\d+ map_uid|trying to (?:access|pass)",),
        "the helper works on maps of this type", "look at the map's type"),
    Row("BV0507", "a size or key that is not known", (
            rf"{_R} (?:is not a known constant|is not a constant address|does not point to a "
            r"readonly map|doesn't have constant offset)",
            r"has to be at (?:a|the) constant|string is not zero-terminated|known constant|"
            r"non-zero flags",
         r"Invalid format string|const string"),
        "the argument is a constant", "write the constant, or a literal string, into the call"),
    Row("BV0508", "a call of a kernel function that is not allowed",
        (r"calling kernel function|kernel function|kfunc",
         r"^arg#?\d+|^R\d+ must be (?:a rcu|referenced or)|object must be referenced|"
         r"type ID argument|"
         r"not allowed in rbtree|not found at offset|isn't map pointer|exception c|"
         r"invalid module BTF|"
         r"kernel btf_id|resolve the size|Unrecognized arg|is not modifiable"),
        "the kernel function may be called by this program type, with these arguments",
        "look for the function's set in Documentation/bpf/kfuncs.rst"),
    Row("BV0509", "arguments that a global function does not take",
        (r"Caller passes invalid args|arg#\d+ (?:expects|expected|is expected|pointer)|"
        r"is not a scalar$|global function",
         r"combination of tags|cannot be combined|^Arg#\d+ type|^Global function|"
         r"is not a pointer to arena|candidate matching error"),
        "the arguments are what the function's prototype says",
        "tag arguments (__arg_nonnull, __arg_ctx), or make the function static"),
    Row("BV0510", "a call that leads nowhere", (r"call to invalid destination|callback function|"
        r"No program",), "the call leads to the first instruction of a function",
        "let the compiler make the call"),
    # results
    Row("BV0801", "a result that is not allowed",
        (r"the register R0 has|At program exit|At callback return|At subprogram exit|"
        r"At async callback|R0 not a scalar",),
        "R0 is a number in the range that this program type may return",
        "return one of the values that the type defines"),
    Row("BV0802", "a pointer to the stack is returned", (r"cannot return stack pointer",),
        "the caller cannot use a stack that is gone",
        "return a number, or fill the caller's memory"),
    # the program as a whole
    Row("BV0901", "records that do not fit the program",
        (r"func_info|line_info|func info|missing btf|BTF section|core_relo|CO-RE",),
        "func_info, line_info and CO-RE records describe this program",
        "use the records that the compiler wrote"),
    Row("BV0902", "a program that cannot be of this type",
        (r"program type|attach|programs can be|only be sleepable|BPF_LD_\[ABS\|IND\]|"
         r"socket filter|"
        r"tracing progs",
         r"must provide btf_id|^The function |is not a struct|requires prog BTF|has no matches|"
         r"is ambiguous|are allowed|ldimm64|pseudo btf_id|ended at|BPF_LD_ABS"),
        "the program's type, its attachment and its flags allow this", "look at the SEC() name"),
    Row("BV0903", "maps that cannot be used here",
        (r"not pointing to valid bpf_map|direct value|map-in-map|Only one arena|maps per program|"
        r"arena's user address|has no valid|has to have BTF|struct_ops map|map '|"
        r"Sleepable programs can only use",),
        "the maps are those that this program may use", "look at the map's definition"),
    Row("BV0904", "not supported here", (r"not supported here",),
        "this verifier models it", "report it: the kernel may accept this program"),
)  # fmt: skip
BY_CODE = {row.code: row for row in (*ROWS, OTHER)}


def find(message: str) -> tuple[Row, dict[str, str]]:
    """The row of a message, and the groups of its pattern."""
    for row in ROWS:
        for pattern in row.patterns:
            if found := re.search(pattern, message):
                return row, {name: value or "" for name, value in found.groupdict().items()}
    return OTHER, {}
