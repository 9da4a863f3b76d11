"""Compares tools with the kernel, and writes docs/compatibility.md and the kernel's answers.

    python tools/compatibility.py [--write] [NAME...]     # as root, where bpf(2) works

Each tool of compat_tests/compat/rows.py runs on the same scripted workload on the kernel and under
guard and shim. --write: the table, and expected.json, which the suite holds the shim to. The tools
that ask for what only a kernel has are started under the guard, and must say so and end.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from compat_tests.clients.tool import KERNEL, SHIM, run  # noqa: E402
from compat_tests.compat import compare, rows  # noqa: E402
from compat_tests.oracle import kernel  # noqa: E402

PAGE = ROOT / "docs" / "compatibility.md"
HEAD = """# Compatibility: real tools beside the kernel

Made by `tools/compatibility.py --write`, {date}, Linux {release}, {tools}.
Each tool runs unmodified, as an unprivileged user whose bpf(2) and perf_event_open(2) fail, on the
same scripted workload (`compat_tests/compat/actor.c`) as on the kernel, as root. Compared is what
two runs share: not times and process numbers. Only lines of the workload's processes count: a
kernel shows everybody's, the shim those of processes that carry the agent.

Class A: everything the tool needs is in user space. B: emulated faithfully by agents. C+, C~, C:
the tool asks for kernel functions or the kernel's own events.

"""
# Source: SURFACE.md of the design, section 1.
ELSEWHERE = {
    "C+": "bindsnoop solisten tcpconnect tcpconnlat tcptracer tcptop tcplife tcpstates filelife "
          "filetop vfsstat fsdist fsslower btrfsdist btrfsslower ext4dist ext4slower nfsdist "
          "nfsslower xfsdist xfsslower",
    "C~": "offcputime cpudist runqlat runqslower wakeuptime runqlen tcprtt llcstat cpufreq",
    "C": "biolatency biopattern biosnoop biostacks biotop bitesize cachestat capable drsnoop "
         "hardirqs klockstat ksnoop mdflush numamove oomkill readahead slabratetop softirqs "
         "tcpsynbl",
}
_SECONDS = 10.0  # that a tool which cannot work may take to say so


def version(package: str) -> str:
    done = subprocess.run(["dpkg-query", "-W", "-f=${Version}", package], capture_output=True,
                          text=True, check=False)
    return f"{package} {done.stdout}"


def compared(row: rows.Row) -> tuple[str, list[str] | None]:
    """Verdict of a row, and what the kernel showed."""
    if lack := compare.missing(row):
        return f"not compared: {lack} is not installed", None
    theirs = compare.comparable(row, KERNEL)
    try:
        ours = compare.comparable(row, SHIM)
    except AssertionError as error:
        return f"fails: {' '.join(str(error).split())[-160:]}", theirs
    if ours == theirs:
        return f"equal, {len(theirs)} lines", theirs
    return f"differs: {len(ours)} lines, kernel {len(theirs)}", theirs


def refusal(tool: str) -> str:
    """What a tool that needs the kernel says under the guard."""
    try:
        outcome = run(SHIM.tool([tool]), _SECONDS)
    except AssertionError:
        return "runs; nothing to show"
    for line in (outcome.err + outcome.out).splitlines():
        if line.startswith("libbpf_shim: "):
            return f"ends with status {outcome.status}: {line.removeprefix('libbpf_shim: ')}"
    said = (outcome.err or outcome.out).strip().splitlines() or [""]
    return f"ends with status {outcome.status}: {said[-1].strip()}"


def cell(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "0x…", text.replace("|", "\\|"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    if why := kernel.why_not():
        sys.exit(f"the kernel's bpf(2): {why}")
    known = compare.expected() if compare.EXPECTED.exists() else {}
    lines = ["| tool | of | class | verdict | difference |", "|---|---|---|---|---|"]
    good = True
    for row in rows.ALL:
        if options.names and not any(n in row.id for n in options.names):
            continue
        verdict, theirs = compared(row)
        good = good and verdict.startswith("equal")
        if theirs is not None:
            known[row.id] = theirs
        lines.append(f"| {row.name} | {row.kind} | {row.grade} | {cell(verdict)} | {row.note} |")
        print(lines[-1], flush=True)
    if not options.names:
        for grade, names in ELSEWHERE.items():
            for name in sorted(names.split()):
                if shutil.which(name):
                    lines.append(f"| {name} | libbpf-tools | {grade} | not here | "
                                 f"{cell(refusal(name))} |")
                    print(lines[-1], flush=True)
    if options.write:
        ordered = {row.id: known[row.id] for row in rows.ALL if row.id in known}
        compare.EXPECTED.write_text(json.dumps(ordered, indent=1) + "\n")
        if not options.names:
            packages = ", ".join(map(version, ("bpftrace", "libbpf-tools", "bpfcc-tools")))
            head = HEAD.format(date=datetime.date.today(), release=os.uname().release,
                               tools=packages)
            PAGE.write_text(head + "\n".join(lines) + "\n")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
