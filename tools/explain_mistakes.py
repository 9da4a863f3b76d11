"""Writes docs/howto/verifier-errors.md: what `bpf-shim verify` says of typical mistakes.

    python tools/explain_mistakes.py           # writes it
    python tools/explain_mistakes.py --check   # exit 1 if it would change

The programs are in compat_tests/verifier/mistakes; the page is of what clang-14 compiles.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from compat_tests.victims.build import CLANG  # noqa: E402

SOURCES = ROOT / "compat_tests" / "verifier" / "mistakes"
PAGE = ROOT / "docs" / "howto" / "verifier-errors.md"
FLAGS = ["-target", "bpf", "-g", "-O2", "-Wall", "-Werror", "-D__TARGET_ARCH_x86",
         "-I/usr/include/x86_64-linux-gnu", "-c"]
HEAD = """# Why is my program refused?

`bpf-shim verify FILE.bpf.o` judges the programs of an object as Linux 6.18 does, without loading
anything, and says for each mistake: the line, the fact that was needed and the one that was
proven, how the register came to that, an input that fails where one is found, the kernel's own
line, and what to do. `--json` has the same as data; `bpf-shim explain CODE` has a page for each
code.

This page is made by `tools/explain_mistakes.py`, which runs it on the programs of
`compat_tests/verifier/mistakes`.
"""


def compiled(source: Path, folder: Path) -> Path:
    """The object; paths in it are relative, so that they are the same everywhere."""
    target = folder / source.name.replace(".bpf.c", ".bpf.o")
    subprocess.run([CLANG, *FLAGS, "-fdebug-compilation-dir=.", source.name, "-o", target],
                   check=True, cwd=SOURCES)
    return target


def said(path: Path) -> str:
    """What verify prints of the object's programs, without what differs from run to run."""
    from libbpf_shim.cli.verify import judged
    from libbpf_shim.client import offline
    from libbpf_shim.client.object import Object
    from libbpf_shim.verifier.diagnose.report import render

    lines = []
    for named in offline.programs(Object.open(path)):
        assert isinstance(named, offline.Named)
        row = judged(named, 5)
        lines.append(f"{row['name']}: {'accepted' if row['accepted'] else 'rejected'}")
        lines += [render(path.name, error) for error in row["errors"]]
    return "\n\n".join(lines)


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted(SOURCES.glob("*.bpf.c")):
            first, _, code = source.read_text().partition("\n")
            title = first.removeprefix("/* ").removesuffix(" */").rstrip(".")
            body = code.replace('#include "common.h"\n', "").strip()
            parts.append(f"## {title}\n\n```c\n{body}\n```\n\n```\n"
                         f"{said(compiled(source, Path(folder)))}\n```\n")
    return "\n".join(parts)


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        return int(not PAGE.exists() or PAGE.read_text() != text)
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
