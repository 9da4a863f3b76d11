"""The compiled verifier and the sources that it was made of: the same verdicts and figures.

A library of other sources is never loaded, since its name holds a digest of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compat_tests.verifier import test_corpus
from libbpf_shim import compiled
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.path import prune

ROOT = Path(__file__).parents[2]
EVERY = 40  # of the corpus
LARGEST = 5000  # instructions that the kernel processed
ASK = "from compat_tests.verifier import test_compiled; test_compiled.answer()"


def sample() -> list[list[object]]:
    rows, blobs = test_corpus.corpus()
    out: list[list[object]] = []
    for row in rows[::EVERY]:
        if ((row.get("stats") or {}).get("processed") or 0) < LARGEST:
            v = verify(test_corpus.program(row, blobs))
            s = v.stats
            out.append([row["name"], v.errno, v.log, s.insns_processed, s.total_states,
                        s.peak_states, s.max_states_per_insn])
    return out


def answer() -> None:
    json.dump([prune.__file__, sample()], sys.stdout)


@pytest.mark.skipif(not test_corpus.CORPUS.exists(), reason=f"no {test_corpus.CORPUS.name}")
def test_plain_python_gives_the_same_verdicts() -> None:
    done = subprocess.run([sys.executable, "-c", ASK], cwd=ROOT, capture_output=True, check=True,
                          env={**os.environ, "LIBBPF_SHIM_PURE": "1"}, timeout=100)
    where, plain = json.loads(done.stdout)
    assert where.endswith("prune.py")
    assert plain == json.loads(json.dumps(sample()))
    assert len(plain) > 40


def test_what_was_built_is_what_runs() -> None:
    pytest.importorskip("mypyc", reason="no mypyc: nothing was compiled")
    assert compiled.library(), "make build compiles the verifier"
    assert prune.__file__.endswith(".so")


def test_a_changed_source_has_no_library(tmp_path: Path) -> None:
    copy = tmp_path / "libbpf_shim"
    ignored = shutil.ignore_patterns("_lib", "_data", "_bin", "__pycache__", "*.so")
    shutil.copytree(compiled.PACKAGE, copy, ignore=ignored)
    assert compiled.key(str(copy)) == compiled.key()
    for name in ("verifier/check.py", "verifier/path/prune.py", "isa/insn.py", "btf/kinds.py",
                 "compiled.py"):
        before = compiled.key(str(copy))
        (copy / name).write_text((copy / name).read_text() + "\n")
        assert compiled.key(str(copy)) != before, name


def test_compiled_are_all_of_the_verifier_but_what_is_named() -> None:
    names = {Path(source).stem for source in compiled.sources()}
    folder = {p.stem for p in (ROOT / "libbpf_shim" / "verifier").rglob("*.py")
              if p.parent.name != "diagnose"}
    assert names == folder - compiled.PLAIN | {"insn"}
    assert folder >= compiled.PLAIN
