"""Diagnostics: what `bpf-shim verify` and `bpf-shim explain` say, and that it is so."""

from __future__ import annotations

import ast
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.verifier import test_corpus
from compat_tests.victims.build import CLANG
from libbpf_shim import cli
from libbpf_shim.isa.insn import Insn, encode
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.diagnose import codes, pages, report
from libbpf_shim.verifier.diagnose.errors import errors
from libbpf_shim.verifier.program import Program
from tools import explain_mistakes

KPROBE = 2
EXIT = Insn(0x95, 0, 0, 0, 0)
# Mistake -> code, and what its explanation must have in it.
MISTAKES: dict[str, tuple[str, tuple[str, ...]]] = {
    "unchecked_lookup": ("BV0301", ("v->count += 1", "or NULL", "bpf_map_lookup_elem() = NULL")),
    "packet": ("BV0312", ("eth->h_proto", "12 bytes proven present",
                          "packet of 12 bytes, offset 12")),
    "stack_index": ("BV0313", ("text[at] = 1", "fp-16 to fp+0", "the branch is not taken",
                               "bpf_get_prandom_u32() = 0x10")),
    "endless_loop": ("BV0702", ("infinite loop detected",)),
    "leaked_record": ("BV0601", ("it is acquired here", "bpf_ringbuf_reserve", "is taken")),
    "wrong_helper": ("BV0501", ("bpf_redirect is a helper of this program type",)),
    "uninitialised": ("BV0201", ("R6 !read_ok", "R6 holds nothing", "the branch is taken")),
    "misaligned_stack": ("BV0317", ("misaligned stack access off 0+0+-12 size 8",)),
    "context_offset": ("BV0321", ("a field of 8 bytes at offset 0",)),
    "unreleased_lock": ("BV0603", ("it is acquired here", "bpf_spin_lock", "the branch is")),
    "dead_code": ("BV0101", ("unreachable insn 2",)),
    "large_stack": ("BV0105", ("combined stack size of 2 calls is 608",)),
}


@pytest.fixture(scope="module")
def objects() -> Iterator[dict[str, Path]]:
    """Mistake -> its object."""
    with tempfile.TemporaryDirectory() as folder:
        yield {source.name.removesuffix(".bpf.c"): explain_mistakes.compiled(source, Path(folder))
               for source in sorted(explain_mistakes.SOURCES.glob("*.bpf.c"))}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_explained(
    objects: dict[str, Path], name: str, capsys: pytest.CaptureFixture[str],
) -> None:
    code, parts = MISTAKES[name]
    assert cli.main(["verify", str(objects[name])]) == 1
    said = capsys.readouterr().out
    assert f"error[{code}]" in said and said.count("error[") == said.count("hint: ")
    missing = [part for part in parts if part not in said]
    assert not missing, said


def test_a_division_by_what_may_be_zero_is_none(
    objects: dict[str, Path], capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["verify", str(objects["divided_by_zero"])]) == 0
    assert re.match(r"divided_by_zero: accepted: 10 instructions, \d+ processed, \d+ states "
                    r"\(peak \d+\), [\d.]+ ms, stack 0 bytes\n$", capsys.readouterr().out)


def test_each_mistake_has_its_row() -> None:
    sources = {s.name.removesuffix(".bpf.c") for s in explain_mistakes.SOURCES.glob("*.bpf.c")}
    assert sources == {*MISTAKES, "divided_by_zero"}


@pytest.mark.skipif(CLANG != "clang-14", reason="the page is of what clang-14 compiles")
def test_the_page_in_the_docs_is_what_is_said() -> None:
    assert explain_mistakes.PAGE.read_text() == explain_mistakes.page(), \
        "run tools/explain_mistakes.py"


def test_json_has_what_the_text_has(
    objects: dict[str, Path], capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["verify", "--json", str(objects["stack_index"])]) == 1
    (program,) = json.loads(capsys.readouterr().out)["programs"]
    (error,) = program["errors"]
    assert not program["accepted"] and program["errno"] == 22 and program["processed"] > 0
    assert (error["code"], error["at"], error["place"]["text"].strip()) == (
        "BV0313", 11, "text[at] = 1;")
    assert error["kernel"].startswith("invalid variable-offset write to stack R1")
    assert [step["at"] for step in error["path"]] == [3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(("arguments", "status"), [
    (["verify", "/nonexistent.bpf.o"], 2), (["verify", "/bin/true"], 2),
    (["explain", "BV9999"], 2), (["explain", "bv0301"], 0), (["explain"], 0),
])  # fmt: skip
def test_exit_codes(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(arguments) == status
    captured = capsys.readouterr()
    assert bool(captured.err) == bool(status) and bool(captured.out) != bool(status)


def test_a_program_of_that_name_only(
    objects: dict[str, Path], capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(objects["packet"])
    assert cli.main(["verify", "--prog", "packet", path]) == 1
    assert cli.main(["verify", "--prog", "none", path]) == 2
    assert "no program none" in capsys.readouterr().err


def test_errors_that_have_nothing_to_do_with_each_other_are_all_told() -> None:
    code = [Insn(0xBF, 2, 3, 0, 0), Insn(0x79, 0, 1, 1000, 0), Insn(0x7B, 2, 0, 0, 0), EXIT]
    found = [one.code for one in report.diagnose(Program(encode(code), KPROBE))]
    assert found == ["BV0201", "BV0321", "BV0302"]


def test_at_most_as_many_as_were_asked_for() -> None:
    code = [*(Insn(0x79, 0, 1, 1000 + 8 * n, 0) for n in range(9)), EXIT]
    program = Program(encode(code), KPROBE)
    assert [len(errors(program, most)) for most in (1, 3, 20)] == [1, 3, 9]


def test_an_accepted_program_has_no_errors() -> None:
    assert not report.diagnose(Program(encode([Insn(0xB7, 0, 0, 0, 0), EXIT]), KPROBE))


def test_every_code_has_a_page() -> None:
    assert len({row.code for row in codes.ROWS}) == len(codes.ROWS)
    for code in codes.BY_CODE:
        assert pages.page(code).startswith(code)
    assert set(pages._PAGES) == set(codes.BY_CODE)


def messages() -> set[str]:
    """First lines that the verifier refuses with, numbers in the place of what is filled in."""
    found = set()
    for path in Path(verify.__code__.co_filename).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Reject"
            if isinstance(node, ast.Call) and called and len(node.args) == 2:
                found.add(_text(node.args[1]).partition("\n")[0])
    return {text for text in found if len(text.replace("1", "").strip()) > 3}


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "1"
                       for part in node.values)
    return ""


def test_what_is_refused_has_a_code() -> None:
    said = messages()
    none = {text for text in said if codes.find(text)[0] is codes.OTHER
            and not text.startswith("verifier bug")}
    assert len(said) > 150
    assert not none, none


@pytest.mark.skipif(not test_corpus.CORPUS.exists(), reason="no corpus")
def test_the_first_error_is_the_verdicts() -> None:
    """Over a sample of the corpus: its errno and last line are verify()'s."""
    rows, blobs = test_corpus.corpus()
    refused = [row for row in rows[::9] if row["kernel_verdict"] == "reject"]
    told = 0
    for row in refused:
        program = test_corpus.program(row, blobs)
        verdict = verify(program)
        if not verdict.errno or verdict.stats.insns_processed > test_corpus.LARGEST:
            continue
        first = report.diagnose(program, 1)[0]
        last = first.kernel.rpartition("\n")[2]
        assert first.errno == verdict.errno, row["name"]
        assert last in verdict.log, (row["name"], first, verdict.log[-300:])
        told += first.code != codes.OTHER.code
    assert told > 50
