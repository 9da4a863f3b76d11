"""`isolation: mpk` in a guest that has protection keys."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import run
from compat_tests.guard import launch
from compat_tests.keys import guest
from compat_tests.victims import build
from libbpf_shim.cli import main
from libbpf_shim.uapi import machine

HERE = Path(__file__).parent
INTERFACE = """interface: app
types: {dwarf: app}
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
  plain: {entries: [one, two], allow: [map(array)]}
bindings:
- {class: held, name: on_one}
- {class: held, name: tell_one}
- {class: left, name: on_return}
- {class: plain, name: beside}
"""
CODE = ("import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(0); "
        "runpy.run_path(sys.argv[0], run_name='__main__')")


OWN = "import os; os.environ['LIBBPF_SHIM_POLICY'] = '/t/grants.yaml'; " + CODE


def made() -> dict[str, Path]:
    return {
        "app": build.make("keys-app", [HERE / "app.c"], [*build.WARN, "-O1", "-pthread"]),
        "ext.bpf.o": build.make("keys-ext.bpf.o", [HERE / "ext.bpf.c"], build.BPF_FLAGS,
                                compiler="clang-14")}


def said(script: str, seconds: float = 120) -> str:
    return guest.boot({
        **{f"/t/{name}": path for name, path in made().items()},
        "/t/app.yaml": INTERFACE, "/t/grants.yaml": GRANTS, "/t/checks.py": HERE / script,
    }, [f"{guest.PRODUCT}/.venv/bin/python", "-I", "-c", OWN, guest.PRODUCT, "/t/checks.py",
        "/t/ext.bpf.o", "/t/app", f"{guest.PRODUCT}/libbpf_shim/_lib/libbpf_shim.so"], seconds)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    found = build.private_copy({**made(), "refused.py": HERE / "refused.py"})
    for name, text in (("app.yaml", INTERFACE), ("grants.yaml", GRANTS)):
        (found / name).write_text(text)
        (found / name).chmod(0o644)
    yield found
    shutil.rmtree(found)


here = pytest.mark.skipif(machine.has_keys(), reason="this machine has protection keys")


@here
def test_a_machine_without_keys_refuses_to_attach(folder: Path) -> None:
    product = launch.product()
    done = run(launch.guarded(
        [str(product / ".venv/bin/python"), "-I", "-c", CODE, str(product),
         *(f"{folder}/{name}" for name in ("refused.py", "ext.bpf.o", "app"))],
        env={"LIBBPF_SHIM_POLICY": f"{folder}/grants.yaml"}))
    assert (done.status, done.out.splitlines()[-1]) == (0, "others are not"), done
    why = "isolation: mpk: this machine has no protection keys (sfi needs none)"
    assert f"program on_one: {why}\n" in done.err, done


@here
def test_policy_check_says_so_and_lets_it_pass(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The grants may be for another machine."""
    assert main(["policy", "check", f"{folder}/grants.yaml"]) == 0
    assert capsys.readouterr().err == (
        f"note: {folder}/grants.yaml: classes.held: isolation: mpk: this machine has no "
        "protection keys: programs of the class are refused here, where they are attached\n")


@pytest.mark.long
@guest.needs_guest
def test_what_is_under_a_key_is_the_extensions_alone() -> None:
    out = said("checks.py")
    assert "\nfine\n" in out and out.rstrip().endswith("guest: ended 0"), out
