"""override.py OBJECT LIBRARY VICTIM: kprobes attached from Python, and what they must not do."""

import json
import os
import subprocess
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(sys.argv[2]))))

from libbpf_shim.client import Object  # noqa: E402
from libbpf_shim.errors import ShimError  # noqa: E402


def code(call: Any, *args: Any, **named: Any) -> int:
    try:
        call(*args, **named).close()
    except ShimError as error:
        return int(error.errno)
    return 0


def start() -> str:
    return subprocess.run([sys.argv[3]], capture_output=True, text=True, check=True,
                          env=dict(os.environ, LD_PRELOAD=sys.argv[2])).stdout


with Object.open(sys.argv[1]).load() as made:
    uid = made.programs["uid"]
    errors = [
        code(uid.attach_uprobe, "/bin/true", 0x1000),
        code(uid.attach_kprobe, "vfs_read"),
        code(uid.attach_kprobe, "__x64_sys_nothing"),
        code(uid.attach_kprobe, "__x64_sys_getuid", offset=4),
        code(uid.attach_kprobe, "__x64_sys_getuid", offset=4, ret=True),
        code(uid.attach_kprobe, ""),
        code(uid.attach_kprobe, "x" * 512),
        code(uid.attach_kprobe, "__x64_sys_getuid"),
    ]
    links = [p.attach() for p in made.programs.values()]
    seen = start()
    counts = [made.maps["out"][i] for i in range(9)]
    for link in links:
        link.close()
    print(json.dumps([errors, seen, counts, start().split("\n")[0]]))
