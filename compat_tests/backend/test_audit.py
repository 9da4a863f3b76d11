"""The audit log: what is granted is always written, what is refused fills no disk."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from libbpf_shim.backend.audit import BURST, EVERY, Audit
from libbpf_shim.errors import ShimError


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_refusals_in_a_loop_are_counted_and_not_written(tmp_path: Path) -> None:
    now, path = [0.0], tmp_path / "log"
    audit = Audit(path, lambda: now[0])
    for n in range(BURST + 5000):
        audit.write("refused", what=n)
    assert [row["what"] for row in lines(path)] == list(range(BURST))
    audit.write("admitted", what="x")
    rows = lines(path)[BURST:]
    assert [(row["verdict"], row.get("count")) for row in rows] == [
        ("left out", 5000), ("admitted", None)]
    now[0] = EVERY  # one more
    for n in range(7):
        audit.write("refused", what=n)
    assert [row["what"] for row in lines(path)[BURST + 2:]] == [0]
    audit.end()
    audit.end()
    assert [row.get("count") for row in lines(path)[BURST + 3:]] == [6]


def test_what_is_granted_is_always_written(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "log", lambda: 0.0)
    for n in range(2 * BURST):
        audit.write("refused", what=n)
        audit.write("admitted", what=n)
    granted = [row["what"] for row in lines(tmp_path / "log") if row["verdict"] == "admitted"]
    assert granted == list(range(2 * BURST))
    os.chmod(tmp_path / "log", 0o666)
    with pytest.raises(ShimError):
        audit.write("admitted", what="others may write the log")


def test_a_log_has_a_predecessor_and_no_more(tmp_path: Path) -> None:
    """Whoever of several writers comes first to a full one puts it away."""
    path, most, each = tmp_path / "log", 20_000, 400
    writers = [Audit(path, most=most) for _ in range(4)]

    def write(number: int) -> None:
        for n in range(each):
            writers[number].write("admitted", who=number, what=n)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["log", "log.1"]
    assert path.stat().st_size <= most + 4 * 200
    kept = lines(tmp_path / "log.1") + lines(path)
    assert len(kept) > most // 200
    for number in range(4):  # each writer's last lines, none missing in between
        mine = [row["what"] for row in kept if row["who"] == number]
        assert mine == list(range(each - len(mine), each))
