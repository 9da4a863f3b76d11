"""Interfaces and grants: what is wrong is named with its file, line and key; what is not held is
refused; types are the same wherever they come from."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from compat_tests.eim import world
from libbpf_shim import cli
from libbpf_shim.eim import builds, check, ctype, explain, grants, interface, policy, schema, types
from libbpf_shim.eim.bind import one
from libbpf_shim.errors import ShimError
from libbpf_shim.verifier.policy import Policy

HERE = Path(__file__).parent
WRONG: list[dict[str, Any]] = yaml.safe_load((HERE / "wrong.yaml").read_text())
GOOD = "classes:\n  c: {entries: [sure], allow: [read(r.uri)]}\n"


def wrong(folder: Path, row: dict[str, Any]) -> list[str]:
    text = world.probes() if "probes" in row else world.INTERFACE
    if "interface" in row:
        was, becomes = row["interface"]
        assert was in text
        text = text.replace(was, becomes)
    (folder / "app.btf").write_bytes(world.types())
    (folder / "app.yaml").write_text(text)
    (folder / "grants.yaml").write_text(
        "grants: test\ninterface: app.yaml\n" + row.get("grants", GOOD))
    found = check.file(str(folder / "grants.yaml"))
    binary = text.split()[1] if "probes" in row else "/none"
    return [error.message.replace(f"{folder}/", "").replace(binary, "BINARY").replace(
        builds.of(binary).hex() or "?", "BUILD") for error in found]


@pytest.mark.parametrize("row", WRONG, ids=[row["name"] for row in WRONG])
def test_what_is_wrong_is_named(row: dict[str, Any], tmp_path: Path) -> None:
    said = wrong(tmp_path, row)
    assert any(one.startswith(row["says"]) for one in said), said


def test_nothing_is_said_where_nothing_is_wrong(tmp_path: Path) -> None:
    assert wrong(tmp_path, {}) == []
    assert cli.main(["policy", "check", str(tmp_path / "grants.yaml"),
                     str(tmp_path / "app.yaml")]) == 0


def test_of_a_folder_every_document_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["policy", "check", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path}: no interface or grants in it\n"
    wrong(tmp_path, {})
    assert cli.main(["policy", "check", str(tmp_path)]) == 0
    (tmp_path / "more.yml").write_text("grants: more\ninterface: none.yaml\n")
    (tmp_path / "notes.txt").write_text("[")
    assert cli.main(["policy", "check", str(tmp_path)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said and all(line.startswith(f"{tmp_path}/more.yml:") for line in said)


def test_an_interface_that_is_not_there_is_said_where_it_is_named(tmp_path: Path) -> None:
    wrong(tmp_path, {})
    (tmp_path / "app.yaml").rename(tmp_path / "ape.yaml")
    said = [error.message for error in check.file(str(tmp_path / "grants.yaml"))]
    assert said == [f"{tmp_path}/grants.yaml:2: interface: {tmp_path}/app.yaml: "
                    "No such file or directory"]


def test_a_path_that_yaml_reads_otherwise_is_to_be_quoted(tmp_path: Path) -> None:
    wrong(tmp_path, {"grants": "classes:\n  c: {entries: [sure], allow: [read(r.in[1].a)]}\n"})
    error, = check.file(str(tmp_path / "grants.yaml"))
    assert error.line == 4 and error.hint == 'write it in quotes: "read(r.in[1].a)"'


def test_a_call_that_there_is_not_is_said_once_and_where_no_call_is(tmp_path: Path) -> None:
    row = {"grants": "classes:\n  c: {entries: [sure], allow: [call(finish)]}\n"}
    assert len(wrong(tmp_path, row)) == 1
    bare = ("interface: app\ntypes: {btf: app.btf}\n"
            "entries:\n  sure: {function: process, where: before}\n")
    assert wrong(tmp_path, {**row, "interface": [world.INTERFACE, bare]}) == [
        "grants.yaml:4: classes.c.allow[0]: call(finish): there is no such call (there is none)"]


def test_an_enumeration_with_members_below_zero_is_signed(tmp_path: Path) -> None:
    """Else its least value is zero, and any is `>= 0`."""
    (tmp_path / "app.c").write_text(
        "enum way { BACK = -1, ON }; enum size { SMALL, LARGE = 1u << 31 };\n"
        "int walk(enum way way, enum size size) { return way == BACK ? 0 : (int)size; }\n"
        "int main(void) { return walk(ON, LARGE); }\n")
    subprocess.run(["gcc", "-g", "-o", "app", "app.c"], cwd=tmp_path, check=True)
    (tmp_path / "app.yaml").write_text("interface: app\ntypes: {dwarf: app}\nentries: {}\n"
                                       "functions: {walk: {pre: ['way >= 0', 'size >= 0']}}\n")
    found, said = interface.read(str(tmp_path / "app.yaml"))
    assert found and not said
    assert [type.signed for _, type in found.functions["walk"].proto.params] == [True, False]


def test_errors_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong(tmp_path, {"grants": "classes:\n  c: {entries: [sore]}\n"})
    assert cli.main(["policy", "check", "-j", str(tmp_path / "grants.yaml")]) == 1
    row = json.loads(capsys.readouterr().out)[0]
    assert (row["line"], row["key"]) == (4, "classes.c.entries[0]")


def properties(rows: schema.Schema, name: str = "") -> set[str]:
    """Every key that a schema knows."""
    found = set(rows.get("properties", ()))
    for inner in [*rows.get("properties", {}).values(), *rows.get("$defs", {}).values()]:
        found |= properties(inner)
    extra = rows.get("additionalProperties")
    return found | (properties(extra) if isinstance(extra, dict) else set())


@pytest.mark.parametrize("name", ["interface", "grants"])
def test_every_key_is_documented(name: str) -> None:
    text = (HERE.parents[1] / "docs" / "eim.md").read_text()
    missing = {key for key in properties(schema.load(name)) if f"`{key}`" not in text}
    assert not missing


def bound(*bindings: dict[str, Any]) -> grants.Grants:
    rows = yaml.safe_dump({"classes": {"a": {"entries": ["sure"]}, "b": {"entries": ["sure"]}},
                           "bindings": list(bindings)})
    found, errors = world.read(rows)
    assert found is not None and not errors, errors
    return found


def test_a_program_has_exactly_one_class() -> None:
    digest = bytes(range(32))
    found = bound({"class": "a", "name": "obs*"}, {"class": "a", "tag": digest[:8].hex()},
                  {"class": "b", "name": "obs_b", "users": [7]})
    assert one(found, "obs_b", digest, 6) == "a"
    with pytest.raises(ShimError, match="bound to 2 classes"):
        one(found, "obs_b", digest, 7)
    with pytest.raises(ShimError, match="bound to no class") as refused:
        one(found, "other", bytes(32), 7)
    assert refused.value.errno == 1 and "name: other" in refused.value.hint
    exact = bound({"class": "b", "sha256": digest.hex()})
    assert one(exact, "any", digest, 0) == "b"
    with pytest.raises(ShimError):
        one(exact, "any", bytes(32), 0)


HEADER = """
typedef unsigned long u64; typedef unsigned u32; typedef long s64;
struct connection { int fd; unsigned flags : 3, kind : 5; struct connection *next;
                    char name[16]; };
struct str { u64 len; char *data; };
struct request { u32 magic; struct connection *connection; struct str uri; s64 status;
                 struct pair { int a, b; } in[2]; void *opaque; };
"""


def shape(found: Policy) -> list[object]:
    """Without ids, which differ from source to source."""
    return [(n.path, n.size, n.nonnull, n.reads, n.writes, n.links) for n in found.nodes] + \
        [(a.off, a.name, a.node, a.granted) for a in found.args]


def test_a_header_gives_the_same_policy_as_btf(tmp_path: Path) -> None:
    rows = GOOD.replace("read(r.uri)", "read(r.uri), read(r.connection.next.name), "
                                       "read(r.connection.kind), 'read(r.in[1].b)'")
    (tmp_path / "app.h").write_text(HEADER)
    text = world.INTERFACE.replace("types: {btf: app.btf}", "types: {header: app.h}")
    text = text.replace("function: process,",
                        'function: process, prototype: "int (struct request *r, int flags)",')
    text = text.replace("function: finish, where",
                        'function: finish, prototype: "void (struct request *r)", where')
    text = text.replace("process: {where: instead,", "process: {where: instead, "
                        'prototype: "int (struct request *r, int flags)",')
    text = text.replace("served: {", "served: {type: s64, ").replace(
        "first: {}", "first: {type: 'struct connection *'}")
    (tmp_path / "app.yaml").write_text(text)
    (tmp_path / "grants.yaml").write_text("grants: test\ninterface: app.yaml\n" + rows)
    found, errors = grants.read(str(tmp_path / "grants.yaml"))
    assert found is not None and not errors, errors
    assert shape(policy.policy(found, "c")) == shape(world.class_of(rows, "c"))


PROTOTYPES = [
    ("int (struct request *r, unsigned long n)", ["struct request *", "unsigned long"]),
    ("void(void)", []), ("int name(int)", ["int"]),
    ("const char *f(const struct request *const r)", ["struct request *"]),
    ("long long unsigned f(unsigned x, double d, char)", ["unsigned", "double", "char"]),
]


@pytest.mark.parametrize("text, words", PROTOTYPES)
def test_prototypes(text: str, words: list[str]) -> None:
    found = ctype.prototype(text, types.parsed(world.types()))
    assert [type.words for _, type in found.params] == words


REFUSED = ["int (int x[3])", "int (...)", "int (struct none *p)", "int (int a, int a)",
           "int (void x)", "int (*)", "int (int b c)"]


@pytest.mark.parametrize("text", REFUSED)
def test_prototypes_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ctype.prototype(text, types.parsed(world.types()))


def test_doubles_take_no_register_of_numbers() -> None:
    found = ctype.prototype("int (int a, double d, struct request *r)",
                            types.parsed(world.types()))
    assert found.registers() == {"a": 112, "r": 104}


def test_an_interface_that_is_read_twice_is_the_same() -> None:
    path = str(world.folder() / "app.yaml")
    first, second = interface.read(path)[0], interface.read(path)[0]
    assert first is not None and second is not None and first.blob == second.blob


def test_counters_and_what_holds_processors_are_explained() -> None:
    found, wrong = world.read(
        "classes:\n  a: {entries: [process], instructions: 9, budget: counter, spectre: off}\n"
        "  b: {extends: a, override: 'in [1, 3]', default: 2, spectre: full}\n")
    assert found is not None and not wrong, wrong
    ended = "is ended by a counter where that many are not proved: it then "
    rows = explain.rights(found, "b")
    assert [row for row in explain.rights(found, "a") if row not in rows] == [f"{ended}returns 0"]
    assert f"{ended}skips the function with 2" in rows
    assert "holds processors that run ahead: full" in rows and "has at most 9 instructions" in rows


def test_who_has_a_class_is_explained_and_told_of_a_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A change of bindings gives rights as much as one of capabilities."""
    key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    texts = {"old": "{class: a, name: 'obs_*', users: [0, 54321]}",
             "new": f"{{class: a, signature: {key}}}"}
    (tmp_path / "app.btf").write_bytes(world.types())
    (tmp_path / "app.yaml").write_text(world.INTERFACE)
    for name, row in texts.items():
        (tmp_path / f"{name}.yaml").write_text(
            f"grants: test\ninterface: app.yaml\nclasses:\n  a: {{entries: [sure]}}\n"
            f"bindings:\n- {row}\n")
    assert cli.main(["policy", "diff", f"{tmp_path}/old.yaml", f"{tmp_path}/new.yaml"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "class a", "  - is the class of programs named obs_*, of user root or 54321",
        f"  + is the class of programs signed by {key}"]


def test_bytes_up_to_a_length_are_explained() -> None:
    found, errors = world.read("classes:\n  c: {entries: [sure], allow: ['read(*r.uri.data)']}\n",
                               world.LENGTHS)
    assert found is not None and not errors
    rows = explain.rights(found, "c")
    assert "reads *r.uri.data (as many bytes as r.uri.len says, 64 at most)" in rows
