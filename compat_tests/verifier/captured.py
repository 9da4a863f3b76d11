"""What loaders hand to bpf(2), with the running kernel's verdict: rows as the corpus has them.

capture.c is preloaded into libbpf's loader or bpftrace, as root; no kernel probe is needed, the
programs are only loaded. Rows whose load the machine's policy forbids are left out.
"""

from __future__ import annotations

import functools
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from compat_tests.oracle import kernel
from compat_tests.verifier import test_corpus as corpus
from compat_tests.victims import build
from libbpf_shim.object.btf import MACHINE
from libbpf_shim.verifier.program import MapDesc, Program

HERE = Path(__file__).parent
_MAP = struct.Struct("<IIIIII16sIIQQIIIIQ")  # struct bpf_map_info
_ATTR = struct.Struct("<IIQQIIQII16sII")  # union bpf_attr of BPF_PROG_LOAD, as far as needed
_EPERM = 1
Row = dict[str, Any]


@functools.cache
def _library() -> Path:
    return build.make("capture.so", [HERE / "capture.c"],
                      ["-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"])


@functools.cache
def _loader() -> Path:
    return build.make("load_object", [HERE / "load_object.c"], ["-O1"], ["-lbpf"])


def of_object(name: str, data: bytes) -> list[Row]:
    """The programs of one ELF object."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.bpf.o"
        path.write_bytes(data)
        return capture(name, [str(_loader()), str(path)])


def of_bpftrace(name: str, *argv: str) -> list[Row]:
    """The programs of one script: bpftrace's arguments."""
    return capture(name, ["bpftrace", *argv])


def capture(name: str, argv: list[str]) -> list[Row]:
    """The programs that a command loads; none if it fails before."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events"
        env = {**os.environ, "CAPTURE": str(path), "LD_PRELOAD": str(_library())}
        command = kernel.as_root(["env", f"LD_PRELOAD={_library()}", *argv])
        env.pop("LD_PRELOAD")
        subprocess.run(command, env=env, capture_output=True, timeout=60)
        return list(_rows(name, path)) if path.exists() else []


def _bytes(text: str) -> bytes:
    return b"" if text == "-" else bytes.fromhex(text)


def _rows(name: str, path: Path) -> Iterator[Row]:
    maps: dict[int, Row] = {}
    btfs: dict[int, bytes] = {}
    seen: set[tuple[Any, ...]] = set()
    for line in path.read_text().splitlines():
        kind, *words = line.split()
        if kind == "map":
            maps[int(words[0])] = _map(_bytes(words[1]), maps.get(int(words[2])), btfs)
        elif kind == "btf":
            btfs[int(words[0])] = _bytes(words[1])
        elif kind == "value":
            maps[int(words[0])] |= {"frozen": True, "data_hex": words[1]}
        else:
            row = _prog(name, words, maps, btfs)
            key = (row["insns_hex"], row["prog_type"], row["expected_attach_type"])
            judged = row["kernel_errno"] != _EPERM or row["kernel_log"]
            if judged and key not in seen:
                seen.add(key)
                yield row


def _map(info: bytes, inner: Row | None, btfs: dict[int, bytes]) -> Row:
    (kind, _, key, value, entries, flags, name, _, _, _, _, btf, key_type, value_type, _,
     extra) = _MAP.unpack_from(info)  # fmt: skip
    return {"type": kind, "key_size": key, "value_size": value, "max_entries": entries,
            "map_flags": flags, "map_extra": extra, "name": name.split(b"\0")[0].decode(),
            "btf_key_type_id": key_type, "btf_value_type_id": value_type, "inner": inner,
            "btf": btfs.get(btf)}  # fmt: skip


def _prog(name: str, words: list[str], maps: dict[int, Row], btfs: dict[int, bytes]) -> Row:
    errno, attr, code, ids, btf, funcs, lines, license_, log = words
    raw = _bytes(attr)
    prog_type, _, _, _, _, _, _, version, flags, label, _, attach = _ATTR.unpack_from(raw)
    insns, used = bytearray(_bytes(code)), []
    for pair in ids.split(",")[1:]:
        slot, number = (int(n) for n in pair.split(":"))
        if number in maps and number not in used:
            used.append(number)
        at = used.index(number) if number in used else -1
        struct.pack_into("<i", insns, slot * 8 + 4, at)
    text = _bytes(log).decode(errors="replace")
    found = re.search(r"processed (\d+) insns", text)
    return {
        "name": f"{name}:{label.split(bytes(1))[0].decode()}", "insns_hex": bytes(insns).hex(),
        "prog_type": prog_type, "expected_attach_type": attach, "prog_flags": flags,
        "kern_version": version, "license": _bytes(license_).decode(errors="replace"),
        "maps": [maps[n] for n in used], "btf": btfs.get(int(btf)),
        "func_info": _bytes(funcs), "func_info_rec_size": struct.unpack_from("<I", raw, 76)[0],
        "line_info": _bytes(lines), "line_info_rec_size": struct.unpack_from("<I", raw, 92)[0],
        "attach_btf_id": struct.unpack_from("<I", raw, 108)[0], "kernel_errno": int(errno),
        "kernel_log": text, "processed": int(found[1]) if found else 0,
    }  # fmt: skip


def map_desc(m: Row) -> MapDesc:
    plain = corpus.map_desc({**m, "inner": None}, m["btf"])
    return replace(plain, name=m["name"], inner=map_desc(m["inner"]) if m["inner"] else None)


def program(row: Row, log_level: int = 4) -> Program:
    return Program(
        insns=bytes.fromhex(row["insns_hex"]), prog_type=row["prog_type"],
        expected_attach_type=row["expected_attach_type"], prog_flags=row["prog_flags"],
        license=row["license"], maps=tuple(map_desc(m) for m in row["maps"]),
        log_level=log_level, btf=row["btf"], func_info=row["func_info"],
        func_info_rec_size=row["func_info_rec_size"], line_info=row["line_info"],
        line_info_rec_size=row["line_info_rec_size"], kernel_btf=MACHINE,
        attach_btf_id=row["attach_btf_id"],
    )  # fmt: skip
