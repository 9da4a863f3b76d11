#!/usr/bin/env python3
"""The tracefs that loaders are shown where they cannot read the machine's.

    tools/gen_tracefs.py pack TRACEFS.tar.xz     # once: writes libbpf_shim/_data/tracefs.txt.xz
    tools/gen_tracefs.py unpack DIR              # at build time: DIR/tracefs, /sysfs, /debugfs

The table is text: a line "@category/event id", then the event's format file. 8-byte integer
fields are written as plain long: bpftrace turns other names into typedefs that need BTF or
kernel headers, these need neither.
"""

from __future__ import annotations

import argparse
import lzma
import re
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from libbpf_shim.jit import kfuncs  # noqa: E402

TABLE = ROOT / "libbpf_shim" / "_data" / "tracefs.txt.xz"
SIGNED = {
    "int",
    "long",
    "s64",
    "pid_t",
    "clockid_t",
    "timer_t",
    "key_t",
    "mqd_t",
    "ssize_t",
    "loff_t",
    "off_t",
    "key_serial_t",
    "time64_t",
    "long long",
}
FIELD = re.compile(r"^(\tfield:)([^;*\[]+) (\w+);(\toffset:\d+;\tsize:8;.*)$", re.M)
# Files of the uprobe PMU (Documentation/ABI/testing/sysfs-bus-event_source-devices-format).
UPROBE = {
    "type": "8\n",
    "format/retprobe": "config:0\n",
    "format/ref_ctr_offset": "config:32-63\n",
}
# The kprobe PMU's. Its number must be of no PMU of the machine; those count upwards from 6.
KPROBE = {"type": "65536\n", "format/retprobe": "config:0\n"}


def plain_types(text: str) -> str:
    """A format file with long and unsigned long for its 8-byte integers."""

    def field(match: re.Match[str]) -> str:
        kind = "long" if match[2].removeprefix("const ") in SIGNED else "unsigned long"
        return f"{match[1]}{kind} {match[3]};{match[4]}"

    return FIELD.sub(field, text)


def pack(source: Path) -> str:
    """The table's text, from an archive of a kernel's tracefs/events."""
    ids: dict[str, str] = {}
    formats: dict[str, str] = {}
    with tarfile.open(source) as archive:
        for member in archive:
            parts = Path(member.name).parts
            stream = archive.extractfile(member) if member.isfile() else None
            if stream is None or len(parts) != 5 or parts[1] != "events":
                continue
            text = stream.read().decode()
            {"id": ids, "format": formats}.get(parts[4], {})["/".join(parts[2:4])] = text
    return "".join(
        f"@{name} {ids[name].strip()}\n{plain_types(formats[name])}"
        for name in sorted(ids.keys() & formats.keys())
    )


def events(text: str) -> dict[str, tuple[int, str]]:
    """Event ("category/name") to its id and format file."""
    found = {}
    for part in re.split(r"^@", text, flags=re.M)[1:]:
        head, body = part.split("\n", 1)
        name, number = head.split(" ")
        found[name] = (int(number), body)
    return found


def unpack(table: Path, out: Path) -> None:
    """Writes out/tracefs, /sysfs and /debugfs; files that are there already are left alone."""
    files = {f"sysfs/{pmu}/{name}": text
             for pmu, table in (("uprobe", UPROBE), ("kprobe", KPROBE))
             for name, text in table.items()}
    known = events(lzma.decompress(table.read_bytes()).decode())
    for name, (number, body) in known.items():
        files[f"tracefs/events/{name}/id"] = f"{number}\n"
        files[f"tracefs/events/{name}/format"] = body
    files["tracefs/available_events"] = "".join(f"{n.replace('/', ':')}\n" for n in known)
    files["tracefs/uprobe_events"] = files["tracefs/kprobe_events"] = ""
    # kprobes are at the functions of system calls alone (libbpf_shim/attach/function.py); those
    # that programs may call stand there too: bpftrace looks for them in this file
    prefix = "syscalls/sys_enter_"
    calls = [f"__x64_sys_{name.removeprefix(prefix)}" for name in known if name.startswith(prefix)]
    files["tracefs/available_filter_functions"] = "".join(
        f"{name}\n" for name in (*calls, *kfuncs.NUMBERS))
    files["debugfs/blacklist"] = ""  # of kprobes; bcc reads it where it is given a pattern
    for name, text in files.items():
        path = out / name
        if path.exists() and path.read_text() == text:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if name.endswith("probe_events"):  # a tool that adds a probe there must be refused
            path.chmod(0o444)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["pack", "unpack"])
    parser.add_argument("path", type=Path)
    args = parser.parse_args()
    if args.verb == "pack":
        text = pack(args.path)
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    else:
        unpack(TABLE, args.path)


if __name__ == "__main__":
    main()
