"""make demo: stock bpftrace on a stock bash, as a user who may not call bpf(2).

bash evaluates 5000 times an expression whose values are known; what bpftrace prints is then
compared with the arithmetic. Exit status 0 only if every number is right.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ROUNDS = 5000
SCRIPT = f"for ((i = 0; i < {ROUNDS}; i++)); do let 'x = i * i % 1000'; done"
PROGRAM = """
uprobe:/bin/bash:evalexp { @calls = count(); @expression[str(arg0)] = count(); @t[tid] = nsecs; }
uretprobe:/bin/bash:evalexp /@t[tid]/ {
	@value = hist(retval); @ns = hist(nsecs - @t[tid]); delete(@t[tid]);
}
"""
LIMIT = 120.0  # seconds


def log2_bucket(value: int) -> int:
    """Index of bpftrace's power-of-two bucket: 0 -> 0, 1 -> 1, 2..3 -> 2, 4..7 -> 3."""
    return value.bit_length()


def wanted() -> tuple[dict[str, int], dict[int, int]]:
    """Calls by expression, and values by bucket: condition and step are expressions as well."""
    calls = {"i = 0": 1, f"i < {ROUNDS}": ROUNDS + 1, "x = i * i % 1000": ROUNDS, "i++": ROUNDS}
    values = [0, *[1] * ROUNDS, 0, *[i * i % 1000 for i in range(ROUNDS)], *range(ROUNDS)]
    buckets: dict[int, int] = {}
    for value in values:
        buckets[log2_bucket(value)] = buckets.get(log2_bucket(value), 0) + 1
    return calls, buckets


def number(text: str) -> int:
    """A bound as bpftrace prints it: 512, 1K, 2M."""
    return int(text.rstrip("KMG")) << {"K": 10, "M": 20, "G": 30}.get(text[-1], 0)


def histogram(out: str, name: str) -> dict[int, int]:
    """Bucket -> count of the map NAME in bpftrace's output; empty buckets are left out."""
    block = re.search(rf"^@{name}: *\n((?:\[.*\n)+)", out, re.M)
    found = {}
    for line in (block.group(1) if block else "").splitlines():
        match = re.match(r"\[(\w+)[\],].*?(\d+) \|", line)
        if match and int(match.group(2)):
            found[log2_bucket(number(match.group(1)))] = int(match.group(2))
    return found


def main() -> int:
    """Runs the control and the demo, prints both, and judges."""
    from compat_tests.guard import launch

    control = subprocess.run(launch.guarded(["bpftrace", "-e", "BEGIN { exit(); }"]),
                             capture_output=True, text=True, timeout=LIMIT)
    print(f"without the shim, uid {launch.UID}: {control.stderr.strip()}")
    with tempfile.NamedTemporaryFile("w", suffix=".bash") as script:
        script.write(SCRIPT + "\n")
        script.flush()
        Path(script.name).chmod(0o644)
        argv = ["bpftrace", "-e", PROGRAM, "-c", f"/bin/bash {script.name}"]
        done = subprocess.run(launch.guarded(argv, preload=True), capture_output=True,
                              text=True, timeout=LIMIT)
    print("LD_PRELOAD=libbpf_shim.so bpftrace -e '...' -c '/bin/bash script'")
    print(done.stdout, done.stderr, sep="")
    calls, buckets = wanted()
    seen = {key: int(count) for key, count in
            re.findall(r"^@expression\[(.*)\]: (\d+)$", done.stdout, re.M)}
    total = re.search(r"^@calls: (\d+)$", done.stdout, re.M)
    right = {
        "calls": bool(total) and int(total.group(1)) == sum(calls.values()),  # type: ignore[union-attr]
        "expressions": seen == calls,
        "values": histogram(done.stdout, "value") == buckets,
        "latencies": sum(histogram(done.stdout, "ns").values()) == sum(calls.values()),
        "status": done.returncode == 0,
        "control": control.returncode != 0,
    }
    for name, good in right.items():
        print(f"{name}: {'as computed' if good else 'WRONG'}")
    return 0 if all(right.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
