"""`bpf-shim explain`: a page for each code. What is common to all of a row is in codes.py."""

from __future__ import annotations

from libbpf_shim.verifier.diagnose import codes

# Code -> why the rule is there; then what is refused, and what is accepted instead.
_PAGES: dict[str, tuple[str, str, str]] = {
    "BV0001": ("The message is one that has no code yet. The kernel's line says what is wrong.",
               "", ""),
    "BV1001": ("Programs of a class may do what its grants say, and nothing else (docs/eim.md). "
               "The message names the class, the capability that is missing, and the line that "
               "would grant it.",
               "status = r->status; (only read(r.uri) is granted)", "len = r->uri.len;"),
    "BV1002": ("The interface says what must hold before a function of the host's is called; that "
               "is proved of every value that the arguments may have.",
               "finalize(r, code); (rc in {403, 404})",
               "if (code != 403) return 0; finalize(r, code);"),
    "BV1004": ("What is granted is granted byte by byte, so where an access goes has to be known.",
               "c = r->name[i];", "c = r->name[3];"),
    "BV1006": ("How many bytes there are is known when they are read, by a helper that asks.",
               "c = *r->uri.data;", "bpf_probe_read_user(buf, sizeof(buf), r->uri.data);"),
    "BV1005": ("A class's entries are functions of an application.", 'SEC("xdp")',
               'SEC("uprobe")'),
    "BV1007": ("A processor runs ahead of branches, with numbers that they would have refused "
               "(docs/eim.md, spectre). It is held to the bounds of a number at one instruction, "
               "which are the same whichever path led there.",
               "p = a ? &v->x[12] : v->x; (i <= 3 if a, else i <= 15) c = p[i];",
               "c = a ? v->x[12 + i] : v->x[i];"),
    "BV1003": ("The class limits the instructions of a run, and they are bounded by proof alone, "
               "or counted (budget: counter) and the run ended where nothing is held.",
               "bpf_loop(n, body, 0, 0);", "for (i = 0; i < 16; i++) body(i);"),
    "BV0101": ("Code that nothing leads to is a sign of a broken program; the kernel refuses it "
               "before it looks at anything else. Compilers remove such code; hand-written "
               "assembly, and macros that return early, leave it.",
               "return 0; r1 = 1;", "return 0;"),
    "BV0102": ("A jump may not leave its function, nor lead into the second half of a 64-bit "
               "constant.", "goto +5 (in a function of 3 instructions)", "goto +1"),
    "BV0103": ("The machine would run on into whatever lies behind the function.",
               "r0 = 0 (and no exit)", "r0 = 0; exit"),
    "BV0104": ("Opcodes, registers and constants are those of RFC 9669; a field that an "
               "instruction does not use is zero. A division by the constant 0 and a shift by "
               "the width or more are refused too; by a register they are defined (a quotient "
               "of 0, a shift of the low bits).", "r1 /= 0", "if (n) r /= n;"),
    "BV0105": ("A program has 512 bytes of stack, over all functions that are active at a time. "
               "Before tail calls from functions only 256 are allowed, since they pile up.",
               "char path[600];", "static per-CPU array map with one element of 600 bytes"),
    "BV0106": ("Calls may be nested 8 deep, and a function may not call itself.",
               "int f(int n) { return n ? f(n - 1) : 0; }", "for (i = 0; i < 8; i++) ..."),
    "BV0201": ("On at least one path the register was never written, or a call destroyed it: R1 "
               "to R5 do not survive a call, and R0 is what it returned.",
               "int x; if (a) x = 1; return x;", "int x = 0; if (a) x = 1; return x;"),
    "BV0202": ("R10 is the frame pointer; only the call instruction moves it.",
               "r10 += 8", "r1 = r10; r1 += -8"),
    "BV0301": ("Lookups and some other calls return NULL where there is nothing. Until the "
               "program has tested the pointer, nothing may be read or written through it. The "
               "test must be of this pointer, or of a copy of it.",
               "v = bpf_map_lookup_elem(&m, &k); *v += 1;",
               "v = bpf_map_lookup_elem(&m, &k); if (!v) return 0; *v += 1;"),
    "BV0302": ("The register is a number to the verifier. That is so for addresses that were read "
               "from memory (kernel or user pointers), for pointers that went through 32-bit "
               "arithmetic, and for pointers of which only a part was stored and loaded.",
               "struct task_struct *p = (void *)ctx->di; return p->pid;",
               "bpf_probe_read_kernel(&pid, sizeof(pid), &p->pid);"),
    "BV0311": ("Every byte of an access must lie in the map's value, for every number that the "
               "offset may be.", "v->slots[i] = 1;", "if (i >= 16) return 0; v->slots[i] = 1;"),
    "BV0312": ("How long a packet is is known at run time only. A comparison of a pointer into "
               "the "
               "packet with data_end proves that the bytes before the pointer are there; the "
               "proof "
               "holds for this pointer and those that were made of it by constants. Helpers that "
               "change the packet void all proofs.",
               "struct ethhdr *e = data; return e->h_proto;",
               "if ((void *)(e + 1) > data_end) return XDP_DROP; return e->h_proto;"),
    "BV0313": ("The stack of a function is the 512 bytes below R10.",
               "char b[8]; b[i] = 0; (i unknown)", "b[i & 7] = 0;"),
    "BV0314": ("The region has a fixed size: a ring buffer record, a key, a buffer.",
               "e = bpf_ringbuf_reserve(&rb, 8, 0); ... e[1] = 0; (8 bytes each)",
               "e = bpf_ringbuf_reserve(&rb, 16, 0);"),
    "BV0315": ("A signed number that was only compared with its upper limit may still be "
               "negative.",
               "if (n < 16) v->slots[n] = 1; (n is int)", "if (n >= 0 && n < 16) ..."),
    "BV0316": ("A number from outside may be anything up to 2^64 until the program bounds it. A "
               "size for a helper needs an upper limit, and where 0 is not allowed a lower one.",
               "bpf_probe_read_user(buf, len, p);",
               "if (len > sizeof(buf)) len = sizeof(buf); bpf_probe_read_user(buf, len, p);"),
    "BV0317": ("Accesses of the stack are aligned to their size; so are all accesses under "
               "BPF_F_STRICT_ALIGNMENT, and atomic ones always.",
               "*(u64 *)(r10 - 12) = r1", "*(u64 *)(r10 - 16) = r1"),
    "BV0318": ("The map was made with BPF_F_RDONLY_PROG or BPF_F_WRONLY_PROG (.rodata is the "
               "first), "
               "or the memory may only be looked at: keys, arguments, packets of some types.",
               "const volatile int limit = 5; limit = 6;", "int limit = 5; limit = 6;"),
    "BV0319": ("A lock, timer, kptr or tree root that a load or store could copy would lose its "
               "meaning.", "*v = (struct value){};", "v->count = 0;"),
    "BV0321": ("Each program type has its own context structure; fields have sizes that they may "
               "be read with, some can be written, the holes between them are nothing.",
               "*(u64 *)(ctx + 4) (in XDP)", "ctx->data_end"),
    "BV0322": ("Fields of the context, and some objects, are accessed at constant offsets from "
               "the pointer that was given, since the kernel rewrites such accesses.",
               "ctx = (void *)ctx + i; ctx->len", "ctx->len"),
    "BV0323": ("An access of the context is rewritten by the kernel, an access of the stack is "
               "not. An instruction that meets both on different paths could be only one.",
               "p = cond ? ctx : &local; p->len", "cond ? ctx->len : local.len"),
    "BV0324": ("A pointer is 8 bytes; in pieces it would be a number.",
               "*(u32 *)(r10 - 8) = r1 (a pointer)", "*(u64 *)(r10 - 8) = r1"),
    "BV0325": ("A helper that reads memory sees all of it, padding between fields included; what "
               "was never written would tell what was there before.",
               "struct key k; k.pid = pid; bpf_map_lookup_elem(&m, &k);",
               "struct key k = {}; k.pid = pid; bpf_map_lookup_elem(&m, &k);"),
    "BV0326": ("Sockets and buffers have fields of fixed sizes, of which some cannot be written.",
               "*(u64 *)&sk->family", "sk->family"),
    "BV0327": ("Atomic operations work on memory, not on the context, packets or sockets.",
               "__sync_fetch_and_add(&skb->mark, 1);", "skb->mark += 1;"),
    "BV0401": ("NULL plus an offset is not NULL any more: a later test would find nothing wrong.",
               "v = bpf_map_lookup_elem(&m, &k); v += 4; if (!v) return 0;",
               "v = bpf_map_lookup_elem(&m, &k); if (!v) return 0; v += 4;"),
    "BV0402": ("Multiplied, masked or halved, an address would point anywhere.",
               "p = (void *)((long)p & ~7);", "off &= ~7; p = base + off;"),
    "BV0403": ("Offsets beyond 2^29 could wrap around the address space.",
               "p += n; (n up to 2^32)", "if (n > 4096) return 0; p += n;"),
    "BV0501": ("Helpers that need a packet, a socket or a place where it is safe to call them are "
               "there for some program types only.",
               "bpf_skb_store_bytes() in a kprobe", "bpf_probe_read_kernel()"),
    "BV0502": ("The number belongs to no helper of Linux 6.18.", "call 9999", "call 5"),
    "BV0503": ("The helper's prototype wants another type there.",
               "bpf_map_lookup_elem(&key, &m)", "bpf_map_lookup_elem(&m, &key)"),
    "BV0504": ("Some helpers are for programs under the GPL, as some kernel symbols are.",
               'SEC("license") = "Proprietary"', 'SEC("license") = "Dual MIT/GPL"'),
    "BV0505": ("The call may sleep (page in memory, wait). That is only possible where the "
               "program may, and not under locks or in timers.",
               'SEC("uprobe") with bpf_copy_from_user()', 'SEC("uprobe.s") with it'),
    "BV0506": ("Map types have their own operations: a ring buffer is not looked up in, a prog "
               "array is for tail calls.", "bpf_map_lookup_elem(&ringbuf, &k)",
               "bpf_ringbuf_output(&ringbuf, ...)"),
    "BV0507": ("The verifier must know the argument itself, not only its range.",
               "bpf_ringbuf_reserve(&rb, n, 0)", "bpf_ringbuf_reserve(&rb, sizeof(*e), 0)"),
    "BV0508": ("Kernel functions are offered to program types in sets, and want arguments of "
               "their own types, trusted ones above all.",
               "bpf_task_release(ptr that was walked to)", "bpf_task_release(acquired one)"),
    "BV0509": ("A global function is verified once, for every argument that its prototype allows; "
               "so callers must pass just such arguments.",
               "int f(struct s *p) called with NULL where p is __arg_nonnull",
               "test p before the call"),
    "BV0510": ("The destination is in the middle of something, or outside the program.",
               "call -1", "call +3"),
    "BV0601": ("A record, socket, task or other object that was acquired must be released on "
               "every "
               "path, before the end and before tail calls. The path that is shown is one that "
               "does not.", "e = bpf_ringbuf_reserve(...); if (!e) return 0; if (x) return 0;",
               "... if (x) { bpf_ringbuf_discard(e, 0); return 0; }"),
    "BV0602": ("Only what the program holds can be given back, once, by the pointer that it got.",
               "bpf_ringbuf_submit(e, 0); bpf_ringbuf_submit(e, 0);", "bpf_ringbuf_submit(e, 0);"),
    "BV0603": ("While a lock is held nothing may be called that could wait or fail; and who ends "
               "with it would block all others for ever.",
               "bpf_spin_lock(&v->l); if (x) return 0; bpf_spin_unlock(&v->l);",
               "bpf_spin_lock(&v->l); ... bpf_spin_unlock(&v->l); if (x) return 0;"),
    "BV0604": ("One lock at a time: two could deadlock. The lock lies in a map's value whose BTF "
               "says where.", "bpf_spin_lock(&a->l); bpf_spin_lock(&b->l);",
               "bpf_spin_lock(&a->l); ... bpf_spin_unlock(&a->l); bpf_spin_lock(&b->l); ..."),
    "BV0605": ("Dynptrs and iterators are opaque: made by a call, ended by a call, touched by "
               "nothing else in between.",
               "struct bpf_iter_num it; bpf_iter_num_next(&it);",
               "bpf_iter_num_new(&it, 0, 10); bpf_iter_num_next(&it); bpf_iter_num_destroy(&it);"),
    "BV0606": ("A section of RCU, of disabled preemption or of disabled interrupts ends in the "
               "function in which it began.", "bpf_rcu_read_lock(); return 0;",
               "bpf_rcu_read_lock(); ... bpf_rcu_read_unlock(); return 0;"),
    "BV0701": ("The verifier follows every path; each branch may double them. Loops are followed "
               "round by round.", "for (i = 0; i < 1000000; i++) if (p[i]) n++;",
               "bpf_loop(1000000, step, &ctx, 0);"),
    "BV0702": ("The same state came back: the loop would go on for ever with it.",
               "while (1) ;", "for (i = 0; i < 100; i++) ..."),
    "BV0801": ("The caller acts on the result: XDP verdicts, cgroup hooks, filters know only some "
               "values.", "return 7; (cgroup_skb)", "return 1;"),
    "BV0802": ("The frame is gone when the function has returned.", "return &local;",
               "*out = local; return 0;"),
    "BV0901": ("The records tell functions and lines apart; the kernel checks them against the "
               "instructions.", "func_info for 3 functions, 2 in the program", "as compiled"),
    "BV0902": ("Type, attach type and flags must go together.", 'SEC("xdp.s")', 'SEC("xdp")'),
    "BV0903": ("The instruction names a map that is not there, or one that the program may not "
               "use.", "two arenas in one program", "one arena"),
    "BV0904": ("The kernel knows this; this verifier does not yet, and refuses what it cannot "
               "prove.", "", ""),
}  # fmt: skip


def page(code: str) -> str:
    """The page, as Markdown."""
    row, (why, wrong, right) = codes.BY_CODE[code], _PAGES[code]
    needed = row.needed.replace("{", "<").replace("}", ">")
    lines = [f"{code}: {row.title}", "", *_wrapped(f"Needed: {needed}."), "", *_wrapped(why), ""]
    if wrong:
        lines += ["Refused:", "", f"    {wrong}", "", "Accepted:", "", f"    {right}", ""]
    return "\n".join([*lines, f"What to do: {row.hint}"])


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 96)
