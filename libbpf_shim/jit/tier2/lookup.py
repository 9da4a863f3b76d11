"""Helpers that need no call, as LLVM IR: what jit/inline.py does, by the same offsets."""

from __future__ import annotations

from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit import clocks, places
from libbpf_shim.jit.places import DESC, LOOKUP, RUN, THREAD_TID, room
from libbpf_shim.jit.tier2.access import Access
from libbpf_shim.verifier.program import MapDesc


class Lookup(Access):
    """Calls of helpers that are code instead. own_clock: clocks.unordered() of the program."""

    own_clock = False

    def inlined(self, i: Insn, at: int) -> bool:
        """Code without a call, if there is some."""
        if i.imm in places.FIELDS:
            self.set(0, self.of_run(places.FIELDS[i.imm]))
        elif i.imm == places.CPU:
            self._processor()
        elif i.imm == places.PID_TGID:
            self._who()
        elif i.imm == clocks.KTIME and self.own_clock:
            self._time()
        elif i.imm in places.READ_KERNEL and at not in self.facts.host_bytes:
            self._of_context(i.imm, at)
        elif i.imm == places.READ_USER and self._to_frame(at):
            self._of_memory(i.imm, at)
        else:
            kind = places.lookup_of(self.maps, self.facts.call_map, i, at)
            if kind:
                self._find(at, kind)
            return bool(kind)
        return True

    def _or_helper(self, condition: str, known: str, number: int, *arguments: str) -> None:
        """R0 = known if the condition holds, else the helper's answer. known: a variable's."""
        ask, done = self.new_label("ask"), self.new_label("done")
        self.set(0, known)
        self.choose(condition, done, ask, True)
        self.label(ask)
        self.set(0, self.ask(number, *arguments))
        self.go(done)
        self.label(done)

    def _processor(self) -> None:
        """The CPU that this run has claimed."""
        cpu = self.field("%run", RUN["vcpu"], 4)
        self._or_helper(self.op(f"icmp ne i64 {cpu}, {0xFFFFFFFF}"), cpu, places.CPU)

    def _who(self) -> None:
        thread = self.of_run(RUN["thread"])
        known, ask, done = map(self.new_label, ("known", "ask", "done"))
        self.choose(self.op(f"icmp ne i64 {thread}, 0"), known, ask, True)
        self.label(known)
        self.set(0, self.field(thread, THREAD_TID, 8))
        self.go(done)
        self.label(ask)
        self.set(0, self.ask(places.PID_TGID))
        self.go(done)
        self.label(done)

    def _time(self) -> None:
        thread = self.of_run(RUN["thread"])
        look, ask, done = map(self.new_label, ("look", "ask", "done"))
        self.choose(self.op(f"icmp ne i64 {thread}, 0"), look, ask, True)
        self.label(look)
        time = self.op(f'call i64 asm sideeffect "{clocks.TEXT}", "{clocks.CONSTRAINTS}"'
                       f"(i64 {thread})")
        self.set(0, time)
        self.choose(self.op(f"icmp ne i64 {time}, 0"), done, ask, True)
        self.label(ask)
        self.set(0, self.ask(clocks.OWN))
        self.go(done)
        self.label(done)

    def _of_context(self, number: int, at: int) -> None:
        """A read of a register of the context, as bpf_usdt_arg() makes it; else the helper's. The
        size is nearly always a number, which leaves one way of the three."""
        size, regs = self.get(2), self.whole or self.of_run(RUN["regs"])
        done = self.new_label("done")
        there = "true" if self.whole else self.op(f"icmp ne i64 {regs}, 0")
        off = self.op(f"sub i64 {self.get(3)}, {regs}")
        for width in (8, 4):
            mine, copy, ask, other = map(self.new_label, ("mine", "copy", "ask", "other"))
            self.choose(self.op(f"icmp eq i64 {size}, {width}"), mine, other)
            self.label(mine)
            fits = self.op(f"icmp ule i64 {off}, {places.REGS_SIZE - width}")
            self.choose(self.op(f"and i1 {there}, {fits}"), copy, ask, True)
            self.label(copy)
            value = self.read(self.pointer(self.get(3)), width, True)
            pointer, shared = self.place(1, 0, at)
            self.write(pointer, width, value, shared)
            self.set(0, "0")
            self.go(done)
            self.label(ask)
            self._told(number, width, at)
            self.go(done)
            self.label(other)
        self.set(0, self.helper(number, *(self.get(n) for n in (1, 2, 3))))
        self.go(done)
        self.label(done)

    def _to_frame(self, at: int) -> bool:
        """A call's R1 is an address in the function's own stack, and R3 no length is known of."""
        return self.framed(1, 0, at) is not None and at not in self.facts.host_bytes

    def _of_memory(self, number: int, at: int) -> None:
        """A read of a word of the user's to the stack."""
        size, done = self.get(2), self.new_label("done")
        for width in (8, 4):
            mine, other = self.new_label("mine"), self.new_label("other")
            self.choose(self.op(f"icmp eq i64 {size}, {width}"), mine, other)
            self.label(mine)
            self._told(number, width, at)
            self.go(done)
            self.label(other)
        self.set(0, self.helper(number, *(self.get(n) for n in (1, 2, 3))))
        self.go(done)
        self.label(done)

    def _told(self, number: int, width: int, at: int) -> None:
        """The helper's answer, by way of a word of our own where it is for the stack: what no call
        is given the address of lies in registers."""
        pointer, shared = self.place(1, 0, at)
        if shared:
            self.set(0, self.ask(number, *(self.get(n) for n in (1, 2, 3))))
            return
        answer, value = self.told(number, width, self.get(3))
        self.set(0, answer)
        self.write(pointer, width, self.cut(value, 8 * width), False)

    # lookups

    def _find(self, at: int, kind: int) -> None:
        index = self.facts.call_map[at]
        found = self.maps[index]
        if kind in (places.HASH, places.PERCPU_HASH):
            self._in_hash(found, at)
            return
        wanted = self._key(0, 4, at)
        stride = room(found.value_size)
        self.set(0, "0")
        there, done = self.new_label("there"), self.new_label("done")
        fits = self.op(f"icmp ult i32 {wanted}, {found.max_entries}")
        self.choose(fits, there, done, True)
        self.label(there)
        key = self.widen(wanted, 32)
        if kind == places.ARRAY:
            off = self.op(f"mul nuw i64 {key}, {stride}")
            start = self.symbol(f"mapval.{index}")
            self.set(0, self.op(f"add nuw i64 {off}, {start}"))  # so it is not NULL
        else:
            self._in_percpu_array(index, found, key, done)
        self.go(done)
        self.label(done)

    def _key(self, off: int, size: int, at: int) -> str:
        """Bytes of the key: a number of that width."""
        pointer, shared = self.place(2, off, at)
        return self.read(pointer, size, shared)

    def _in_percpu_array(self, index: int, found: MapDesc, key: str, none: str) -> None:
        """The value of the CPU that the run has claimed: (cpu * cpu_slots + index) * stride."""
        desc, cpu = self.symbol(f"map.{index}"), self.field("%run", RUN["vcpu"], 4)
        there = self.new_label("there")
        fits = self.op(f"icmp ult i64 {cpu}, {self.field(desc, DESC['nr_vcpus'], 4)}")
        self.choose(fits, there, none, True)
        self.label(there)
        row = self.op(f"mul i64 {cpu}, {places.cpu_slots(found)}")
        row = self.op(f"add i64 {row}, {key}")
        off = self.op(f"mul i64 {row}, {room(found.value_size)}")
        self.set(0, self.op(f"add i64 {off}, {self.field(desc, DESC['base'], 8)}"))

    def _shared(self, base: str, off: int, size: int) -> str:
        """What others may change meanwhile."""
        value = self.read(self.pointer(self.plus(base, off)), size, True)
        return self.widen(value, 8 * size)

    def _hash_of(self, words: list[str], size: int) -> str:
        """hash_key(): words of 8 bytes, then what is left of one."""
        value = str(places.hash_seed(size))

        def fold(value: str, constant: int) -> str:
            value = self.op(f"mul i64 {value}, {constant}")
            high = self.op(f"lshr i64 {value}, 32")
            return self.op(f"xor i64 {value}, {high}")

        for word, (_, width) in zip(words, places.key_words(size), strict=True):
            value = self.op(f"xor i64 {value}, {word}")
            if factor := places.hash_factor(width):
                value = fold(value, factor)
        return self.op(f"and i64 {fold(value, places.LAST)}, {0xFFFFFFFF}")

    def _in_hash(self, found: MapDesc, at: int) -> None:
        """Walks a few elements; what is not as it must be goes to the helper."""
        size, desc = found.key_size, self.get(1)
        words = [self.widen(self._key(off, width, at), 8 * width)
                 for off, width in places.key_words(size)]
        hashed = self._hash_of(words, size)
        mask = self.field(desc, DESC["bucket_mask"], 4)
        base = self.field(desc, DESC["base"], 8)
        bucket = self.op(f"and i64 {mask}, {hashed}")
        bucket = self.op(f"shl i64 {bucket}, 3")
        off = self.op(f"add i64 {bucket}, {self.field(desc, DESC['bucket_off'], 8)}")
        head = self._shared(self.op(f"add i64 {base}, {off}"), places.HEAD, 4)
        stride = self.field(desc, DESC["stride"], 4)
        first = self.op(f"add i64 {base}, {self.field(desc, DESC['elem_off'], 8)}")
        first = self.op(f"sub i64 {first}, {stride}")
        self.do(f"store i64 {head}, ptr %elem")
        self.do(f"store i64 {places.HOPS}, ptr %hops")
        self.set(0, "0")
        walk, look, slow, done = map(self.new_label, ("walk", "look", "slow", "done"))
        self.go(walk)
        self.label(walk)
        elem = self.op("load i64, ptr %elem")
        self.choose(self.op(f"icmp eq i64 {elem}, 0"), done, look)
        self.label(look)
        self._look(found, (desc, base, first, stride, mask), elem, hashed, words,
                   (walk, slow, done))
        self.label(slow)
        key = self.get(2)
        self.set(0, self.ask(LOOKUP, desc, key))
        self.go(done)
        self.label(done)

    def _must(self, condition: str, otherwise: str) -> None:
        """Goes on if it holds."""
        label = self.new_label("on")
        self.choose(condition, label, otherwise, True)
        self.label(label)

    def _look(
        self, found: MapDesc, of: tuple[str, str, str, str, str], elem: str, hashed: str,
        words: list[str], to: tuple[str, str, str],
    ) -> None:
        """One element: of, the map's descriptor, base, elements, their size, mask; to, labels: the
        next one, the helper, the end."""
        (desc, base, first, stride, mask), (walk, slow, done) = of, to
        nr_elems = self.field(desc, DESC["nr_elems"], 4)
        self._must(self.op(f"icmp ule i64 {elem}, {nr_elems}"), slow)
        place = self.op(f"add i64 {first}, {self.op(f'mul i64 {elem}, {stride}')}")
        after = self._shared(place, places.NEXT, 4)
        theirs = self._shared(place, places.HASH_AT, 4)
        mine, other = self.new_label("mine"), self.new_label("other")
        self.choose(self.op(f"icmp eq i64 {theirs}, {hashed}"), mine, other, True)
        self.label(mine)
        self._not_free(place, slow)
        for word, (off, width) in zip(words, places.key_words(found.key_size), strict=True):
            there = self._shared(place, places.KEY + off, width)
            self._must(self.op(f"icmp eq i64 {there}, {word}"), slow)
        if found.type == places.HASH:
            self.set(0, self.plus(place, places.value_at(found.key_size)))
        else:
            self._percpu_value(found, (desc, base, stride, elem), done)
        self.go(done)
        self.label(other)
        differ = self.op(f"and i64 {self.op(f'xor i64 {theirs}, {hashed}')}, {mask}")
        self._must(self.op(f"icmp eq i64 {differ}, 0"), slow)
        self._not_free(place, slow)
        self.do(f"store i64 {after}, ptr %elem")
        left = self.op(f"sub i64 {self.op('load i64, ptr %hops')}, 1")
        self.do(f"store i64 {left}, ptr %hops")
        self.choose(self.op(f"icmp eq i64 {left}, 0"), slow, walk)

    def _not_free(self, place: str, slow: str) -> None:
        transit = self._shared(place, places.TRANSIT, 4)
        self._must(self.op(f"icmp ne i64 {transit}, {places.FREE}"), slow)

    def _percpu_value(
        self, found: MapDesc, of: tuple[str, str, str, str], none: str
    ) -> None:
        """elements + nr_elems * stride + (cpu * cpu_slots + index) * value's size."""
        desc, base, stride, elem = of
        cpu = self.field("%run", RUN["vcpu"], 4)
        self._must(self.op(f"icmp ult i64 {cpu}, {self.field(desc, DESC['nr_vcpus'], 4)}"), none)
        row = self.op(f"mul i64 {cpu}, {self.field(desc, DESC['cpu_slots'], 4)}")
        row = self.op(f"add i64 {row}, {elem}")
        row = self.op(f"sub i64 {row}, 1")
        off = self.op(f"mul i64 {row}, {room(found.value_size)}")
        elements = self.op(f"mul i64 {self.field(desc, DESC['nr_elems'], 4)}, {stride}")
        at = self.op(f"add i64 {off}, {elements}")
        at = self.op(f"add i64 {at}, {self.field(desc, DESC['elem_off'], 8)}")
        self.set(0, self.op(f"add i64 {at}, {base}"))
