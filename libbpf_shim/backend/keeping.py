"""Part of the build: the file that backend/startup.py reads. A magic number of Python's, an index,
and the code of modules, that of what every backend loads first."""

from __future__ import annotations

import ast
import contextlib
import importlib
import marshal
import os
import pkgutil
import subprocess
import sys
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path
from types import CodeType, ModuleType

from libbpf_shim import compiled
from libbpf_shim.backend import startup, trim

# Source, its text, whether it is a package's, the code
Code = tuple[Path, bytes, bool, CodeType]
# What is loaded before the file is read, in this order
_FIRST = ("libbpf_shim.backend.boot", "libbpf_shim.compiled", "libbpf_shim",
          "libbpf_shim.backend", "libbpf_shim.backend.startup", "libbpf_shim.backend.main")
# and what is of the build alone
_LEFT = frozenset((*_FIRST, "libbpf_shim.backend.keeping", "libbpf_shim.backend.trim"))


def _modules(root: str) -> dict[str, ModuleType]:
    """Ours that can be loaded here."""
    found = {}
    for one in pkgutil.walk_packages([f"{root}/libbpf_shim"], "libbpf_shim."):
        if not one.name.endswith("__main__") and not compiled.owns(one.name):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                module = importlib.import_module(one.name)
                if (module.__file__ or "").endswith(".py") and one.name not in _LEFT:
                    found[one.name] = module
    return found


def _asked(trees: dict[str, ast.Module]) -> tuple[dict[str, set[str]], set[str]]:
    """Which names modules import of each other; all names that something is asked for."""
    imported: dict[str, set[str]] = {}
    attributes: set[str] = set()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                imported.setdefault(node.module, set()).update(one.name for one in node.names)
            elif isinstance(node, ast.Attribute):
                attributes.add(node.attr)
    return imported, attributes


def _codes(root: str, loaded: list[str]) -> dict[str, Code]:
    """Of all our modules, and of those of Python's own that are loaded."""
    made: dict[str, Code] = {}
    modules = _modules(root)
    paths = {name: Path(str(module.__file__)) for name, module in modules.items()}
    trees = {name: ast.parse(path.read_bytes()) for name, path in paths.items()}
    imported, attributes = _asked(trees)
    for name, module in modules.items():
        path, text = paths[name], paths[name].read_bytes()
        kept = frozenset(imported.get(name, set()) | attributes)
        code = trim.own(text.decode(), str(path), module, kept)
        made[name] = path, text, path.name == "__init__.py", code
    for name in loaded:
        path = Path(getattr(sys.modules[name], "__file__", None) or "/")
        loader = getattr(getattr(sys.modules[name], "__spec__", None), "loader", None)
        python = path.suffix == ".py" and os.path.dirname(os.__file__) in str(path)
        if python and name not in (*made, "__main__") and "Frozen" not in str(loader):
            text = path.read_bytes()
            code = trim.foreign(text, str(path), name)
            made[name] = path, text, path.name == "__init__.py", code
    return made


_LISTS = """
import sys; sys.path.insert(0, sys.argv[1])
from libbpf_shim.backend import startup
startup.install(); startup.quiet()
loads, done = startup.Kept.exec_module, []
def load(self, module):
    loads(self, module)
    done.append(module.__name__)
startup.Kept.exec_module = load
for name in startup.FIRST:
    __import__(name)
    print(*done)
    done.clear()
from libbpf_shim import _native
for name, module in sys.modules.items():
    spec = getattr(module, "__spec__", None)
    if isinstance(getattr(spec, "loader", None), startup.ExtensionFileLoader):
        print(startup.LIBRARY, name, spec.origin)
"""


def make(file: str, root: str, loaded: list[str]) -> None:
    """loaded: what a backend may load at its start; what it does load is seen with the file."""
    made = _codes(root, loaded)
    _write(file, root, made, {}, {})
    said = [line.split() for line in _said(_LISTS, root).splitlines()]
    lists = [words for words in said if words[:1] != [startup.LIBRARY]]
    libraries = {words[1]: _below(words[2], root) for words in said if words not in lists
                 if not compiled.owns(words[1]) and not words[1].startswith(compiled.GROUP)}
    # what is loaded last is what was asked for; parts of a package are not there before it
    groups = {names[-1]: tuple(name for at, name in enumerate(names[:-1])
                               if name.rpartition(".")[0] not in names[at:])
              for names in lists if names}
    first = [name for names in lists for name in names]
    ours = {name: code for name, code in made.items() if name.startswith("libbpf_shim.")}
    _write(file, root, {name: made[name] for name in first} | ours, groups, libraries)
    _said(_LISTS, root)


def _below(path: str, root: str) -> str:
    """As startup.py's _library takes it."""
    for kind, places in (("packages", startup.installed()), ("ours", [root])):
        for place in places:
            if path.startswith(f"{place}/"):
                return f"{kind}:{path.removeprefix(place + '/')}"
    return f":{path.removeprefix('/')}"


def make_first(file: str, root: str) -> None:
    """The file of backend/boot.py: its code, and what it loads."""
    rows = []
    for name in _FIRST:
        module = importlib.import_module(name)
        path = Path(str(module.__file__))
        text = path.read_bytes()
        code = trim.own(text.decode(), str(path), module, frozenset(vars(module)))
        rows.append((name, os.path.relpath(path, root), path.name == "__init__.py", len(text),
                     path.stat().st_mtime_ns, source_hash(text), code))
    _put(file, MAGIC_NUMBER + marshal.dumps((rows[0][-1], rows)))


def _said(code: str, root: str) -> str:
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, root], capture_output=True,
                          text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def _write(
    file: str, root: str, made: dict[str, Code], groups: dict[str, tuple[str, ...]],
    libraries: dict[str, str],
) -> None:
    """Whole or not at all. groups: what is loaded before a module. The code of all of them is
    there in one as well: names and constants that they have in common are made once. libraries:
    modules that are none of Python's, and where."""
    single = {name: marshal.dumps(code) for name, (_, _, _, code) in made.items()}
    joined = {name: marshal.dumps(tuple(made[one][3] for one in (*before, name)))
              for name, before in groups.items() if before}
    space = 1 << 12
    while True:  # the index lies before what it tells of
        at, rows = space, {}
        for name, (path, text, package, _) in made.items():
            own = name.startswith("libbpf_shim.")
            length = len(single[name])
            row = (os.path.relpath(path, root) if own else str(path), package, len(text),
                   path.stat().st_mtime_ns, source_hash(text), at, length, groups.get(name, ()))
            at += length
            length = len(joined.get(name, b""))
            rows[name] = (*row, at, length)
            at += length
        index = marshal.dumps((rows, libraries))
        index = MAGIC_NUMBER + len(index).to_bytes(4, "little") + index
        if len(index) <= space:
            break
        space *= 2
    codes = (single[name] + joined.get(name, b"") for name in made)
    _put(file, b"".join((index.ljust(space, b"\0"), *codes)))


def _put(file: str, data: bytes) -> None:
    aside = f"{file}.{os.getpid()}"
    Path(aside).write_bytes(data)
    os.rename(aside, file)
