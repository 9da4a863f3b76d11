"""bpftool feature probe: its answer taken apart, the kernel's as recorded, what differs here.

    python -m compat_tests.clients.probe        # as root: records the kernel's answer
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from compat_tests.clients.tool import KERNEL, Way, run

EXPECTED = Path(__file__).with_name("probe_expected.json")
# A machine's own configuration is not what bpf(2) answers.
CONFIG = "Scanning system configuration..."
Answer = dict[str, dict[str, str]]  # section, subject, answer

_DEVICE = "maps that lead to devices, CPUs and sockets of the kernel"
_STORAGE = "storage that hangs on objects of the kernel"
_OPS = "implementations of the kernel's interfaces"

# What the kernel says is available and is not here, with the reason that docs/parity.md gives.
NOT_HERE = {
    "eBPF map_type": {
        "devmap": _DEVICE, "devmap_hash": _DEVICE, "cpumap": _DEVICE, "xskmap": _DEVICE,
        "sockmap": _DEVICE, "sockhash": _DEVICE, "reuseport_sockarray": _DEVICE,
        "cgroup_storage": _STORAGE, "percpu_cgroup_storage": _STORAGE, "sk_storage": _STORAGE,
        "inode_storage": _STORAGE,
        "struct_ops": _OPS,
    },
}  # fmt: skip

# Program types that the recorded machine's policy refuses, and that load here.
HERE = ("tracing", "lsm")


def taken_apart(text: str) -> Answer:
    """Every line under the heading it stands below: what it is about, what it says."""
    found: Answer = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("Scanning "):
            section = line
            continue
        if header := re.match(r"eBPF helpers supported for (.*):$", line):
            section = header[1]
            found[section] = {}
        elif line.startswith("\t"):
            found[section][line.strip("\t -")] = "available"
        elif kind := re.match(r"(eBPF \w+_type) (\w+) is (.*)$", line):
            found.setdefault(kind[1], {})[kind[2]] = kind[3]
        elif line:
            found.setdefault(section, {})[line] = ""
    return found


def answer(way: Way) -> tuple[Answer, str]:
    """What bpftool says in one way; and its stderr."""
    outcome = run(way.tool(["bpftool", "feature", "probe"]))
    assert outcome.status == 0, outcome
    return taken_apart(outcome.out), outcome.err


def expected() -> Answer:
    """The kernel's, as recorded; lists of helpers that are one another's likes stand once."""
    table = json.loads(EXPECTED.read_text())
    lists: dict[str, list[str]] = table.pop("lists")
    full: Answer = table["sections"]
    for section, which in table["helpers"].items():
        full[section] = dict.fromkeys(lists[which], "available")
    return full


def as_here(kernel: Answer) -> Answer:
    """What this product must say where a kernel answers so: the same but for NOT_HERE."""
    here = {section: dict(lines) for section, lines in kernel.items()}
    for section, names in NOT_HERE.items():
        for name in names:
            assert here[section][name] == "available", f"{name}: the kernel has it not either"
            here[section][name] = "NOT available"
    for name in HERE:
        here["eBPF program_type"][name] = "available"
        here[f"program type {name}"] = {
            "Could not determine which helpers are available": "available"}
    return here


def differences(found: Answer, wanted: Answer) -> list[str]:
    """What one says and the other does not."""
    return [f"{section}: {name}: {found.get(section, {}).get(name)!r}, expected "
            f"{wanted.get(section, {}).get(name)!r}"
            for section in sorted({*found, *wanted})
            for name in sorted({*found.get(section, {}), *wanted.get(section, {})})
            if found.get(section, {}).get(name) != wanted.get(section, {}).get(name)]


def main() -> int:
    found, _ = answer(KERNEL)
    found.pop(CONFIG)
    lists: dict[str, list[str]] = {}
    helpers = {}
    for section in [s for s in found if s.startswith("program type ")]:
        names = list(found.pop(section))
        name = next((n for n, known in lists.items() if known == names), str(len(lists)))
        lists[name] = names
        helpers[section] = name
    EXPECTED.write_text(json.dumps({"sections": found, "helpers": helpers, "lists": lists},
                                   indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
