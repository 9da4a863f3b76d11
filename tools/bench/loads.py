"""PROG_LOAD as a loader waits for it: new, kept, and beside another loader's huge program.

Part of `make bench`. Two loaders share a session. Times are ms of wall clock from request to
reply; those beside a huge program are taken while a worker is at a program that meets the limit of
a million instructions. The worker's memory is its peak resident size.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from compat_tests.backend.test_workers import ENDLESS, SMALL, load, new_map, workers  # noqa: E402
from libbpf_shim.client.session import Session  # noqa: E402

ROUNDS = 100
BRANCHES = 300  # of a program of some size: r0 = 0, then `if r1 == N goto +0` over and over


def sized(count: int) -> str:
    """A program of so many branches."""
    rows = ["b700000000000000"]
    rows += [f"15010000{number:08x}" for number in range(1, count)]
    return "".join([*rows, "9500000000000000"])


def timed(work: Callable[[], int]) -> float:
    """ms; what is loaded or made is closed."""
    began = time.perf_counter()
    fd = work()
    spent = (time.perf_counter() - began) * 1e3
    if fd < 0:
        sys.exit(f"loads: {os.strerror(-fd)}")
    os.close(fd)
    return spent


def peak(pid: int) -> float:
    """MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def beside(slow: Session, quick: Session) -> dict[str, float]:
    """What `quick` waits while `slow` has a program at the limit judged."""
    result: list[int] = []
    began = time.perf_counter()
    thread = threading.Thread(target=lambda: result.append(load(slow, ENDLESS)))
    thread.start()
    waits: dict[str, list[float]] = {"load": [], "map": []}
    memory = 0.0
    while thread.is_alive():
        for pid in workers(quick):
            memory = max(memory, peak(pid))
        waits["load"].append(timed(partial(load, quick, SMALL)))
        waits["map"].append(timed(partial(new_map, quick)))
        time.sleep(0.01)
    spent = time.perf_counter() - began
    return {
        "limit_s": spent, "limit_mib": memory, "others": len(waits["load"]),
        "load_median_ms": statistics.median(waits["load"]), "load_most_ms": max(waits["load"]),
        "map_median_ms": statistics.median(waits["map"]), "map_most_ms": max(waits["map"]),
    }


def measure() -> dict[str, Any]:
    """All rows."""
    with tempfile.TemporaryDirectory(prefix="loads-", dir="/tmp") as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        one = Session(private=True)
        two = Session.of(Path(one.folder))
        rows: dict[str, Any] = {}
        for name, code in (("small", SMALL), ("sized", sized(BRANCHES))):
            timed(partial(load, one, code))
            kept = [timed(partial(load, one, code)) for _ in range(ROUNDS)]
            rows[name] = {"kept_median_ms": statistics.median(kept), "kept_most_ms": max(kept)}
        new = [timed(partial(load, one, sized(BRANCHES + n))) for n in range(1, 11)]
        rows["sized"]["new_median_ms"] = statistics.median(new)
        rows["beside"] = beside(one, two)
        one.close()
        two.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    rows = measure()
    if chosen.json:
        print(json.dumps(rows))
        return
    small, some, at = rows["small"], rows["sized"], rows["beside"]
    print(f"{'PROG_LOAD, ms of wall clock':50} {'median':>8} {'most':>8}   target")
    for name, row, target in (("kept verdict, 2 instructions", small, "< 5"),
                              (f"kept verdict, {BRANCHES + 1} instructions", some, "< 5")):
        print(f"{name:50} {row['kept_median_ms']:8.2f} {row['kept_most_ms']:8.2f}   {target}")
    print(f"{f'new, {BRANCHES + 1} instructions':50} {some['new_median_ms']:8.2f}")
    for name, key in (("beside a huge program: PROG_LOAD", "load"),
                      ("beside a huge program: MAP_CREATE", "map")):
        print(f"{name:50} {at[key + '_median_ms']:8.2f} {at[key + '_most_ms']:8.2f}   < 50")
    print(f"{'a program at the limit answers after, s':50} {at['limit_s']:8.2f} {'':8}   < 8")
    print(f"{'its worker, MiB':50} {at['limit_mib']:8.0f} {'':8}   < 600")


if __name__ == "__main__":
    main()
