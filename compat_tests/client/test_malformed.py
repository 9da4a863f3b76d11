"""200 files that are broken in one place: each is refused with a reason, or works."""

from __future__ import annotations

import errno
import random
import struct
import time
from pathlib import Path

import pytest

from compat_tests.client import build
from compat_tests.victims.build import CLANG, make
from libbpf_shim.btf import sane
from libbpf_shim.btf.parse import Btf
from libbpf_shim.btf.synthetic import build as synthetic
from libbpf_shim.btf.write import Writer
from libbpf_shim.client import kernel
from libbpf_shim.client.object import Object
from libbpf_shim.client.values import Bytes, codec
from libbpf_shim.elf.link import Found
from libbpf_shim.errors import ShimError

EACH = 25
SOURCES = ("bitfields", "types", "subprogs", "innermaps", "kconfig", "kfuncs", "sections",
           "linked")
LIMIT = 5.0  # seconds for one file
WORDS = (0, 1, 7, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 64) - 1)


def flip(data: bytearray, random_: random.Random) -> None:
    for _ in range(random_.choice((1, 1, 4, 64))):
        data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)


def cut(data: bytearray, random_: random.Random) -> None:
    del data[random_.randrange(len(data)) :]


def header(data: bytearray, random_: random.Random) -> None:
    """A field of the ELF header, past its magic."""
    size, at = random_.choice(((2, 16), (2, 18), (8, 40), (2, 52), (2, 58), (2, 60), (2, 62)))
    data[at : at + size] = (random_.choice(WORDS) % (1 << 8 * size)).to_bytes(size, "little")


def section(data: bytearray, random_: random.Random) -> None:
    """A field of a section header."""
    start = struct.unpack_from("<Q", data, 40)[0]
    count = struct.unpack_from("<H", data, 60)[0]
    fields = ((4, 0), (4, 4), (8, 8), (8, 24), (8, 32), (4, 40), (4, 44), (8, 56))
    size, at = random_.choice(fields)
    at += start + 64 * random_.randrange(count)
    data[at : at + size] = (random_.choice(WORDS) % (1 << 8 * size)).to_bytes(size, "little")


def contents(data: bytearray, random_: random.Random, name: bytes) -> None:
    """A word inside a section."""
    start, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    strings = start + 64 * struct.unpack_from("<H", data, 62)[0]
    names = struct.unpack_from("<Q", data, strings + 24)[0]
    for index in range(count):
        at = start + 64 * index
        label = names + struct.unpack_from("<I", data, at)[0]
        if data[label : label + len(name) + 1] == name + b"\0":
            where, size = struct.unpack_from("<QQ", data, at + 24)
            word = where + 4 * random_.randrange(size // 4)
            struct.pack_into("<I", data, word, random_.choice(WORDS) & 0xFFFFFFFF)


def btf(data: bytearray, random_: random.Random) -> None:
    contents(data, random_, b".BTF")


def ext(data: bytearray, random_: random.Random) -> None:
    contents(data, random_, b".BTF.ext")


def symbols(data: bytearray, random_: random.Random) -> None:
    contents(data, random_, b".symtab")


WAYS = (flip, cut, header, section, btf, ext, symbols)


def use(data: bytes, target: Btf) -> None:
    """All that is done with a file before a session is asked."""
    opened = Object.open(data, btf=target)
    for name in opened.vars:
        assert opened.vars[name] is not None
    spec = opened.spec
    spec.link(target, [Found() for _ in spec.externs], list(opened.programs))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("each", [EACH, pytest.param(1000, marks=pytest.mark.long)])
def test_a_broken_file_is_refused_with_a_reason_or_works(source: str, each: int) -> None:
    whole, target = build.all_own()[source].read_bytes(), Btf(synthetic())
    refused = 0
    for seed in range(each):
        random_ = random.Random(f"{source} {seed}")
        data = bytearray(whole)
        WAYS[seed % len(WAYS)](data, random_)
        start = time.monotonic()
        try:
            use(bytes(data), target)
        except ShimError as error:
            refused += 1
            assert error.errno > 0 and len(error.message) > 10, error
        assert time.monotonic() - start < LIMIT, f"{source} {seed}"
    assert refused >= each // 4, "the mutations break nothing"


@pytest.mark.parametrize("source", SOURCES)
def test_the_whole_file_works(source: str) -> None:
    use(build.all_own()[source].read_bytes(), Btf(synthetic()))


def test_broken_btf_to_relocate_against_is_refused_with_a_reason_or_works(tmp_path: Path) -> None:
    whole, data = synthetic(), build.all_own()["types"].read_bytes()
    refused = 0
    for seed in range(EACH):
        random_ = random.Random(f"target {seed}")
        broken = bytearray(whole)
        (flip, cut, word)[seed % 3](broken, random_)
        path = tmp_path / f"{seed}.btf"
        path.write_bytes(broken)
        start = time.monotonic()
        try:
            use(data, kernel.target(path))
        except ShimError as error:
            refused += 1
            assert error.errno > 0 and len(error.message) > 10, error
        assert time.monotonic() - start < LIMIT, seed
    assert refused >= EACH // 4, "the mutations break nothing"


def word(data: bytearray, random_: random.Random) -> None:
    struct.pack_into("<I", data, 4 * random_.randrange(len(data) // 4),
                     random_.choice(WORDS) & 0xFFFFFFFF)


def test_a_type_that_holds_itself_is_refused() -> None:
    out = Writer()
    number = out.integer("int", 4)
    out.struct("s", 8, [("a", number, 0), ("b", number + 2, 4)])
    out.array(number + 1, number, 1)
    with pytest.raises(ShimError, match="holds itself"):
        sane.parse(out.blob())


def test_a_type_of_too_many_fields_is_bytes() -> None:
    """Each structure holds two of the next, without names: 2^30 fields."""
    out = Writer()
    inner = out.integer("int", 4)
    for size in range(30):
        name = "" if size else "x"
        inner = out.struct("s", 4 << size, [(name, inner, 0), (name and "y", inner, 0)])
    found = codec(sane.parse(out.blob()), inner, 4 << 29)
    assert isinstance(found, Bytes)


def test_maps_without_types_are_refused_with_the_way_out(tmp_path: Path) -> None:
    flags = [f for f in build.FLAGS if f != "-g"]
    path = make("bare.bpf.o", [build.OBJECTS / "progarray.bpf.c"],
                [*flags, f"-I{build.OBJECTS}"], compiler=CLANG)
    with pytest.raises(ShimError, match="without BTF") as caught:
        Object.open(path)
    assert "-g" in caught.value.hint


@pytest.mark.parametrize(("path", "code"), [("/", errno.EISDIR), ("/nosuch", errno.ENOENT),
                                            ("/dev/null", errno.EINVAL),
                                            ("/dev/zero", errno.EFBIG)])
def test_what_is_no_file_is_an_error_with_its_errno(path: str, code: int) -> None:
    with pytest.raises(ShimError) as caught:
        Object.open(path)
    assert caught.value.errno == code
