"""Verdicts kept in files: found again, told apart, and believed only from their owner's hand."""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from libbpf_shim.backend.verdicts import Verdicts
from libbpf_shim.btf.lazy import LazyBtf
from libbpf_shim.errors import ShimError
from libbpf_shim.jit import kept
from libbpf_shim.jit.build import Built, build
from libbpf_shim.jit.kept import Kept, key
from libbpf_shim.verifier.program import MapDesc, Program

EXIT = bytes.fromhex("b700000000000000 9500000000000000")
UNSET = bytes.fromhex("bf10000000000000 bf20000000000000 9500000000000000")
PROGRAM = Program(EXIT, 1, license="GPL", maps=(MapDesc(2, 4, 8, 1, contents=b"8 bytes!"),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def put(folder: Path, program: Program = PROGRAM) -> tuple[Path, Built]:
    built = build(program)
    Kept(folder).put(key(program), built)
    return folder / key(program), built


@pytest.mark.parametrize("program", [PROGRAM, Program(UNSET, 1, log_level=1)])
def test_another_process_finds_what_was_kept(folder: Path, program: Program) -> None:
    file, built = put(folder, program)
    found = Kept(folder).get(file.name)
    assert found and (found.verdict, found.image) == (built.verdict, built.image)


def changed(value: object) -> Any:
    """Some other value of that type."""
    if isinstance(value, bytes) or value is None:
        return (value or b"") + b"\0" * 8
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, int):
        return value + 1
    if isinstance(value, LazyBtf):
        return LazyBtf(lambda: b"")
    if isinstance(value, dict):
        return {**value, 7: (7, "seven")}
    assert isinstance(value, tuple)
    return (*value, MapDesc(1, 4, 4, 1)) if not value or isinstance(value[0], MapDesc) else (8, 9)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Program)])
def test_every_field_of_a_program_is_in_its_key(name: str) -> None:
    value: Any = {"x": 1} if name == "extra" else changed(getattr(PROGRAM, name))
    assert key(dataclasses.replace(PROGRAM, **{name: value})) != key(PROGRAM)


@pytest.mark.parametrize(
    "name", [field.name for field in dataclasses.fields(MapDesc) if field.name != "inner"]
)
def test_every_field_of_a_map_is_in_its_key(name: str) -> None:
    of = PROGRAM.maps[0]
    value: Any = (("bpf_timer", 0),) if name == "fields" else changed(getattr(of, name))
    other = dataclasses.replace(of, **{name: value})
    assert key(dataclasses.replace(PROGRAM, maps=(other,))) != key(PROGRAM)


def test_an_inner_map_is_in_its_key() -> None:
    with_inner = dataclasses.replace(PROGRAM, maps=(PROGRAM.maps[0].with_inner(PROGRAM.maps[0]),))
    assert key(with_inner) != key(PROGRAM)


def test_other_code_has_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(PROGRAM)
    monkeypatch.setattr(kept, "_here", lambda: b"another version")
    assert key(PROGRAM) != before


@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_changed_byte_is_not_believed(folder: Path, at: int) -> None:
    file, _ = put(folder)
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    assert Kept(folder).get(file.name) is None


@pytest.mark.parametrize("size", [0, 10, 32, 100])
def test_a_cut_file_is_not_believed(folder: Path, size: int) -> None:
    file, _ = put(folder)
    os.truncate(file, size)
    assert Kept(folder).get(file.name) is None


def test_a_file_of_another_program_is_not_believed(folder: Path) -> None:
    file, _ = put(folder)
    other, _ = put(folder, Program(UNSET, 1))
    file.write_bytes(other.read_bytes())
    assert Kept(folder).get(file.name) is None


def test_a_file_of_another_folder_is_not_believed(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir(mode=0o700)
    file, _ = put(folder / "one")
    put(folder / "two")
    (folder / "two" / file.name).write_bytes(file.read_bytes())
    assert Kept(folder / "two").get(file.name) is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o640, 0o604])
def test_a_file_that_others_may_touch_is_not_believed(folder: Path, mode: int) -> None:
    file, _ = put(folder)
    file.chmod(mode)
    assert Kept(folder).get(file.name) is None


def test_a_link_is_not_followed(folder: Path) -> None:
    file, _ = put(folder)
    file.rename(folder / "elsewhere")
    file.symlink_to(folder / "elsewhere")
    assert Kept(folder).get(file.name) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone can give a file away")
def test_a_file_of_another_user_is_not_believed(folder: Path) -> None:
    file, _ = put(folder)
    os.chown(file, 61_000, 61_000)
    assert Kept(folder).get(file.name) is None


def test_the_least_recently_used_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_ALL", 8 * 1024)
    programs = [Program(EXIT, 1, name=f"p{n}") for n in range(40)]
    store, first = Kept(folder), key(programs[0])
    store.put(first, build(programs[0]))
    for n, program in enumerate(programs[1:]):
        store.put(key(program), build(program))
        os.utime(folder / key(program), (n, n))
        assert store.get(first)  # used, so never the oldest
    sizes = [file.stat().st_size for file in folder.iterdir() if file.name != "secret"]
    assert 4 * 1024 < sum(sizes) < 12 * 1024
    assert store.get(key(programs[-1])) and not store.get(key(programs[1]))


def test_a_folder_that_is_not_there_keeps_nothing(folder: Path) -> None:
    gone = Kept(folder / "none")
    gone.put(key(PROGRAM), build(PROGRAM))
    assert gone.get(key(PROGRAM)) is None


def test_btf_is_accepted_where_it_was_before(folder: Path) -> None:
    blob = bytes(range(256)) * 8
    assert not Kept(folder).accepts(blob)
    Kept(folder).accept(blob)
    assert Kept(folder).accepts(blob) and not Kept(folder).accepts(blob[:-1] + b"x")
    (file,) = (f for f in folder.iterdir() if f.name != "secret")
    file.write_bytes(bytes(len(file.read_bytes())))
    assert not Kept(folder).accepts(blob)


@pytest.mark.parametrize("size", [16, 1024])
def test_large_btf_is_looked_at_once_and_what_is_wrong_each_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    from libbpf_shim.btf import check

    def blob(names: bytes) -> bytes:
        row = struct.pack("<III", 1, 1 << 24, 4) + struct.pack("<I", 32)  # int
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(row), len(row), len(names))
        return header + row + names

    looked = []

    def look(data: bytes, real: Any = check.check) -> Any:
        looked.append(data)
        return real(data)

    monkeypatch.setattr(check, "check", look)
    good, bad = blob(b"\0int\0" + bytes(size)), blob(b"\0int\0" + bytes(size) + b"x")
    for _ in range(2):
        Verdicts(folder).types(good)
        with pytest.raises(ShimError):
            Verdicts(folder).types(bad)
    assert looked == ([good, bad, bad] if size >= 1024 else [good, bad, good, bad])
