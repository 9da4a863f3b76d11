"""What libbpf refuses to open or load is refused here, and the like that it takes is taken.

Each pair differs by what stands in BAD for GOOD; libbpf itself says which it takes.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from compat_tests.client import build, handed
from compat_tests.victims.build import CLANG

pytestmark = pytest.mark.kernel
PROGRAM = """
SEC("@SEC@") @STORAGE@ int program(void *ctx)
{
	@BODY@
	return 0;
}
"""


@dataclass(frozen=True)
class Pair:
    """A source with GOOD or BAD in the place of @X@."""

    name: str
    source: str
    good: str
    bad: str


def program(body: str, section: str = "uprobe", storage: str = "") -> str:
    text = PROGRAM.replace("@BODY@", body).replace("@SEC@", section)
    return text.replace("@STORAGE@", storage)


def with_map(fields: str) -> str:
    return f"struct {{ {fields} }} m SEC(\".maps\");" + program("")


USE = "int k = 0; return bpf_map_lookup_elem(&m, &k) != 0;"
VALUES = "int (*values[0])(void *);"  # __array(), which compilers take at the end alone
HASH = "__uint(type, BPF_MAP_TYPE_HASH); __uint(max_entries, 4);"
TYPED = f"{HASH} __type(key, int); __type(value, long);"
PAIRS = [
    Pair("a map without a type", with_map("@X@ __uint(max_entries, 4); __type(key, int); "
         "__type(value, long);"), "__uint(type, BPF_MAP_TYPE_HASH);", ""),
    Pair("a field that no map has", with_map(f"{TYPED} @X@"), "__uint(map_flags, 0);",
         "__uint(map_flag, 0);"),
    Pair("sizes that contradict each other", with_map(f"{TYPED} __uint(key_size, @X@);"),
         "4", "8"),
    Pair("pinning that is none", with_map(f"{TYPED} __uint(pinning, @X@);"), "0", "2"),
    Pair("values that are not last", with_map(
        "__uint(type, BPF_MAP_TYPE_PROG_ARRAY); __uint(max_entries, 4); __uint(key_size, 4); "
        "@X@"), f"__uint(map_flags, 0); {VALUES}", f"{VALUES} __uint(map_flags, 0);"),
    Pair("values of a hash", with_map("__uint(type, @X@); __uint(max_entries, 4); "
         "__uint(key_size, 4); __array(values, int(void *));"),
         "BPF_MAP_TYPE_PROG_ARRAY", "BPF_MAP_TYPE_HASH"),
    Pair("maps of maps of maps", "struct in { @X@ __uint(max_entries, 4); __uint(key_size, 4); };"
         + with_map("__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS); __uint(max_entries, 4); "
                    "__uint(key_size, 4); __array(values, struct in);"),
         "__uint(type, BPF_MAP_TYPE_HASH); __uint(value_size, 4);",
         f"__uint(type, BPF_MAP_TYPE_PROG_ARRAY); {VALUES}"),
    Pair("a static map", f"@X@ struct {{ {TYPED} }} m SEC(\".maps\");" + program(USE),
         "", "static"),
    Pair("maps as before libbpf 1.0", "struct { int type, key, value, max; } m "
         "SEC(\"@X@\") = { 1, 4, 4, 4 };" + program(""), ".data.maps", "maps"),
    Pair("a static program outside .text", program("", storage="@X@"), "",
         "static __attribute__((used))"),
    Pair("a call of a function outside .text", "@X@ __attribute__((noinline)) int other(int x) "
         "{ return x * 3 + (x ^ 5); }" + program("return other((long)ctx);"),
         "", 'SEC("uprobe/other")'),
    Pair("an extern of no section", "extern int CONFIG_VALUE @X@;"
         + program("return CONFIG_VALUE;"),
         "__kconfig __weak", ""),
    Pair("an extern that is nowhere", "extern int LINUX_NOSUCH __kconfig @X@;"
         + program("return LINUX_NOSUCH;"), "__weak", ""),
    Pair("an option of a type that it has not", "extern @X@ CONFIG_SMP __kconfig;"
         + program("return CONFIG_SMP;"), "bool", "int"),
    Pair("an extern of a type that no option has", "struct pair { int a, b; }; "
         "extern @X@ CONFIG_NOSUCH __kconfig __weak;"
         + program("return *(int *)&CONFIG_NOSUCH;"), "long", "struct pair"),
    Pair("a symbol that is nowhere", "extern const void nosuch_symbol __ksym @X@;"
         + program("return (long)&nosuch_symbol;"), "__weak", ""),
    Pair("a program of no type", program("", section="@X@"), "uprobe", "uproberer"),
]


def compiled(folder: Path, pair: Pair, text: str) -> Path:
    source = folder / "pair.bpf.c"
    source.write_text('#include "core.h"\n' + pair.source.replace("@X@", text))
    target = folder / "pair.bpf.o"
    flags = [f for f in build.FLAGS if f not in ("-Wall", "-Werror")]
    subprocess.run([CLANG, *flags, "-w", f"-I{build.OBJECTS}", source, "-o", target],
                   check=True, timeout=60)
    return target


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_libbpf_and_we_refuse(pair: Pair, tmp_path: Path) -> None:
    for text, refused in ((pair.good, False), (pair.bad, True)):
        path = compiled(tmp_path, pair, text)
        theirs, skipped = handed.by_libbpf(path)
        assert bool(theirs.refused) == refused, theirs.refused
        ours = handed.by_us(path, skipped)
        assert bool(ours.refused) == refused, ours.refused or f"taken: {pair.bad}"
        if not refused:
            assert ours.maps == theirs.maps and ours.progs == theirs.progs
