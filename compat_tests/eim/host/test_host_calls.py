"""Programs call functions of the application that they run in, and read its variables: by an
unmodified loader, `__ksym` externs, libbpf's own resolution by the BTF of a module."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import Outcome, Session, run
from compat_tests.faults import survivors
from compat_tests.guard import launch
from compat_tests.victims import build

HERE = Path(__file__).parent


CODE = ("import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(0); "
        "runpy.run_path(sys.argv[0], run_name='__main__')")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    found = build.private_copy({
        "app": build.make("host-app", [HERE / "app.c"], ["-g", "-O1", "-Wall", "-Werror"]),
        "ext.bpf.o": build.make("host-ext.bpf.o", [HERE / "ext.bpf.c"], build.BPF_FLAGS,
                                compiler=build.CLANG),
        "one.bpf.o": build.make("host-one.bpf.o", [HERE / "ext.bpf.c"],
                                [*build.BPF_FLAGS, "-DONE"], compiler=build.CLANG),
        "throws": build.make("throws", [HERE / "throws.cpp"], ["-g", "-O2"], compiler="g++"),
        "loader": build.make("host-loader", [HERE / "loader.c"], [*build.WARN, "-O1"], ["-lbpf"]),
        "python.py": HERE / "python_loader.py",
        "app.yaml": HERE / "app.yaml", "grants.yaml": HERE / "grants.yaml"})
    yield found
    shutil.rmtree(found)


def extended(folder: Path, program: str, where: str, *args: str, grants: str = "grants.yaml",
             app: str = "app", one: bool = True) -> Outcome:
    return run(started(folder, program, where, *args, grants=grants, app=app, one=one))


def started(folder: Path, program: str, where: str, *args: str, grants: str = "grants.yaml",
            app: str = "app", one: bool = True) -> list[str]:
    object_ = "one.bpf.o" if one else "ext.bpf.o"
    return launch.guarded(
        [*(f"{folder}/{name}" for name in ("loader", object_, app)), program, where, *args],
        preload=True, env={"LIBBPF_SHIM_POLICY": f"{folder}/{grants}"})


def policy(folder: Path, name: str, grants: str, interface: str = "") -> str:
    """Other files of that name; the grants'."""
    (folder / f"{name}.yaml").write_text(interface or (folder / "app.yaml").read_text())
    (folder / f"{name}-grants.yaml").write_text(
        f"grants: test\ninterface: {name}.yaml\nclasses:\n{grants}")
    for one in (f"{name}.yaml", f"{name}-grants.yaml"):
        (folder / one).chmod(0o644)
    return f"{name}-grants.yaml"


PLAIN = "price 240.000 exact 47.50 tokens 0 served 10 jumps 0 bad 0"  # of ten requests
# Program, where, the application's arguments; what it says, what the program has seen.
RUNS = [
    # arguments and results in vector and x87 registers, which the function called changes
    ("calls_spoil", "app_price", PLAIN, "out 10 60 0 0 0 0 each 0"),
    ("calls_exact", "app_exact%return", PLAIN, "out 10 60 0 0 0 0 each 0"),
    # 1 - 20 - 300 + 255000 - 1280000; 0x80, 0x8765 and 0xffffffff as their types have them
    ("calls_narrow", "app_handle", PLAIN, "out 10 -1025319 -128 34661 -1 1 each 0"),
    ("calls_count", "app_handle", PLAIN.replace("tokens 0", "tokens 70"),
     "out 10 0 0 0 0 0 each 0"),
    ("calls_fill", "app_handle", PLAIN,
     f"out 0 6 {int.from_bytes(b'abcdxx', 'little')} 0 0 0 each 0"),
    # the last of ten: nine were served, and number 9 is the newest
    ("reads_state", "app_handle", PLAIN, "out 10 9 40 3 9 0 each 0"),
    # both before and behind the call
    ("counts_each", "app_handle", PLAIN, "out 0 0 0 0 0 0 each 20"),
    # the function called is extended too: one run inside of another, and no further
    ("calls_again", "app_handle", PLAIN.replace("served 10", "served 30"),
     "out 20 0 0 0 0 0 each 0"),
]


@pytest.mark.parametrize("case", RUNS, ids=[row[0] for row in RUNS])
def test_programs_call_what_they_run_in(folder: Path, case: tuple[str, str, str, str]) -> None:
    program, where, says, seen = case
    done = extended(folder, program, where, "10", one=False)
    assert (done.status, done.out) == (0, f"{says}\n{seen}\n"), done


@pytest.mark.parametrize("object_", ["one.bpf.o", "ext.bpf.o"])
def test_a_program_that_loads_others_finds_functions_and_variables(
    folder: Path, object_: str
) -> None:
    """As light skeletons do, by bpf_btf_find_by_name_kind()."""
    load = ["bpftool", "prog", "load", "-L", str(folder / object_)]
    policies = [{"LIBBPF_SHIM_POLICY": str(folder / "grants.yaml")}, {}]
    with_one, without = (run(launch.guarded(load, preload=True, env=env)) for env in policies)
    assert (with_one.status, with_one.err) == (0, "")
    assert without.status and without.err.startswith("err -2\n"), without


def python(folder: Path, object_: str, program: str, grants: str = "grants.yaml") -> Outcome:
    product = launch.product()
    return run(launch.guarded(
        [str(product / ".venv/bin/python"), "-I", "-c", CODE, str(product),
         *(f"{folder}/{name}" for name in ("python.py", object_, "app")), str(launch.library()),
         program, "app_handle", "10"], env={"LIBBPF_SHIM_POLICY": f"{folder}/{grants}"}))


@pytest.mark.parametrize("name", [
    "calls_count", *(pytest.param(name, marks=pytest.mark.long)
                     for name in ("calls_fill", "calls_narrow", "reads_state"))])
def test_the_python_api_finds_functions_and_variables(folder: Path, name: str) -> None:
    says, seen = next(row[2:] for row in RUNS if row[0] == name)
    done = python(folder, "ext.bpf.o", name)
    assert (done.status, done.out) == (0, f"{says}\n{seen.rpartition(' each')[0]}\n"), done


@pytest.mark.long
def test_the_python_api_says_what_is_nowhere(folder: Path) -> None:
    """The policy's interface has no such function."""
    text = (folder / "app.yaml").read_text()
    other = policy(folder, "fewer", "  any: {entries: [handle]}\n",
                   text.replace("  host_five: {function: five}\n", ""))
    done = python(folder, "ext.bpf.o", "calls_narrow", other)
    assert done.status == 1 and "extern host_five: not in the kernel, nor in an application" in \
        done.out, done


@pytest.mark.parametrize("case", [
    pytest.param(row, marks=[] if row[0] in ("calls_exact", "calls_fill") else pytest.mark.long)
    for row in RUNS], ids=[row[0] for row in RUNS])
def test_isolated_programs_call_what_they_run_in(
    folder: Path, case: tuple[str, str, str, str]
) -> None:
    text = (folder / "grants.yaml").read_text()
    isolated = re.sub(r"(?m)^(  \w+: \{)(?!.*isolation:)", r"\1isolation: sfi, ", text)
    assert isolated.count("sfi") == 10
    (folder / "isolated.yaml").write_text(isolated)
    (folder / "isolated.yaml").chmod(0o644)
    program, where, says, seen = case
    done = extended(folder, program, where, "10", one=False, grants="isolated.yaml")
    assert (done.status, done.out) == (0, f"{says}\n{seen}\n"), done


def test_vector_registers_are_kept_whichever_are_in_use(folder: Path) -> None:
    """SSE alone, AVX, AVX-512, x87 too: as many as the processor has."""
    done = extended(folder, "calls_spoil", "app_handle", "10", "vectors",
                    grants=policy(folder, "vectors", HELD))
    runs = int(done.out.split("out ")[1].split()[0])
    assert 20 <= runs <= 50, done
    assert done.out == (f"{PLAIN.replace('served 10', f'served {runs}')}\n"
                        f"out {runs} {6 * runs} 0 0 0 0 each 0\n"), done


@pytest.mark.long
def test_a_function_that_waits_outlives_the_tool(folder: Path) -> None:
    """The program stays where it is until the call has come back, and nobody waits for that."""
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    fifo.chmod(0o666)
    before = sessions()
    with Session(started(folder, "calls_jump", "app_handle", "10", str(fifo), one=False)) as tool:
        with fifo.open("wb"):  # once the application is inside of the function
            tool.child.kill()
            survivors.wait_for("the session is over", lambda: not sessions() - before)
        tool.until(PLAIN.encode())


def sessions() -> set[str]:
    folder = launch.RUN_DIR / "sessions"
    return set(os.listdir(folder)) if folder.exists() else set()


def test_a_function_that_does_not_come_back_ends_the_run(folder: Path) -> None:
    """It jumps out of the hit; later hits are runs like any other."""
    done = extended(folder, "calls_jump", "app_handle", "10", "jump", one=False)
    assert done.out == (f"{PLAIN.replace('served 10 jumps 0', 'served 0 jumps 10')}\n"
                        "out 10 0 0 0 0 0 each 0\n"), done
    assert extended(folder, "calls_jump", "app_handle", "10", one=False).out == (
        f"{PLAIN}\nout 10 10 0 0 0 0 each 0\n")


THROWS = """interface: throws
types: {dwarf: throws}
binary: FOLDER/throws
entries:
  handle: {function: app_handle, where: before, nonnull: [r]}
functions: {spoil: {}}
"""
HELD = """  c: {entries: [handle], allow: ["helper(*)", "map(*)", call(spoil)]}
bindings:
- {class: c, name: calls_spoil}
"""


def test_exceptions_and_walks_come_through_a_run(folder: Path) -> None:
    """From the function called to who was interrupted, as if that had called it."""
    grants = policy(folder, "throws", HELD, THROWS.replace("FOLDER", str(folder)))
    for what, says, seen in (("1", "destroyed 5 caught 10 sum 0 seen 0", "out 5 0"),
                             ("2", "destroyed 5 caught 0 sum 2170 seen 3", "out 10 60")):
        done = extended(folder, "calls_spoil", "app_handle", what, grants=grants, app="throws")
        assert done.out == f"{says}\n{seen} 0 0 0 0 each 0\n", done
    # without the library's description of frames they would not
    done = extended(folder, "calls_spoil", "app_handle%bare", "2", "wait", grants=grants,
                    app="throws")
    assert done.out == "destroyed 5 caught 0 sum 2170 seen 0\nout 0 0 0 0 0 0 each 0\n", done
    assert "an exception of a host function's would end the process" in done.err, done


def test_an_application_that_runs_already_is_extended_too(folder: Path) -> None:
    done = extended(folder, "calls_spoil", "app_price%bare", "10", "wait")
    assert done.out == f"{PLAIN}\nout 10 60 0 0 0 0 each 0\n", done


REFUSED = [
    ("not granted", HELD.replace(", call(spoil)", ""), "",
     ["calling host function spoil\nclass c: missing capability call(spoil)",
      "classes.c.allow: - call(spoil)"]),
    ("not in the binary", HELD,
     'functions: {spoil: {function: spoiled, prototype: "long (long n)"}}',
     ["app: function spoiled: no symbol of that name"]),
    ("no function of the interface", HELD.replace("spoil)", "low_byte)"),
     "functions: {low_byte: {}}",
     ["'spoil': not found in kernel or module BTFs"]),
    ("of another type", HELD, 'functions: {spoil: {prototype: "long (long n, long m)"}}',
     ["(func ksym) 'spoil': func_proto"]),
]


@pytest.mark.parametrize("case", REFUSED[:2] + [
    pytest.param(row, marks=pytest.mark.long) for row in REFUSED[2:]], ids=[r[0] for r in REFUSED])
def test_what_is_refused_says_why(folder: Path, case: tuple[str, str, str, list[str]]) -> None:
    _, grants, functions, says = case
    interface = (folder / "app.yaml").read_text().partition("state:")[0] + functions
    name = policy(folder, "refused", grants, interface + "\n" if functions else "")
    done = extended(folder, "calls_spoil", "app_handle%bare", "10", "wait", grants=name)
    assert "out 10" not in done.out, done
    assert all(text in done.err for text in says), done


def test_a_name_in_two_interfaces_is_that_of_the_programs_class(folder: Path) -> None:
    """A policy of two applications: the loader finds the first one's function of that name."""
    both = folder / "both"
    both.mkdir()
    both.chmod(0o755)
    for number, name in enumerate(("app", "throws")):
        text = (folder / "app.yaml").read_text() if name == "app" else THROWS
        policy(both, name, HELD if number else HELD.replace("calls_spoil", "other"),
               text.replace("dwarf: ", "dwarf: ../").replace("FOLDER", str(folder)))
    done = extended(folder, "calls_spoil", "app_handle", "2", grants="both", app="throws")
    assert done.out.endswith("out 10 60 0 0 0 0 each 0\n"), done


def test_a_session_shows_the_types_of_its_grants_alone(folder: Path) -> None:
    """As bpftool lists what the kernel has: an interface is a module's BTF."""
    found = {}
    for grants in ("grants.yaml", ""):
        env = {"LIBBPF_SHIM_POLICY": f"{folder}/{grants}"} if grants else {}
        done = run(launch.guarded(["bpftool", "-j", "btf", "list"], preload=True, env=env))
        found[grants] = [(row["name"], row["kernel"]) for row in json.loads(done.out)]
    assert found == {"grants.yaml": [("vmlinux", True), ("app", True)], "": [("vmlinux", True)]}
