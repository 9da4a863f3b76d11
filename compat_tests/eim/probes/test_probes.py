"""Classes of USDT probes: unmodified programs of libbpf have the arguments that are granted, with
their types, wherever each place passes them; they run at the class's probes and nowhere else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.client import handed
from compat_tests.clients.tool import Outcome, run
from compat_tests.guard import launch
from compat_tests.victims import build
from libbpf_shim import cli
from libbpf_shim.eim import grants
from libbpf_shim.eim.entries import Entries
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError

HERE = Path(__file__).parent
INTERFACE = """interface: app
binary: {folder}/app
types: {{dwarf: {folder}/app}}
entries:
  handled: {{usdt: "app:handled", nonnull: [r],
            prototype: "void (struct request *r, short code, int constant)"}}
  done: {{usdt: "app:done", prototype: "void (struct request *r, long status)", nonnull: [r]}}
  far: {{usdt: "app:far", prototype: "void (struct request *r, long x)"}}
  function: {{function: done, where: before, nonnull: [r]}}
"""
GRANTS = """grants: test
interface: app.yaml
classes:
  watch: {entries: [handled], allow: [read(r.number), read(r.peer.port), read(code),
          read(constant), map(array), map(hash), helper(map_lookup_elem),
          helper(get_attach_cookie)], instructions: 150}
  numbers: {entries: [handled], allow: [read(r.number), map(array), map(hash)]}
  tool: {entries: [done], allow: [read(status), read(regs), "map(*)", "helper(*)"]}
bindings:
- {class: watch, name: on_handled}
- {class: numbers, name: "on_[rc]*"}
"""
ROUNDS = 12
SUM = sum(range(ROUNDS))
SEEN = f"{ROUNDS} {SUM} {-SUM} {ROUNDS // 2} {80 * ROUNDS * 2 // 3} {7 * ROUNDS}"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    found = build.private_copy({
        "app": build.make("probes-app", [HERE / "app.c"], ["-g", "-O1"]),
        "ext.bpf.o": build.make("probes-ext.bpf.o", [HERE / "ext.bpf.c"], build.BPF_FLAGS,
                                compiler=build.CLANG),
        "loader": build.make("probes-loader", [HERE / "loader.c"], [*build.WARN, "-O1"],
                             ["-lbpf"])})
    yield found
    shutil.rmtree(found)


def policy(folder: Path, classes: str, interface: str = INTERFACE) -> dict[str, str]:
    """The environment of a session with it."""
    for name, text in (("app.yaml", interface.format(folder=folder)), ("grants.yaml", classes)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    return {"LIBBPF_SHIM_POLICY": f"{folder}/grants.yaml"}


def loaded(folder: Path, program: str, probe: str, *more: str, classes: str = GRANTS,
           interface: str = INTERFACE) -> Outcome:
    return run(launch.guarded(
        [f"{folder}/loader", f"{folder}/ext.bpf.o", program, f"{folder}/app", probe, str(ROUNDS),
         *more], preload=True, env=policy(folder, classes, interface)))


def test_arguments_are_had_from_every_place(folder: Path) -> None:
    """In registers, in memory and constant: one program, of libbpf's macros. What the loader's map
    says of them is not believed (it is rubbish in the second case)."""
    done = loaded(folder, "on_handled", "handled")
    assert (done.status, done.out) == (0, f"{200 * ROUNDS}\n{SEEN}\n"), done
    done = loaded(folder, "on_read", "handled")
    assert (done.status, done.out) == (0, f"{200 * ROUNDS}\n{ROUNDS} {SUM} 0 0 0 0\n"), done


def test_what_is_not_granted_of_them_is_not_loaded(folder: Path) -> None:
    done = loaded(folder, "on_code", "handled")
    assert done.status and "classes.numbers.allow: - read(code)" in done.err, done
    less = GRANTS.replace("read(r.peer.port), ", "")
    done = loaded(folder, "on_handled", "handled", classes=less)
    assert done.status and "classes.watch.allow: - read(r.peer)" in done.err, done


@pytest.mark.parametrize(("where", "says"), [
    (("done",), "not an entry of the class (it has handled)"),
    (("handled", "done"), "not an entry of the class (it has handled)"),
], ids=["another probe", "a function"])
def test_they_run_at_their_probes_alone(
    folder: Path, where: tuple[str, ...], says: str
) -> None:
    if len(where) > 1 and handed.version() > (1, 1):
        pytest.skip(f"libbpf {handed.version()} makes of USDT's what no uprobe takes")
    done = loaded(folder, "on_read", *where)
    assert done.status == 1 and "not attached" in done.out, done
    assert "program on_read of class numbers: " in done.err and says in done.err, done


def test_a_tool_reads_registers_as_the_places_have_them(folder: Path) -> None:
    """bpftrace reads arguments itself; of a probe with one place that is a register's load."""
    script = f"usdt:{folder}/app:app:done {{ @sum = sum(arg1); }}"
    environment = policy(folder, GRANTS.partition("bindings:")[0]
                         + f"bindings: [{{class: tool, users: [{launch.UID}]}}]\n")
    done = run(launch.guarded(["bpftrace", "-q", "-e", script, "-c", f"{folder}/app {ROUNDS}"],
                              preload=True, env=environment))
    assert f"@sum: {200 * ROUNDS}" in done.out, done


def test_whoever_is_bound_as_a_user_has_loaders_that_try_the_kernel(folder: Path) -> None:
    """libbpf loads nothing before a program without a name or a class has been loaded."""
    users = f"bindings: [{{class: watch, users: [{launch.UID}]}}]\n"
    whole = GRANTS.partition("bindings:")[0] + users
    done = loaded(folder, "on_handled", "handled", classes=whole)
    assert (done.status, done.out) == (0, f"{200 * ROUNDS}\n{SEEN}\n"), done
    done = loaded(folder, "on_code", "handled", classes=whole.replace("read(code),", ""))
    assert done.status and "classes.watch.allow: - read(code)" in done.err, done


def test_another_build_is_not_attached_to(folder: Path) -> None:
    """Nor one whose places are others than when the policy was read."""
    own = Module(f"{folder}/app").build_id.hex()
    for ids, good in ((own, True), (f"[{'ab' * 20}, {own}]", True), ("ab" * 20, False)):
        text = f"{INTERFACE}build_id: {ids}\n"
        done = loaded(folder, "on_read", "handled", interface=text)
        assert (done.status == 0) == good, done
        assert good or f"{folder}/app has build-id {own}, and the policy is for" in done.err
    done = loaded(folder, "on_read", "handled", classes=f"{GRANTS}build_id: {'ab' * 20}\n")
    assert done.status and "and the policy is for abab" in done.err, done


def test_places_that_have_changed_since_are_not_attached_to(folder: Path, tmp_path: Path) -> None:
    """What was proved is of other registers."""
    app = tmp_path / "app"
    shutil.copy(folder / "app", app)
    (tmp_path / "app.yaml").write_text(INTERFACE.format(folder=tmp_path))
    (tmp_path / "grants.yaml").write_text(GRANTS)
    given, wrong = grants.read(str(tmp_path / "grants.yaml"))
    assert given and not wrong
    site = given.interface.entries["handled"].sites[0]
    where = Entries(given, "on_read", "numbers")
    key = (app.stat().st_dev, app.stat().st_ino)
    where.require(str(app), key, site.offset, False, False)
    for ret, offset in ((True, site.offset), (False, site.offset + 1)):
        with pytest.raises(ShimError, match="not an entry of the class"):
            where.require(str(app), key, offset, ret, False)
    data = app.read_bytes()
    assert data.count(b"8@%rdi -2@%esi") == 1
    app.write_bytes(data.replace(b"8@%rdi -2@%esi", b"8@%rsi -2@%edi"))
    with pytest.raises(ShimError, match="are others than when the policy was read") as refused:
        where.require(str(app), key, site.offset, False, False)
    assert refused.value.errno == 1


def test_drafts_and_suggestions_know_probes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = f"{folder}/app"
    assert cli.main(["policy", "init", app, "--usdt", "app:[hd]*"]) == 0
    draft = capsys.readouterr().out
    (tmp_path / "draft.yaml").write_text(draft)
    assert cli.main(["policy", "check", str(tmp_path / "draft.yaml")]) == 0
    assert 'prototype: "void (unsigned long arg0, short arg1, int arg2)"' in draft
    assert f"# build_id: {Module(app).build_id.hex()}" in draft
    assert cli.main(["policy", "init", app, "--usdt", "other:*"]) == 2
    (tmp_path / "app.yaml").write_text(INTERFACE.format(folder=folder))
    capsys.readouterr()
    assert cli.main(["policy", "suggest", str(tmp_path / "app.yaml"), f"{folder}/ext.bpf.o",
                     "--entry", "handled", "--prog", "on_code"]) == 0
    rows = capsys.readouterr().out
    assert [row.strip() for row in rows.splitlines()] == [
        "classes:", "on_code:", "entries: [handled]", "allow:", "- map(array)", "- map(hash)",
        "- read(code)"]
    (tmp_path / "grants.yaml").write_text(GRANTS + f"build_id: {Module(app).build_id.hex()}\n")
    assert cli.main(["policy", "explain", str(tmp_path / "grants.yaml"), "numbers"]) == 0
    said = capsys.readouterr().out
    assert "runs at probe app:handled(struct request *r, short code, int constant), in 2 places" \
        in said
    assert f"runs in build {Module(app).build_id.hex()} alone" in said and "&" not in said
