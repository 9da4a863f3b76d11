"""Runs the tools of this folder on python3.11 and on postgres; what the kernel answered.

`python -m compat_tests.kinds.usdt.act` as root, where bpf(2) works, records the answers anew.
"""

from __future__ import annotations

import functools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from compat_tests.clients.tool import KERNEL, SHIM, Session, Way, normal, run
from compat_tests.guard import launch
from compat_tests.kinds.usdt import servers
from compat_tests.victims import build

HERE = Path(__file__).parent
EXPECTED = HERE / "expected.json"
PYTHON = "/usr/bin/python3.11"
OURS = ("k_act", "k_generator", "k_leaf", "k_main", "k_middle")  # functions of work.py
# function__entry alone tells of nothing: the interpreter looks at it where it traces lines
PROBES = (PYTHON, "python", "function__entry", "line")


@functools.cache
def tools() -> dict[str, Path]:
    """The libbpf loader, its object, and the programs that are probed."""
    found = build.make("function.bpf.o", [HERE / "function.bpf.c"], build.BPF_FLAGS,
                       compiler=build.CLANG)
    loader = build.make("loader", [HERE / "loader.c"], [*build.WARN, "-O2"], ["-lbpf"])
    return {"function.bpf.o": found, "loader": loader, "work.py": HERE / "work.py",
            "work.sql": HERE / "work.sql", "api.py": HERE / "api.py"}


def script(folder: Path, name: str, path: str) -> str:
    """A bpftrace script, put into the folder with the names filled in."""
    text = (HERE / name).read_text().replace("$P", path).replace("$V", str(folder))
    (folder / name).write_text(text)
    return str(folder / name)


def said(text: str, folder: Path) -> list[str]:
    """The lines that tell of probes: bpftrace also says what it could not do."""
    return [line for line in normal(text, folder)
            if not line.startswith(("usdt:", "~", "open(", "Invalid", "ERROR: failed to detach"))
            and "WARNING" not in line]


def python_by_bpftrace(way: Way, folder: Path) -> list[str]:
    """All eight probes of the interpreter, which the tool starts."""
    work = f"{PYTHON} -I -S {folder}/work.py"
    outcome = run(way.tool(["bpftrace", script(folder, "python.bt", PYTHON), "-c", work]))
    assert outcome.status == 0, outcome
    return said(outcome.out, folder)


def running(way: Way, folder: Path) -> Session:
    return Session(way.target([PYTHON, "-I", "-S", f"{folder}/work.py", "wait"]), stdin=-1)


def one_python(way: Way, folder: Path) -> list[str]:
    """Of two that run, one is named; the other's calls are nobody's."""
    with running(way, folder) as named, running(way, folder) as other:
        for session in (named, other):
            session.until(b"READY\n")
        program = (f"usdt:{PYTHON}:python:function__entry {{ @[str(arg1)] = count(); }} "
                   f"usdt:{PYTHON}:python:line {{ @l[str(arg1), arg2] = count(); }} "
                   'interval:ms:100 { printf("READY\\n"); }')
        pid = str(named.child.pid)
        with Session(way.tool(["bpftrace", "-B", "line", "-p", pid, "-e", program])) as tool:
            tool.until(b"READY\n")
            for session in (other, named):
                session.send(b"go\n")
                assert session.end().status == 0
            lines = said(tool.end().out, folder)
    return [line for line in lines if any(f"[{name}" in line for name in OURS)]


def everybody(way: Way, folder: Path, loader: list[str]) -> list[str]:
    """A loader that attaches in every process: one that runs, and one that comes."""
    with running(way, folder) as early:
        early.until(b"READY\n")
        with Session([*loader, str(folder / "function.bpf.o"), *PROBES], stdin=-1) as tool:
            tool.until(b"READY\n")
            early.send(b"go\n")
            assert early.end().status == 0
            late = run(way.target([PYTHON, "-I", "-S", f"{folder}/work.py"]))
            assert late.status == 0, late
            assert tool.child.stdin
            tool.child.stdin.close()
            tool.child.stdin = None
            lines = tool.end().out.splitlines()
    return sorted(line for line in lines if line.split()[1:2] and line.split()[1] in OURS)


def python_by_libbpf(way: Way, folder: Path) -> list[str]:
    return everybody(way, folder, way.tool([f"{folder}/loader"]))


def python_by_api(way: Way, folder: Path) -> list[str]:
    """The Python API, which the kernel has not: what libbpf answers there is what is wanted."""
    assert way.name != "kernel"
    code = ("import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(0); "
            "runpy.run_path(sys.argv[0], run_name='__main__')")
    interpreter = str(launch.product() / ".venv" / "bin" / "python")
    return everybody(way, folder, launch.guarded(
        [interpreter, "-I", "-c", code, str(launch.product()), f"{folder}/api.py"]))


def postgres_by_bpftrace(way: Way, folder: Path) -> list[str]:
    """A server with its children, and a client's statements."""
    server = servers.postgres()
    assert server
    with servers.running(way, server) as data:
        argv = ["bpftrace", "-B", "line", script(folder, "postgres.bt", str(server))]
        with Session(way.tool(argv)) as tool:
            tool.until(b"READY\n")
            servers.ask(data, folder / "work.sql")
            # stopped, it throws away what it has not read yet: two turns later that is all read
            tool.until(b"done drop table t;\n")
            for _ in range(2):
                tool.again(b"READY\n")
            return said(tool.stop().out, folder)


CASES: tuple[Callable[[Way, Path], list[str]], ...] = (
    python_by_bpftrace, one_python, python_by_libbpf, python_by_api, postgres_by_bpftrace)


def answer(way: Way, case: Callable[[Way, Path], list[str]]) -> list[str]:
    folder = build.private_copy(tools())
    try:
        return case(way, folder)
    finally:
        shutil.rmtree(folder)


def expected() -> dict[str, list[str]]:
    """As the kernel answered."""
    recorded: dict[str, list[str]] = json.loads(EXPECTED.read_text())
    return recorded


def main() -> None:
    way = {"shim": SHIM}.get("".join(sys.argv[1:]), KERNEL)
    found = {case.__name__: answer(way, case) for case in CASES
             if way is not KERNEL or case is not python_by_api}
    rows = [f" {json.dumps(name)}: {json.dumps(lines, indent=2)}" for name, lines in found.items()]
    text = "{\n" + ",\n".join(rows) + "\n}\n"
    if way is KERNEL:
        EXPECTED.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
