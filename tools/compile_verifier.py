"""Makes libbpf_shim/_lib/engine-KEY: the verifier's modules, compiled by mypyc into one library.

    compile_verifier.py          # does nothing if the library of these sources is there

Called by setup.py. mypyc is needed here only. Its C files are compiled two at a time; an object
whose source and headers are the same as before is kept.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
BUILD = ROOT / "build" / "engine"
FLAGS = "-g0 -fPIC -fvisibility=hidden -fno-strict-aliasing -DNDEBUG -w".split()
# -O2 takes twice as long; it is for what runs once an instruction and more.
HOT = frozenset((
    "access", "arithmetic", "bounds", "branches", "chain", "check", "compare", "domains", "env",
    "jumps", "linked", "loadstore", "precision", "prune", "stack", "state", "transfer",
))  # fmt: skip

from libbpf_shim import compiled  # noqa: E402

# One init function a module, all in one file: Python takes the name's from the file it is told.
_SHIM = """#include <Python.h>

static PyObject *call(const char *attribute, const char *capsule_name)
{
	PyObject *group = PyImport_ImportModule("GROUP__mypyc");
	PyObject *capsule = group ? PyObject_GetAttrString(group, attribute) : NULL;
	PyObject *(*init)(void) = NULL;

	Py_XDECREF(group);
	if (capsule)
		init = (PyObject *(*)(void))PyCapsule_GetPointer(capsule, capsule_name);
	Py_XDECREF(capsule);
	return init ? init() : NULL;
}
"""
_INIT = """
PyMODINIT_FUNC PyInit_MODULE(void)
{
	return call("init_FULL", "GROUP__mypyc.init_FULL");
}
"""


def shim(sources: list[Path]) -> Path:
    text = _SHIM
    for source in sources:
        parts = source.relative_to(ROOT).with_suffix("").parts
        full = "___".join(parts)  # as mypyc names it
        text += _INIT.replace("MODULE", source.stem).replace("FULL", full)
    out = BUILD / "modules.c"
    out.write_text(text.replace("GROUP", compiled.GROUP))
    return out


def translate(sources: list[Path]) -> tuple[list[Path], list[str]]:
    """C files, and where their headers are."""
    from mypyc.build import mypycify

    names = [str(source.relative_to(ROOT)) for source in sources]
    whole = mypycify(names, multi_file=True, target_dir=str(BUILD.relative_to(ROOT)),
                     group_name=compiled.GROUP)[0]
    return [ROOT / str(name) for name in whole.sources], [str(d) for d in whole.include_dirs]


def compile_all(files: list[Path], include: list[str]) -> list[Path]:
    """Objects of the C files; those of before where nothing that they include changed."""
    headers = hashlib.sha256(repr((FLAGS, sorted(HOT))).encode())
    for header in sorted(BUILD.rglob("*.h")):
        headers.update(header.read_bytes())
    objects = BUILD / "objects"
    objects.mkdir(exist_ok=True)

    def one(file: Path) -> Path:
        digest = headers.copy()
        digest.update(file.read_bytes())
        out = objects / f"{file.stem}-{digest.hexdigest()[:24]}.o"
        if not out.exists():
            beside = out.with_suffix(f".{os.getpid()}")
            level = "-O2" if file.stem.rpartition("___")[2] in HOT else "-O1"
            run(["gcc", level, *FLAGS, *include, "-c", str(file), "-o", str(beside)])
            beside.replace(out)
        return out

    with ThreadPoolExecutor(max_workers=2) as pool:
        made = list(pool.map(one, files))
    for old in set(objects.glob("*")) - set(made):
        old.unlink()
    return made


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def main() -> None:
    out = Path(compiled.path())
    if out.exists():
        return
    try:
        import mypyc.build  # noqa: F401
    except ImportError:
        print("compile_verifier: no mypyc: the verifier stays plain Python", file=sys.stderr)
        return
    os.chdir(ROOT)
    BUILD.mkdir(parents=True, exist_ok=True)
    sources = [Path(source) for source in compiled.sources()]
    files, folders = translate(sources)
    include = [f"-I{d}" for d in (*folders, sysconfig.get_paths()["include"])]
    objects = compile_all([*files, shim(sources)], include)
    made = out.with_name(f".{out.name}.{os.getpid()}")
    run(["gcc", "-shared", "-o", str(made), *map(str, objects)])
    for old in out.parent.glob("engine-*"):
        old.unlink()
    made.chmod(0o755)
    made.replace(out)


if __name__ == "__main__":
    main()
