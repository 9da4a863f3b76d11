"""libbpf.so.1 as a drop-in: the genuine libbpf.a of libbpf-dev, relinked as a shared object.

    relink_libbpf.py OUT OBJECT...

Its exported symbols and their versions are those of the installed libbpf.so.1, read from it. It is
a filter (DT_FILTER, ld.so(8)) of libbpf_shim.so beside it: the dynamic linker puts that library
before this one in the search order, and so before libc, as LD_PRELOAD would. So `syscall` and
every other entry point that libbpf, the program and its other libraries call is the surface's,
and a process has one surface and one agent whichever way they came.

Without libbpf-dev: exit status 3.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_BASE = 1  # VER_FLG_BASE, and VER_NDX_GLOBAL: the library's own name, not a version


def run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def installed(name: str) -> Path | None:
    """A library's file as the linker finds it."""
    path = Path(run("gcc", f"-print-file-name={name}").strip())
    return path.resolve() if path.is_absolute() and path.exists() else None


def versions(library: Path) -> dict[str, tuple[str, list[str]]]:
    """Version node to its parent ("" for none) and the functions that it exports, in order."""
    from elftools.elf.elffile import ELFFile

    with library.open("rb") as file:
        elf: Any = ELFFile(file)
        numbers = elf.get_section_by_name(".gnu.version")
        nodes: dict[int, str] = {}
        out: dict[str, tuple[str, list[str]]] = {}
        for entry, names in elf.get_section_by_name(".gnu.version_d").iter_versions():
            name, *parents = [n.name for n in names]
            if entry["vd_ndx"] != _BASE:
                nodes[entry["vd_ndx"]] = name
                out[name] = (parents[0] if parents else "", [])
        for at, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
            number = numbers.get_symbol(at)["ndx"]
            if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["type"] == "STT_FUNC":
                out[nodes[number & 0x7FFF]][1].append(symbol.name)
    return out


def script(nodes: dict[str, tuple[str, list[str]]]) -> str:
    """The linker's version script."""
    text = ""
    for name, (parent, symbols) in nodes.items():
        listed = "".join(f" {s};" for s in sorted(symbols))
        rest = "" if parent else " local: *;"
        text += f"{name} {{ global:{listed}{rest} }} {parent};\n"
    return text


def relink(archive: Path, library: Path, out: Path, objects: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole, nodes = Path(folder, "libbpf.o"), Path(folder, "libbpf.map")
        nodes.write_text(script(versions(library)))
        run("ld", "-r", "--whole-archive", archive, "-o", whole)
        run("objcopy", "--redefine-sym", "stderr=shim_libbpf_stderr", whole)
        run("gcc", "-shared", "-o", out, whole, *objects, f"-Wl,--version-script={nodes}",
            "-Wl,-soname,libbpf.so.1", "-Wl,--filter=libbpf_shim.so", "-Wl,-rpath,$ORIGIN",
            "-Wl,-z,defs", "-Wl,-z,text", "-Wl,-z,now", "-Wl,-z,relro", "-Wl,--build-id",
            "-lelf", "-lz")


def main() -> int:
    out, objects = Path(sys.argv[1]), sys.argv[2:]
    archive, library = installed("libbpf.a"), installed("libbpf.so")
    if archive is None or library is None:
        print("libbpf.so.1: not relinked: libbpf-dev is not installed", file=sys.stderr)
        return 3
    relink(archive, library, out, objects)
    return 0


if __name__ == "__main__":
    sys.exit(main())
