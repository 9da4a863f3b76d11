"""Runs the command lines of one case of bpftool_cases.py in one way, and makes answers comparable.

A case is one shell; each line's answer is its output and its exit status. On the kernel the shell
has a bpffs of its own; under the shim the whole shell is below the guard.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.bpftool_cases import Case
from compat_tests.clients.processes import Eight
from compat_tests.clients.tool import KERNEL, NOT_RECORDED, Outcome, Way, recorded, run
from compat_tests.oracle import kernel

EXPECTED = Path(__file__).with_name("bpftool_expected.json")
MOUNT = 'mount -t bpf bpf /sys/fs/bpf && exec "$@"'
# gone COMMAND...: runs until it fails. What a pin held ends a while after its name.
PRELUDE = """B=/sys/fs/bpf; export LC_ALL=C
gone() {
n=0; while "$@" >/dev/null 2>&1 && [ $n -lt 100 ]; do n=$((n+1)); sleep 0.05; done; "$@"
}
"""
# Under the shim the tree is the user's, and whatever an earlier test left there goes.
CLEAR = "rm -rf /sys/fs/bpf/*\n"
KINDS = ("prog", "map", "link", "btf")

# What is not repeatable, or is another machine's: times, users, bytes of memory and of code.
RULES = (
    (r"loaded_at \S+", "loaded_at TIME"), (r'"loaded_at":\d+', '"loaded_at":TIME'),
    (r"\buid \d+", "uid UID"), (r'"uid":\d+', '"uid":UID'),
    (r"memlock \d+B", "memlock BYTES"), (r'"bytes_memlock":\d+', '"bytes_memlock":BYTES'),
    (r"jited \d+B", "jited BYTES"), (r'"bytes_jited":\d+', '"bytes_jited":BYTES'),
    # the kernel calls helpers by address, and its functions have names
    (r"(call pc[+-]\d+)#\w+", r"\1"),
    (r"(call bpf_\w+)#-?\d+", r"\1"), (r"^( +85 00 00 00)( \w\w){4}$", r"\1 HELPER"),
    (r"^sh: \d+: ", "sh: "), (r"^pid \d+", "pid PID"),
    # paths of sources stand in BTF
    (r"file:\S+/", "file:"), (r"(name <anon>  size) \d+B", r"\1 BYTES"),
    (r'("id":BTF\d+,"size"):\d+', r'\1:BYTES'),
)
# Of a map without types: the kernel leaves what the caller's structure held, later bpftools' the
# types of the map before it, of whomever.
LEFT = ((r"^(\d+: ringbuf .*\n.*)\n\tbtf_id \d+", r"\1"),
        (r'("type":"ringbuf"[^{}]*),"btf_id":\d+', r"\1"))
# Where ids stand: pattern of what is before, kind ("" is that of the command).
IDS = (
    (r"^(?=\d+: )", ""), (r'(?<=[{,])"id":', ""), (r"map\[id:", "map"),
    (r"map_ids ", "map"), (r'"map_ids":\[', "map"), (r"prog_ids ", "prog"),
    (r'"prog_ids":\[', "prog"), (r"btf_id ", "btf"), (r'"btf_id":', "btf"),
    (r"prog(?:_id)? ", "prog"), (r'"prog_id":', "prog"), (r"inner_map_id: ?", "map"),
    (r'"inner_map_id":', "map"),
)


def kernel_shell(script: str) -> list[str]:
    return ["unshare", "-m", "sh", "-c", MOUNT, "sh", "sh", "-c", script]


def script(case: Case) -> str:
    """Every line, its answer between marks."""
    parts = [f"echo '@@{i}'; {{ {line}\n}} 2>&1; echo \"@@= $?\"" for i, line in
             enumerate(case.lines)]
    return PRELUDE + "\n".join(parts) + "\n"


def run_case(case: Case, way: Way, folder: Path) -> Outcome:
    text = script(case).replace("$V", str(folder))
    argv = (kernel_shell(text) if way.name == "kernel"
            else way.tool(["sh", "-c", f"{CLEAR}{text}{CLEAR}"]))
    if not case.held:
        return run(argv)
    with Eight(way, folder, program="held", objects="held.bpf.o") as loader:
        outcome = run(argv)
        loader.finish()
    return outcome


class Ids:
    """Numbers by what they name, in the order they are first seen."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], str] = {}

    def name(self, kind: str, number: str) -> str:
        if number == "0" or (kind, number) == ("btf", "1"):
            return number
        kinds = sum(k == kind for k, _ in self._seen)
        return self._seen.setdefault((kind, number), f"{kind.upper()}{kinds + 1}")

    def known(self, kind: str, number: str) -> bool:
        return (kind, number) in self._seen

    def replace(self, text: str, command_kind: str) -> str:
        for before, kind in IDS:
            def put(match: re.Match[str], kind: str = kind or command_kind) -> str:
                numbers = sorted(match[2].split(","), key=int)
                return match[1] + ",".join(self.name(kind, n) for n in numbers)

            text = re.sub(rf"({before})(\d+(?:,\d+)*)", put, text, flags=re.M)
        return text


def kind_of(line: str) -> str:
    """What a command line is about, if its answer begins with ids."""
    words = shlex.split(line, comments=False)
    return next((word for word in words if word in KINDS and "dump" not in words), "")


def only(text: str, names: tuple[str, ...], ids: Ids) -> str:
    """Of a list, the entries of these names, or of programs known: a kernel has others' too."""
    def mine(name: str, progs: list[str]) -> bool:
        return name in names or any(ids.known("prog", p) for p in progs)

    if text.startswith("["):
        found = [i for i in json.loads(text) if mine(i.get("name", ""), [
            str(p) for p in i.get("prog_ids", [i.get("prog_id", "")])])]
        return json.dumps(found, separators=(",", ":")) + "\n"
    out = ""
    for block in re.split(r"^(?=\d+: )", text, flags=re.M):
        name, progs = re.search(r"name (\S+)", block), re.search(r" prog(?:_ids)? ([\d,]+)", block)
        if mine(name[1] if name else "", progs[1].split(",") if progs else []):
            out += block
    return out


def answers(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Output and exit status of each line."""
    for part in re.split(r"^@@\d+\n", outcome.out, flags=re.M)[1:]:
        text, _, status = part.rpartition("@@= ")
        yield text, status.strip()


def lines(case: Case, way: Way, folder: Path) -> list[str]:
    """What CASE answers, comparable."""
    outcome = run_case(case, way, folder)
    found = list(answers(outcome))
    assert len(found) == len(case.lines), outcome
    ids, out = Ids(), []
    for line, (text, status) in zip(case.lines, found, strict=True):
        for pattern, replacement in LEFT:
            text = re.sub(pattern, replacement, text, flags=re.M)
        if case.names and line.endswith(" list"):
            text = only(text, case.names, ids)
        text = ids.replace(text.replace(str(folder), "$V"), kind_of(line))
        for pattern, replacement in (*RULES, *case.rules):
            text = re.sub(pattern, replacement, text, flags=re.M)
        out.append(f"$ {line}")
        out += [part.rstrip() for part in text.splitlines()]
        if status != "0":
            out.append(f"status {status}")
    return out


def expected() -> dict[str, list[str]]:
    """Case name -> lines, as recorded from the kernel."""
    table: dict[str, list[str]] = json.loads(EXPECTED.read_text())
    return table


def wanted(case: Case, folder: Path) -> list[str]:
    """What is recorded; where bpftool is of another version, what the kernel answers now."""
    if recorded("bpftool"):
        return expected()[case.name]
    if reason := kernel.why_not():
        pytest.skip(f"{NOT_RECORDED}, and the kernel's bpf(2): {reason}")
    return lines(case, KERNEL, folder)
