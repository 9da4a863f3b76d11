"""Our verdicts beside the kernel's, by group: verdict, errno, and the head of the last message.

Groups of recorded verdicts: the corpus's real programs, selftests and tables, and its conformance
cases. Groups that ask the running kernel, as root: the libbpf-tools' objects, what bpftrace makes
of its .bt tools and of one-liners, and programs generated from seeds.
"""

from __future__ import annotations

import errno
import json
import random
import re
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compat_tests.client import build as objects
from compat_tests.oracle import kernel
from compat_tests.verifier import captured, fuzz, oneliners, test_mutants
from compat_tests.verifier import test_corpus as corpus
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import MapDesc, Program

Row = dict[str, Any]
Measure = Callable[[int], "Line"]
HEAD = 32  # characters of a message that must be equal, numbers left out
_STATISTICS = ("processed ", "verification time ", "stack depth ", "cur state:", "old state:",
               "; ", "BPF program is safe")  # fmt: skip
_TOOLS = Path("/usr/sbin")
XDP = 6
GROUPS = {"real programs": "libbpftools:", "selftests": "st", "tables of 6.1": "tv61:"}

@dataclass
class Line:
    """One group. both, neither: accepted or refused by both; stricter: by us alone refused;
    unsound: by the kernel alone. errnos, heads: equal among those that both refuse; worded: of
    which the kernel's message is known."""

    group: str
    both: int = 0
    neither: int = 0
    stricter: list[str] = field(default_factory=list)
    unsound: list[str] = field(default_factory=list)
    errnos: int = 0
    heads: int = 0
    worded: int = 0
    differing: list[str] = field(default_factory=list)

    @property
    def judged(self) -> int:
        return self.both + self.neither + len(self.stricter) + len(self.unsound)

    @property
    def agreement(self) -> float:
        return (self.both + self.neither) / self.judged if self.judged else 1.0

    def add(self, name: str, code: int, log: str, ours: Program) -> None:
        """code, log: the kernel's errno and words."""
        verdict = verify(ours)
        if not code and not verdict.errno:
            self.both += 1
        elif not code:
            self.stricter.append(f"{name}: {message(verdict.log)}")
        elif not verdict.errno:
            self.unsound.append(f"{name}: {message(log)}")
        else:
            self.neither += 1
            same = not log or head(log) == head(verdict.log)
            self.errnos += code == verdict.errno
            self.worded += bool(log)
            self.heads += same and bool(log)
            if not same or code != verdict.errno:
                self.differing.append(f"{name}: {code} {message(log)} | {verdict.errno} "
                                      f"{message(verdict.log)}")


def message(log: str) -> str:
    """The last line that says what is wrong."""
    lines = [line for line in log.split("\n") if line and not line.startswith(_STATISTICS)]
    return lines[-1] if lines else ""


def head(log: str) -> str:
    return re.sub(r"-?\d+", "N", message(log))[:HEAD]


def recorded(name: str, rows: Iterable[Row], blobs: dict[str, bytes]) -> Line:
    line = Line(name)
    for row in rows:
        log = row.get("kernel_msg") or ""
        program = replace(corpus.program(row, blobs), log_level=4)
        line.add(row["name"], row.get("kernel_errno") or 0, log, program)
    return line


def from_corpus(group: str, every: int = 1, largest: int = 1 << 30) -> Line:
    """largest: instructions that the kernel processed."""
    rows, blobs = corpus.corpus()
    rows = [r for r in rows if corpus.judged(r) and r["name"].startswith(GROUPS[group])
            and ((r.get("stats") or {}).get("processed") or 0) <= largest]  # fmt: skip
    return recorded(group, rows[::every], blobs)


def conformance() -> Line:
    """As the corpus's driver loads them: an XDP program that calls the case."""
    line, real = Line("conformance"), kernel.driver()
    with tarfile.open(corpus.CORPUS) as archive:
        member = archive.extractfile("corpus/conformance.jsonl")
        assert member
        cases = [json.loads(text) for text in member]
    result = MapDesc(2, 4, 8, 1)
    for case in cases:
        if case.get("kernel_errno") in (None, errno.ENOSPC):  # not asked; its log was too long
            continue
        code = bytes.fromhex(case["insns_hex"])
        if case["prog_type"] == "socket_filter":
            program = Program(code, 1, license="GPL", log_level=4)
        else:
            memory = len(bytes.fromhex(case["mem_hex"]))
            body = (real.xdp_prolog(memory) if memory else b"") + code
            program = Program(real.wrap64(body), XDP, license="GPL", maps=(result,), log_level=4)
        line.add(case["name"], case["kernel_errno"], "", program)
    return line


def live(name: str, rows: Iterable[Row]) -> Line:
    """Each program once: loaders ask the kernel the same questions again."""
    line, seen = Line(name), set()
    for row in rows:
        what = (row["insns_hex"], row["prog_type"], row["expected_attach_type"], repr(row["maps"]))
        if what not in seen:
            seen.add(what)
            line.add(row["name"], row["kernel_errno"], row["kernel_log"], captured.program(row))
    return line


def libbpf_tools() -> Line:
    return live("libbpf-tools", (row for name, data in objects.tools().items()
                                 for row in captured.of_object(name, data)))


def bt_tools(every: int = 1) -> Line:
    scripts = sorted(_TOOLS.glob("*.bt"))[::every]
    return live("bpftrace tools", (r for path in scripts
                                   for r in captured.of_bpftrace(path.name, str(path))))


def one_liners(every: int = 1) -> Line:
    texts = oneliners.ONE_LINERS[::every]
    return live("bpftrace one-liners", (r for text in texts
                                        for r in captured.of_bpftrace(text, "-e", text)))


def generated(count: int, seed: int) -> Line:
    """Half of them small random programs, half changed programs of the corpus."""
    line, rnd, real = Line("generated"), random.Random(seed), kernel.driver()
    value = {"type": 2, "key_size": 4, "value_size": 64, "max_entries": 1}
    for n in range(count // 2):
        code = fuzz.program(rnd)
        theirs = real.kernel_verdict(code, "xdp", maps=[value], log_level=4)
        program = Program(code, XDP, license="GPL", maps=(fuzz.VALUE,), log_level=4)
        line.add(f"{n} of seed {seed}: random", theirs.errno, theirs.log, program)
    rows, blobs = corpus.corpus()
    small = [r for r in rows if corpus.judged(r) and _is_small(r)]
    while line.judged < count:
        row = dict(rnd.choice(small))
        row["insns_hex"] = test_mutants.changed(corpus.instructions(row), rnd).hex()
        row["kfuncs"] = None
        program = replace(corpus.program(row, blobs), log_level=4)
        given = {"btf": program.btf, "attach_btf_id": program.attach_btf_id}
        try:
            theirs = real.load_record(row | {"btf_file": ""}, log_level=4, **given)
        except real.BpfError:
            continue  # a map that this kernel does not make
        if theirs.stats.get("processed", 0) < 10 * test_mutants.LARGEST:
            name = f"{line.judged} of seed {seed}: {row['name']} changed"
            line.add(name, theirs.errno, theirs.log, program)
    return line


def _is_small(row: Row) -> bool:
    cost = (row.get("stats") or {}).get("processed") or 0
    return len(row["insns_hex"]) <= 16 * test_mutants.LONGEST and cost < test_mutants.LARGEST


def table(lines: Iterable[Line]) -> str:
    """In Markdown."""
    out = ["| group | programs | both accept | both refuse | only the kernel accepts | only we "
           "accept | agreement | errno equal | message's head equal |", "|" + "---|" * 9]
    for line in lines:
        errnos = f"{line.errnos / line.neither:.1%}" if line.neither else "none refused"
        heads = f"{line.heads / line.worded:.1%}" if line.worded else "not recorded"
        out.append(
            f"| {line.group} | {line.judged} | {line.both} | {line.neither} | "
            f"{len(line.stricter)} | {len(line.unsound)} | {line.agreement:.1%} | "
            f"{errnos} | {heads} |")
    return "\n".join(out)
