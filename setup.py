"""Builds what is not Python: the preload library, the keeper, _native, and the compiled verifier.

    python setup.py build_ext --inplace      # what `make build` does

csrc/agent and csrc/runtime are freestanding (no libc symbol, no TLS, general registers only);
csrc/surface needs libc alone; csrc/keeper is a small program; csrc/native is for cffi.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "libbpf_shim"
PYTHON = sorted(PACKAGE.glob("**/*.py"))
WARN = "-std=gnu11 -O2 -g -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes".split()
HOSTED = [*WARN, "-fPIC", "-fvisibility=hidden", "-D_GNU_SOURCE", "-fno-stack-protector"]
FREE = [
    *WARN, "-fPIC", "-fvisibility=hidden", "-ffreestanding", "-mgeneral-regs-only",
    "-mno-red-zone", "-fno-stack-protector", "-fno-tree-loop-distribute-patterns",
    "-fcf-protection=none", "-U_FORTIFY_SOURCE",
]


def run(*command: str | Path) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def newer(target: Path, sources: list[Path]) -> bool:
    """target must be made again: absent, or older than a source or a header."""
    if not target.exists():
        return True
    made = target.stat().st_mtime
    return any(s.stat().st_mtime > made for s in [*sources, *CSRC.glob("include/*.h")])


def compile_dir(name: str, flags: list[str], beside: tuple[str, ...] = ()) -> list[Path]:
    """Object files of csrc/NAME, each made again only if something it may include changed.
    beside: other folders of csrc whose headers it includes."""
    folders = [CSRC / "include", CSRC / name, *(CSRC / b for b in beside)]
    local_headers = [h for f in folders for h in (*f.glob("*.h"), *f.glob("*.inc"))]
    out = ROOT / "build" / "obj" / name
    out.mkdir(parents=True, exist_ok=True)

    def compiled(source: Path) -> Path:
        target = out / (source.name + ".o")
        if newer(target, [source, *local_headers]):
            run("gcc", *flags, *(f"-I{f}" for f in folders), "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(os.cpu_count()) as several:
        return list(several.map(
            compiled, sorted([*(CSRC / name).glob("*.c"), *(CSRC / name).glob("*.S")])))


def build_library() -> None:
    """libbpf_shim/_lib/libbpf_shim.so, beside it the file that names the backend's interpreter."""
    out = PACKAGE / "_lib" / "libbpf_shim.so"
    out.parent.mkdir(exist_ok=True)
    objects = compile_dir("runtime", FREE) + compile_dir("agent", FREE)
    objects += compile_dir("surface", HOSTED, beside=("agent",))
    script = CSRC / "libbpf_shim.map"
    if newer(out, [*objects, script]):
        run("gcc", "-shared", "-o", out, *objects, f"-Wl,--version-script={script}", "-Wl,-z,defs",
            "-Wl,-z,now", "-Wl,-z,relro", "-Wl,--build-id", "-Wl,-soname,libbpf_shim.so")
    build_image(out.with_name("agent.so"))
    conf = out.with_name("libbpf_shim.conf")
    text = f"{sys.executable}\n{ROOT}\n"
    if not conf.exists() or conf.read_text() != text:
        conf.write_text(text)


def build_image(out: Path) -> None:
    """The same agent without libc, for the keeper to map into running processes: nothing in it may
    need a dynamic linker but for adding its base (docs/architecture.md)."""
    objects = compile_dir("runtime", FREE) + compile_dir("agent", FREE)
    objects += compile_dir("image", FREE, beside=("agent",))
    script = CSRC / "image" / "image.map"
    if not newer(out, [*objects, script]):
        return
    run("gcc", "-shared", "-nostdlib", "-s", "-o", out, *objects, f"-Wl,--version-script={script}",
        "-Wl,-z,defs", "-Wl,-z,now", "-Wl,-Bsymbolic", "-Wl,--build-id", "-Wl,--hash-style=gnu",
        "-Wl,-e,agent_image_start", "-Wl,-soname,bpf-agent")
    rows = [row.split() for row in run("readelf", "-rW", out).splitlines() if "R_X86_64" in row]
    kinds = {row[2] for row in rows} - {"R_X86_64_RELATIVE"}
    if kinds or "TLS" in run("readelf", "-lW", out):
        out.unlink()
        sys.exit(f"{out}: needs a dynamic linker: {kinds or 'TLS'}")


def build_interpreter() -> None:
    """_lib/interp.o: code that libbpf_shim/jit/tier0.py puts into images, so one section."""
    out = PACKAGE / "_lib" / "interp.o"
    flags = ["-g0", "-fno-jump-tables", "-fno-asynchronous-unwind-tables",
             "-fno-reorder-blocks-and-partition"]
    (made,) = compile_dir("interp", [*FREE, *flags])
    if newer(out, [made]):  # images begin at 16 bytes; gcc 14 would rather have its loops at 32
        run("objcopy", "--set-section-alignment", ".text=16", made, out)


def build_libbpf() -> None:
    """_lib/libbpf.so.1, the drop-in; a machine without libbpf-dev goes without it."""
    out, relinker = PACKAGE / "_lib" / "libbpf.so.1", ROOT / "tools" / "relink_libbpf.py"
    objects = compile_dir("libbpf", HOSTED)
    if newer(out, [*objects, relinker]):
        command = [sys.executable, str(relinker), str(out), *map(str, objects)]
        if (status := subprocess.run(command).returncode) not in (0, 3):
            sys.exit(status)


def build_program(name: str) -> None:
    """_bin/NAME, of csrc/NAME."""
    out = PACKAGE / "_bin" / name
    out.parent.mkdir(exist_ok=True)
    objects = compile_dir(name, HOSTED)
    if objects and newer(out, objects):
        run("gcc", "-o", out, *objects)


def build_data() -> None:
    """What loaders are shown where the machine's own cannot be read: tracefs, PMU, BTF."""
    out = PACKAGE / "_lib"
    sources = [PACKAGE / "_data" / "tracefs.txt.xz", ROOT / "tools" / "gen_tracefs.py",
               PACKAGE / "jit" / "kfuncs.py"]
    if newer(out / "tracefs" / "uprobe_events", sources):
        run(sys.executable, ROOT / "tools" / "gen_tracefs.py", "unpack", out)
        (out / "tracefs" / "uprobe_events").touch()
    made = run(sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); "
               "from libbpf_shim.btf.synthetic import build; print(build().hex())", ROOT)
    (out / "vmlinux.btf").write_bytes(bytes.fromhex(made))


def build_verifier() -> None:
    """_lib/engine-KEY, the hot modules compiled by mypyc (libbpf_shim/compiled.py)."""
    if not os.environ.get("LIBBPF_SHIM_PURE"):
        run(sys.executable, ROOT / "tools" / "compile_verifier.py")


def build_start() -> None:
    """_lib/start-*, _lib/boot-*: modules as a backend loads them (backend/startup.py, boot.py)."""
    lib = PACKAGE / "_lib"
    made = [f for f in (*lib.glob("start-*"), *lib.glob("boot-*")) if not newer(f, PYTHON)]
    if len(made) < 2:
        run(sys.executable, "-X", "no_debug_ranges", "-c",
            "import sys; sys.path.insert(0, sys.argv[1]); "
            "from libbpf_shim.backend import startup; startup.make()", ROOT)


class Build(build_ext):
    """Everything, in place or into a wheel's build folder."""

    def run(self) -> None:
        build_program("keeper")
        build_program("rename")
        build_library()
        build_interpreter()
        build_libbpf()
        build_data()
        build_verifier()
        for extension in self.extensions:
            extension.depends = [str(h) for h in CSRC.glob("*/*.h")]
        super().run()
        build_start()


setup(
    cffi_modules=["csrc/native/build_native.py:ffi"],
    cmdclass={"build_ext": Build},
)
