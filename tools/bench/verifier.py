"""Verification beside the kernel's BPF_PROG_LOAD, over programs of the corpus, in `make bench`.

Each program is judged here and loaded there in turn, several times; a figure is the median. A
class goes by the instructions that the kernel processed. Programs that meet the limit of a
million run in a process of their own, which tells what memory they take. Ours is CPU time, the
kernel's is that of the call, with its JIT. 1 if an instruction of the larger programs takes more
than WANTED us.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from compat_tests.oracle import kernel  # noqa: E402
from compat_tests.verifier import test_corpus as corpus  # noqa: E402
from libbpf_shim.verifier import verify  # noqa: E402
from libbpf_shim.verifier.env import INSN_LIMIT  # noqa: E402

WANTED = 6.0  # us a processed instruction, the median of programs over 1,000
CLASSES = ((0, 100), (100, 1000), (1000, 10_000), (10_000, INSN_LIMIT))
MOST = 60  # programs of a class
CLOSE = 1.2
Row = dict[str, Any]


def processed(row: Row) -> int:
    return int((row.get("stats") or {}).get("processed") or 0)


def chosen(rows: list[Row]) -> list[list[Row]]:
    """Accepted programs, by class."""
    found = []
    for low, high in CLASSES:
        fits = [r for r in rows if r["kernel_verdict"] == "accept"
                and max(low, 1) <= processed(r) < high]
        found.append(fits[:: max(1, len(fits) // MOST)][:MOST])
    return found


class Asked:
    """One program, and what both sides took for it."""

    def __init__(self, row: Row, blobs: dict[str, bytes]) -> None:
        self.row = row
        self.program = replace(corpus.program(row, blobs), log_level=0)
        self.record = row | {
            "insns_hex": corpus.instructions(row).hex(), "btf_file": "",
            "attach_btf_id": corpus.kernel_id(row.get("attach_btf_name") or ""),
        }  # fmt: skip
        self.btf = {"btf": blobs[row["btf_file"]]} if row.get("btf_file") else {}
        self.here: list[float] = []
        self.there: list[float] = []
        self.steps = 0  # 0: refused here

    def ask(self, real: Any) -> None:
        start = time.process_time()
        verdict = verify(self.program)
        self.here.append((time.process_time() - start) * 1e6)
        self.steps = 0 if verdict.errno else verdict.stats.insns_processed
        if real is not None:
            try:
                told = real.load_record(self.record, log_level=4, **self.btf)
            except OSError:
                return
            if told.ok:
                self.there.append(told.usec)

    def figures(self) -> dict[str, Any]:
        known = processed(self.row)
        out: dict[str, Any] = {
            "name": self.row["name"], "processed": self.steps, "kernel_processed": known,
            "ms": round(statistics.median(self.here) / 1000, 3),
            "us_per_insn": round(statistics.median(self.here) / max(self.steps, 1), 2),
        }  # fmt: skip
        if self.there:
            out["kernel_ms"] = round(statistics.median(self.there) / 1000, 3)
            out["kernel_us_per_insn"] = round(statistics.median(self.there) / known, 2)
        return out


def one(name: str) -> int:
    """A program by itself, told as JSON."""
    rows, blobs = corpus.corpus()
    program = next(corpus.program(r, blobs) for r in rows if r["name"] == name)
    start = time.process_time()
    verdict = verify(replace(program, log_level=0))
    print(json.dumps({
        "name": name, "processed": verdict.stats.insns_processed, "errno": verdict.errno,
        "s": round(time.process_time() - start, 2),
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }))  # fmt: skip
    return 0


def at_the_limit(rows: list[Row]) -> list[dict[str, Any]]:
    names = [r["name"] for r in rows if corpus.judged(r) and processed(r) > INSN_LIMIT]
    found = []
    for name in names:
        done = subprocess.run([sys.executable, __file__, "--one", name], cwd=ROOT, text=True,
                              capture_output=True, check=True)
        found.append(json.loads(done.stdout))
    return found


def gather(rounds: int) -> dict[str, Any]:
    rows, blobs = corpus.corpus()
    rows = [r for r in rows if corpus.judged(r)]
    real = None if kernel.why_not() or not kernel.DRIVER.exists() else kernel.driver()
    classes = [[Asked(row, blobs) for row in some] for some in chosen(rows)]
    for _ in range(rounds):
        for some in classes:
            for asked in some:
                asked.ask(real)
    figures = [[a.figures() for a in some] for some in classes]
    return {"classes": figures, "limit": at_the_limit(rows)}


def _median(rows: list[dict[str, Any]], key: str) -> str:
    values = [row[key] for row in rows if key in row]
    return f"{statistics.median(values):.2f}" if values else "-"


def close(row: dict[str, Any]) -> bool:
    return bool(1 / CLOSE <= row["processed"] / row["kernel_processed"] <= CLOSE)


def table(found: dict[str, Any]) -> tuple[str, bool]:
    """What is printed, and whether it is as quick as it must be."""
    lines = [f"{'verification, instructions processed':38}{'programs':>9}{'ms':>9}{'kernel':>9}"
             f"{'us each':>9}{'kernel':>9}{'refused':>9}{'within 1.2x':>13}"]
    good = True
    for (low, high), rows in zip(CLASSES, found["classes"], strict=True):
        taken = [r for r in rows if r["processed"]]
        share = f"{100 * sum(map(close, taken)) / max(len(taken), 1):.0f} %"
        each = _median(taken, "us_per_insn")
        lines.append(
            f"{f'{low:,} to {high:,}':38}{len(rows):>9}{_median(taken, 'ms'):>9}"
            f"{_median(taken, 'kernel_ms'):>9}{each:>9}{_median(taken, 'kernel_us_per_insn'):>9}"
            f"{len(rows) - len(taken):>9}{share:>13}")
        good = good and (low < 1000 or not taken or float(each) <= WANTED)
    everything = [r for rows in found["classes"] for r in rows if r["processed"]]
    for row in sorted(everything, key=lambda r: -r["ms"])[:5]:
        beside = f", kernel {row['kernel_ms']} ms" if "kernel_ms" in row else ""
        lines.append(f"slowest: {row['name']}: {row['ms']} ms{beside}, "
                     f"{row['processed']:,} processed")
    for row in sorted((r for r in everything if not close(r)),
                      key=lambda r: -r["processed"] / r["kernel_processed"])[:5]:
        lines.append(f"more steps: {row['name']}: {row['processed']:,} processed, "
                     f"kernel {row['kernel_processed']:,}")
    for row in found["limit"]:
        lines.append(f"limit: {row['name']}: {row['s']} s, {row['mb']} MB")
    return "\n".join(lines), good


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="tools/bench/verifier.py")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="every program's figures")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not corpus.CORPUS.exists():
        print(f"bench: no verification times: no {corpus.CORPUS}", file=sys.stderr)
        return 0
    if given.one:
        return one(given.one)
    found = gather(given.rounds)
    text, good = table(found)
    print(json.dumps(found) if given.json else text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
