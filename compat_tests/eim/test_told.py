"""What `verify --policy` and `policy suggest` say of an object's programs to its author."""

from __future__ import annotations

from pathlib import Path

import pytest

from compat_tests.eim import world
from compat_tests.victims import build
from libbpf_shim import cli

EXT = """
#include <linux/bpf.h>
#include <linux/ptrace.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
struct request { unsigned magic; void *connection; };
extern void host_same(struct request *r) __ksym;
SEC("uprobe") int good(struct pt_regs *ctx)
{
	struct request *r = (void *)PT_REGS_PARM1(ctx);
	return r->magic;
}
SEC("uprobe") int other(struct pt_regs *ctx)
{
	struct request *r = (void *)PT_REGS_PARM1(ctx);
	host_same(r->connection);
	return 0;
}
SEC("uprobe") int stranger(struct pt_regs *ctx) { return 0; }
char LICENSE[] SEC("license") = "GPL";
"""
GRANTS = """
grants: test
interface: app.yaml
classes:
  c: {entries: [sure], allow: [read(r.magic), read(r.connection), call(host_same)]}
bindings: [{class: c, name: good}, {class: c, name: other}]
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    (folder / "ext.bpf.c").write_text(EXT)
    (folder / "app.btf").write_bytes(world.types())
    (folder / "app.yaml").write_text(world.INTERFACE)
    (folder / "grants.yaml").write_text(GRANTS)
    made = build.make("told.bpf.o", [folder / "ext.bpf.c"], build.BPF_FLAGS, compiler=build.CLANG)
    (folder / "ext.bpf.o").write_bytes(Path(made).read_bytes())
    return folder


def asked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main([*arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_one_without_a_class_is_named_and_the_others_are_judged(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grants, ext = f"{desk}/grants.yaml", f"{desk}/ext.bpf.o"
    status, said, _ = asked(capsys, "verify", "--policy", grants, ext)
    assert status == 1 and "\ngood: accepted" in f"\n{said}" and "\nother: rejected" in said
    assert "\nstranger: not judged: program stranger (tag " in said
    assert "\nhint: to bind it, add to bindings: - {class: NAME, name: stranger}\n" in said
    assert asked(capsys, "verify", "--policy", grants, "--prog", "stranger", ext)[0] == 1
    assert asked(capsys, "verify", "--policy", grants, "--prog", "good", ext)[0] == 0
    status, _, wrong = asked(capsys, "verify", "--policy", grants, "--class", "none", ext)
    assert status == 2 and "no class none" in wrong


def test_pointers_and_functions_of_the_applications_are_called_by_their_names(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said, _ = asked(capsys, "verify", "--policy", f"{desk}/grants.yaml", "--prog", "other",
                       f"{desk}/ext.bpf.o")
    assert "call host_same#" in said and "kernel-function" not in said
    assert "= proven: R1 is an untrusted pointer to connection\n" in said
    assert "R1 is loaded from an untrusted pointer to request: " in said


def test_a_function_that_is_declared_otherwise_is_the_applications(
    desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "ext.bpf.c"
    source.write_text(EXT.replace("void host_same(struct request *r)", "void host_same(int r)")
                      .replace("host_same(r->connection)", "host_same(r->magic)"))
    made = build.make("otherwise.bpf.o", [source], build.BPF_FLAGS, compiler=build.CLANG)
    status, _, said = asked(capsys, "verify", "--policy", f"{desk}/grants.yaml", str(made))
    assert status == 2
    assert said == "bpf-shim: extern host_same: of another type than the application's\n"


def test_where_entries_pass_different_things_the_option_that_chooses_is_named(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asking = ("policy", "suggest", f"{desk}/app.yaml", f"{desk}/ext.bpf.o", "--prog", "good")
    status, _, said = asked(capsys, *asking)
    assert status == 1 and "good: no class admits it" in said
    assert said.count("hint: ") == 1 and "--entry NAME" in said
    status, found, said = asked(capsys, *asking, "--entry", "sure")
    assert (status, said) == (0, "") and "- read(r.magic)" in found
