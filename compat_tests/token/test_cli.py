"""bpf-shim token: what it makes, what it says, exit codes; stdout is data."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from compat_tests.victims import build
from libbpf_shim import cli
from libbpf_shim.token import chain, claims, keys, request

Run = pytest.CaptureFixture[str]


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["token", "key", "key"]) == 0
    return tmp_path / "key"


def said(run: Run, *words: str, code: int = 0) -> str:
    """stdout of a verb, or stderr where it fails."""
    assert cli.main(["token", *words]) == code
    out, err = run.readouterr()
    assert (code == 0 and not err) or (code and err and not out) or words[0] == "explain"
    return out if code in (0, 1) and out else err


def test_a_token_is_minted_narrowed_explained_and_revoked(key: Path, capsys: Run) -> None:
    text = said(capsys, "mint", "--key", "key", "--expires", "12h", "--attach", "uprobe,test_run",
                "--map-bytes", "64K", "--uid", "7", "--uid", "0", "--class", "observe")
    Path("parent").write_text(text)
    said(capsys, "attenuate", "parent", "--uid", "7", "--binary", "/bin/true", "--out", "child")
    assert stat.S_IMODE(Path("child").stat().st_mode) == 0o600
    told = json.loads(said(capsys, "explain", "-j", "--key", "key", "child"))
    assert told["accepted"] is True and told["checked"] is True
    first, second = (step["claims"] for step in told["steps"])
    assert first["attach"] == ["uprobe", "test_run"] and first["map_bytes"] == 65536
    assert first["uids"] == [0, 7] and second["uids"] == [7] and first["classes"] == ["observe"]
    assert len(second["build_ids"][0]) == 40
    assert told["together"] == {**first, **second}
    assert "accepted: yes" in said(capsys, "explain", "--key", "key", "child")
    assert "accepted: not checked" in said(capsys, "explain", "child")
    assert "revoked" in said(capsys, "revoke", "--key", "key", "child")
    assert "before" in said(capsys, "revoke", "--key", "key", told["name"])
    assert "accepted: no: revoked" in said(capsys, "explain", "--key", "key", "child", code=1)
    assert "accepted: yes" in said(capsys, "explain", "--key", "key", "parent")
    said(capsys, "revoke", "--key", "key", "--family", "child")
    assert "no: revoked" in said(capsys, "explain", "--key", "key", "parent", code=1)


def test_a_program_becomes_a_constraint(key: Path, capsys: Run) -> None:
    Path("request.h").write_text(said(capsys, "header"))
    source = Path("small.bpf.c")
    source.write_text(
        '#include "request.h"\n'
        'static int here;\n'
        'static __attribute__((noinline)) int most(struct shim_token_request *r)\n'
        '{ int n = 0; for (int i = 0; i < 32; i++) n += r->build_id[i]; '
        'return n <= 0 && r->insn_cnt <= 100; }\n'
        '__attribute__((section("syscall"), used)) int small(struct shim_token_request *r)\n'
        '{ return r->op != SHIM_TOKEN_LOAD || most(r); }\n'
        '__attribute__((section("syscall"), used)) int state(struct shim_token_request *r)\n'
        '{ return here++; }\n')
    made = build.make("small.bpf.o", [source], build.BPF_FLAGS, compiler=build.CLANG,
                      headers=[Path("request.h")])
    Path("t").write_text(said(capsys, "mint", "--key", "key", "--program", f"{made}:small"))
    shown = said(capsys, "explain", "t")
    assert "must answer other than 0" in shown and "exit" in shown
    assert "uses maps" in said(capsys, "mint", "--key", "key", "--program", f"{made}:state",
                               code=2)
    assert "2 programs" in said(capsys, "mint", "--key", "key", "--program", str(made), code=2)
    program = chain.from_text(Path("t").read_bytes()).claims[0].program
    assert program
    from libbpf_shim.token.program import Programs

    small, large = (request.Request(request.Op.LOAD, 0, insn_cnt=n) for n in (100, 101))
    assert Programs().grants(program, small, 0) and not Programs().grants(program, large, 0)


@pytest.mark.parametrize(("words", "code", "line"), [
    (["mint", "--key", "key"], 2, "say nothing"),
    (["mint", "--key", "nokey", "--uid", "1"], 3, "nokey"),
    (["mint", "--key", "key", "--attach", "fentry"], 2, "attach fentry"),
    (["mint", "--key", "key", "--expires", "soon"], 2, "soon"),
    (["mint", "--key", "key", "--map-bytes", "1T"], 2, "1T"),
    (["mint", "--key", "key", "--build-id", "xy"], 2, "xy"),
    (["mint", "--key", "key", "--build-id", "ab"], 2, "no token can have"),
    (["mint", "--key", "key", "--class", "a/b"], 2, "no token can have"),
    (["mint", "--key", "key", "--uid", "-1"], 2, "no token can have"),
    (["attenuate", "t", "--uid", "2"], 2, "uids: more"),
    (["attenuate", "key", "--uid", "1"], 1, "not a valid one"),
    (["attenuate", "none", "--uid", "1"], 2, "none"),
    (["mint", "--key", "key", "--uid", "1", "--out", "t"], 2, "t: File exists"),
    (["key", "key"], 2, "File exists"), (["revoke", "--key", "t", "t"], 3, "not a key"),
], ids=lambda word: " ".join(word) if isinstance(word, list) else None)
def test_what_is_asked_wrongly_is_said(
    key: Path, capsys: Run, words: list[str], code: int, line: str
) -> None:
    said(capsys, "mint", "--key", "key", "--uid", "1", "--out", "t")
    assert line in said(capsys, *words, code=code)


def test_a_forged_token_is_explained_as_one(
    key: Path, capsys: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = chain.mint(bytes(32), claims.Claims(program=b"\xff" * 16, expires=2**62))
    Path("t").write_text(chain.to_text(forged))
    shown = said(capsys, "explain", "--key", "key", "t", code=1)
    assert "accepted: no: not a valid one" in shown and f"second {2**62}" in shown
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"bst1.nonsense")))
    assert "not a valid one" in said(capsys, "explain", "-", code=1)
    assert keys.read(key)
