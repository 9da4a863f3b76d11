"""bpf-shim shows the same objects as bpftool under the shim, in its words."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from compat_tests.clients.processes import Eight
from compat_tests.clients.tool import SHIM, run
from compat_tests.guard import launch
from compat_tests.victims import build

B = "/sys/fs/bpf"
INTERPRETED = os.environ.get("LIBBPF_SHIM_TIER") == "0"


def stock(*words: str) -> str:
    """bpftool's answer under the shim."""
    outcome = run(launch.guarded(["bpftool", *words], preload=True))
    assert outcome.status == 0, outcome
    return outcome.out


def ours(*words: str, status: int = 0) -> str:
    """bpf-shim's, of the same user, without the shim."""
    python = str(launch.product() / ".venv" / "bin" / "python")
    script = ("import sys; sys.path.insert(0, sys.argv.pop(1)); "
              "from libbpf_shim.cli import main; sys.exit(main())")
    outcome = run(launch.guarded([python, "-I", "-c", script, str(launch.product()), *words]))
    assert outcome.status == status, outcome
    return outcome.out if status == 0 else outcome.err


@pytest.fixture(scope="module")
def held() -> Iterator[None]:
    """A loader's objects, pinned programs, and maps with elements."""
    folder = build.private_copy({**build.calls(), **build.held(), **build.tool()})
    lines = [
        f"bpftool prog loadall {folder}/plain.bpf.o {B}/progs pinmaps {B}/maps",
        f"bpftool map create {B}/bare type hash key 4 value 4 entries 8 name bare",
        f"bpftool map create {B}/wide type array key 4 value 40 entries 2 name wide",
        f"bpftool map create {B}/cpus type percpu_hash key 4 value 4 entries 2 name cpus",
        f"bpftool map create {B}/queue type queue key 0 value 4 entries 2 name queue",
        f"bpftool map update pinned {B}/maps/pairs key 9 0 0 0 value 1 0 0 0 2 0 3 0",
        f"bpftool map update pinned {B}/bare key 1 2 3 4 value 5 6 7 8",
        f"bpftool map update pinned {B}/cpus key 1 0 0 0 value 5 6 7 8",
    ]
    with Eight(SHIM, folder, program="held", objects="held.bpf.o") as loader:
        made = run(launch.guarded(["sh", "-c", " && ".join(lines)], preload=True))
        assert made.status == 0, made
        yield
        run(launch.guarded(["sh", "-c", f"rm -r {B}/*"], preload=True))
        loader.finish()
    shutil.rmtree(folder)


MAPS = ("pairs", "by_name", "bare", "wide", "cpus", "bt_tallies", "bt_per_cpu", "held.bss")


@pytest.mark.parametrize("name", MAPS)
def test_elements_are_bpftools(name: str, held: None) -> None:
    theirs, mine = json.loads(stock("-j", "map", "dump", "name", name)), json.loads(
        ours("map", "dump", "-j", "name", name))
    assert mine == theirs and theirs
    text, mine_text = stock("map", "dump", "name", name), ours("map", "dump", "name", name)
    if text.startswith("["):
        assert json.loads(mine_text) == json.loads(text)
    else:
        assert mine_text == text


def test_a_map_without_keys_has_no_dump(held: None) -> None:
    assert "has no keys" in ours("map", "dump", "name", "queue", status=2)


@pytest.mark.parametrize("name", ["straight", "calls_twice", "uses_maps", "bt_add"])
def test_instructions_are_bpftools(name: str, held: None) -> None:
    def insns(text: str) -> list[str]:
        text = re.sub(r"(call pc[+-]\d+).*", r"\1", text)
        return re.findall(r"^ *\d+: .*$", text, re.M)

    theirs = insns(stock("prog", "dump", "xlated", "name", name))
    assert insns(ours("prog", "dump", "xlated", "name", name)) == theirs and theirs
    sources = [t for t in stock("prog", "dump", "xlated", "name", name).splitlines()
               if t.startswith("; ") and t != "; "]
    assert [t for t in ours("prog", "dump", "xlated", "name", name).splitlines()
            if t.startswith("; ")] == sources


@pytest.mark.skipif(INTERPRETED, reason="an interpreted program has no machine code")
def test_machine_code_is_decoded_to_its_end_and_names_what_it_calls(held: None) -> None:
    row = json.loads(ours("prog", "show", "-j", "name", "uses_maps"))[0]
    functions: list[dict[str, Any]] = json.loads(
        ours("prog", "dump", "jited", "-j", "name", "uses_maps"))
    assert [f["name"] for f in functions] == ["uses_maps"]
    insns = functions[0]["insns"]
    assert insns[0]["pc"] == "0x0" and int(insns[-1]["pc"], 16) < row["bytes_jited"]
    assert any(i["operation"] == "ret" for i in insns)
    filled = {name for i in insns for name in i.get("filled", [])}
    pairs = json.loads(ours("map", "show", "-j", "name", "pairs"))[0]["id"]
    assert {"bpf_map_update_elem", f"map[id:{pairs}]"} <= filled
    text = ours("prog", "dump", "jited", "name", "uses_maps").splitlines()
    assert text[0] == "uses_maps:"
    assert len([t for t in text if re.match(r" *[0-9a-f]+:\t", t)]) == len(insns)


def test_each_function_of_a_program_has_its_heading(held: None) -> None:
    for what in ("xlated", "jited"):
        functions = json.loads(ours("prog", "dump", what, "-j", "name", "calls_twice"))
        none = what == "jited" and INTERPRETED
        assert [f["name"] for f in functions] == ([] if none else ["calls_twice", "twice"])


@pytest.mark.parametrize("noun", ["prog", "map", "link", "btf"])
def test_lists_have_the_ids_that_bpftool_lists(noun: str, held: None) -> None:
    theirs = {row["id"]: row for row in json.loads(stock("-j", noun, "list"))}
    mine = {row["id"]: row for row in json.loads(ours(noun, "list", "-j"))}
    assert mine.keys() == theirs.keys()
    for number, row in mine.items():
        for key in ("name", "tag", "type", "map_ids", "bytes_key", "bytes_value", "max_entries",
                    "gpl_compatible", "prog_id", "frozen"):
            if key in row and key in theirs[number] and noun != "btf":
                assert row[key] == theirs[number][key], (number, key)
    listed = ours(noun, "list").splitlines()
    assert [int(text.split(":")[0]) for text in listed] == sorted(mine)


def test_objects_are_found_by_id_name_tag_and_pin(held: None) -> None:
    row = json.loads(ours("prog", "show", "-j", "name", "straight"))[0]
    assert row["pinned"] == [f"{B}/progs/straight"]
    for words in (["id", str(row["id"])], [str(row["id"])], ["tag", row["tag"]],
                  ["pinned", f"{B}/progs/straight"]):
        assert json.loads(ours("prog", "show", "-j", *words)) == [row]
    assert "no such object" in ours("prog", "show", "name", "nobody", status=2)
    assert "not understood" in ours("map", "show", "colour", "red", status=2)
