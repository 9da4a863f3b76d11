"""`isolation: mpk` in a guest that has protection keys, and here if this machine has."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import Outcome, run
from compat_tests.faults import survivors
from compat_tests.guard import launch
from compat_tests.keys import guest
from compat_tests.victims import build
from libbpf_shim.cli import main
from libbpf_shim.uapi import machine

HERE = Path(__file__).parent
HOST = HERE.parent / "eim" / "host"
INTERFACE = """interface: app
types: {btf: app}
binary: /t/app
functions: {rights: {}}
entries:
  one: {function: one, where: before}
  left: {function: one, where: after}
  two: {function: two, where: before}
"""
GRANTS = """grants: test
interface: app.yaml
classes:
  held: {entries: [one, two], isolation: mpk,
         allow: [read(x), helper(*), map(hash), map(array), map(percpu_array), map(ringbuf)]}
  left: {entries: [left], isolation: auto, allow: [map(array)]}
  calls: {entries: [one], isolation: mpk,
          allow: [call(rights), "helper(*)", map(array), map(percpu_array)]}
  plain: {entries: [one, two], allow: [map(array)]}
bindings:
- {class: held, name: on_one}
- {class: held, name: tell_one}
- {class: left, name: on_return}
- {class: calls, name: calls_rights}
- {class: plain, name: beside}
"""
CODE = ("import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(0); "
        "runpy.run_path(sys.argv[0], run_name='__main__')")


OWN = "import os; os.environ['LIBBPF_SHIM_POLICY'] = '/t/grants.yaml'; " + CODE


def made() -> dict[str, Path]:
    return {
        "app": build.make("keys-app", [HERE / "app.c"], [*build.WARN, "-gbtf", "-O1", "-pthread"]),
        "calls.bpf.o": build.make("keys-calls.bpf.o", [HERE / "calls.bpf.c"], build.BPF_FLAGS,
                                  compiler=build.CLANG),
        "loader": build.make("host-loader", [HOST / "loader.c"], [*build.WARN, "-O1"], ["-lbpf"]),
        "ext.bpf.o": build.make("keys-ext.bpf.o", [HERE / "ext.bpf.c"], build.BPF_FLAGS,
                                compiler=build.CLANG)}


def said(script: str, seconds: float = 400) -> str:
    return guest.boot({
        **{f"/t/{name}": path for name, path in made().items()},
        "/t/app.yaml": INTERFACE, "/t/grants.yaml": GRANTS, "/t/checks.py": HERE / script,
    }, [f"{guest.PRODUCT}/.venv/bin/python", "-I", "-c", OWN, guest.PRODUCT, "/t/checks.py",
        "/t/ext.bpf.o", "/t/app", f"{guest.PRODUCT}/libbpf_shim/_lib/libbpf_shim.so"], seconds)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    found = build.private_copy({**made(), **{name: HERE / name
                                             for name in ("refused.py", "checks.py")}})
    interface = INTERFACE.replace("/t/app", f"{found}/app")
    for name, text in (("app.yaml", interface), ("grants.yaml", GRANTS)):
        (found / name).write_text(text)
        (found / name).chmod(0o644)
    yield found
    shutil.rmtree(found)


here = pytest.mark.skipif(machine.has_keys(), reason="this machine has protection keys")


def under_policy(folder: Path, script: str, *more: Path) -> Outcome:
    """A script of this folder's, in a session with the grants."""
    product = launch.product()
    return run(launch.guarded(
        [str(product / ".venv/bin/python"), "-I", "-c", CODE, str(product),
         *(f"{folder}/{name}" for name in (script, "ext.bpf.o", "app")), *map(str, more)],
        env={"LIBBPF_SHIM_POLICY": f"{folder}/grants.yaml"}))


@here
def test_a_machine_without_keys_refuses_to_attach(folder: Path) -> None:
    done = under_policy(folder, "refused.py")
    assert (done.status, done.out.splitlines()[-1]) == (0, "others are not"), done
    why = "isolation: mpk: this machine has no protection keys (sfi needs none)"
    assert f"program on_one: {why}\n" in done.err, done


@here
def test_policy_check_says_so_and_lets_it_pass(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The grants may be for another machine."""
    assert main(["policy", "check", f"{folder}/grants.yaml"]) == 0
    assert capsys.readouterr().err == "".join(
        f"note: {folder}/grants.yaml: classes.{name}: isolation: mpk: this machine has no "
        "protection keys: programs of the class are refused here, where they are attached\n"
        for name in ("held", "calls"))


# where the machine has keys, the guest shows what it shows
WHERE = [pytest.param("guest", marks=[pytest.mark.long] if machine.has_keys() else []), "machine"]


@pytest.fixture(scope="module", params=WHERE)
def console(request: pytest.FixtureRequest, folder: Path) -> str:
    """What checks.py has said, in which all cases ran."""
    if request.param == "guest":
        if guest.missing():
            pytest.skip(guest.missing())
        return said("checks.py")
    if not machine.has_keys():
        pytest.skip("this machine has no protection keys")
    done = under_policy(folder, "checks.py", launch.library())
    return f"{done.out}\n{done.err}\nended {done.status}\n"


CASES = (
    "running: works", "running: faults", "running: switched", "running: handlers",
    "running: forks", "running: threads", "running: opened", "beginning", "joined", "injected",
    "calls")


@pytest.mark.timeout(500)
@pytest.mark.parametrize("case", CASES)
def test_what_is_under_a_key_is_the_extensions_alone(console: str, case: str) -> None:
    assert f"ok {case} (" in console, console


def test_all_of_it_ended_well(console: str) -> None:
    assert "\nfine\n" in console and "ended 0\n" in console, console


GADGETS = """__asm__(".globl has\\nhas: .byte 0x0f, 0x01, 0xef\\n xrstor (%rdi)\\n"
	"mov $0xef010f90, %eax\\n fxrstor (%rdi)\\n xrstors (%rdi)");
"""


def test_doctor_lists_what_changes_the_rights_to_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a file, the middles of instructions included, and of a process; fxrstor is another."""
    source = tmp_path / "gadgets.c"
    source.write_text(GADGETS)
    library = build.make("gadgets.so", [source], ["-shared", "-fPIC", "-nostdlib"])
    has = next(int(row.split()[0], 16) for row in subprocess.run(
        ["nm", "-D", library], capture_output=True, text=True, check=True).stdout.splitlines()
        if row.endswith(" has"))
    assert main(["doctor", "--gadgets", str(library)]) == 0
    assert capsys.readouterr().out == (
        f"{library}: 2 wrpkru ({has:#x}, {has + 8:#x}), 1 xrstor ({has + 3:#x})\n")
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE,
                          env={"LD_PRELOAD": str(library)}) as child:
        survivors.wait_for("it is loaded", lambda: str(library) in
                           Path(f"/proc/{child.pid}/maps").read_text())
        assert main(["doctor", "--gadgets", str(child.pid)]) == 0
    row = next(r for r in capsys.readouterr().out.splitlines() if r.startswith(str(library)))
    assert row.startswith(f"{library}: 2 wrpkru (0x") and row.count(f"{has & 0xfff:x}") >= 1
    assert main(["doctor", "--gadgets", "/etc/passwd"]) == 2
    assert capsys.readouterr().err == "bpf-shim: /etc/passwd: no ELF file\n"
