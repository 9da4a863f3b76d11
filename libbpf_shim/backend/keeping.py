"""Part of the build: the file that backend/startup.py reads. A magic number of Python's and the
length of the first part; the first part is an index and the code of what every backend loads."""

from __future__ import annotations

import ast
import contextlib
import importlib
import marshal
import os
import pkgutil
import sys
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path
from types import ModuleType

from libbpf_shim import compiled
from libbpf_shim.backend import trim

# What is loaded before the file is read, or made to be compiled
_LEFT = frozenset(("libbpf_shim", "libbpf_shim.compiled", "libbpf_shim.backend",
                   "libbpf_shim.backend.startup", "libbpf_shim.backend.keeping",
                   "libbpf_shim.backend.trim"))


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


def _codes(root: str, first: frozenset[str]) -> dict[str, tuple[Path, bytes, bool, bytes]]:
    """Source, its text, whether it is a package's, the code."""
    made: dict[str, tuple[Path, bytes, bool, bytes]] = {}
    modules = _modules(root)
    paths = {name: Path(str(module.__file__)) for name, module in modules.items()}
    trees = {name: ast.parse(path.read_bytes()) for name, path in paths.items()}
    imported, attributes = _asked(trees)
    for name, module in modules.items():
        path, text = paths[name], paths[name].read_bytes()
        kept = frozenset(imported.get(name, set()) | attributes)
        code = trim.own(text.decode(), str(path), module, kept)
        made[name] = path, text, path.name == "__init__.py", marshal.dumps(code)
    for name in sorted(first - set(made)):
        path = Path(getattr(sys.modules[name], "__file__", None) or "/")
        loader = getattr(getattr(sys.modules[name], "__spec__", None), "loader", None)
        if path.suffix == ".py" and os.path.dirname(os.__file__) in str(path) \
                and name != "__main__" and "Frozen" not in str(loader):
            text = path.read_bytes()
            code = trim.foreign(text, str(path), name)
            made[name] = path, text, path.name == "__init__.py", marshal.dumps(code)
    return made


def write(file: str, root: str, first: frozenset[str], head: int) -> None:
    """first: modules that are loaded in any case."""
    made = _codes(root, first)
    order = sorted(made, key=lambda name: (name not in first, name))
    size = sum(len(made[name][3]) for name in order if name in first)
    space = 1 << 16
    while True:  # the index lies before what it tells of
        at, rows = space, {}
        for name in order:
            path, text, package, code = made[name]
            own = name.startswith("libbpf_shim.")
            rows[name] = (os.path.relpath(path, root) if own else str(path), package, len(text),
                          path.stat().st_mtime_ns, source_hash(text), at, len(code))
            at += len(code)
        index = marshal.dumps(rows)
        if len(index) <= space:
            break
        space *= 2
    aside = f"{file}.{os.getpid()}"
    with open(aside, "wb") as out:
        out.write(MAGIC_NUMBER + (space + size).to_bytes(head - 4, "little"))
        out.write(index.ljust(space, b"\0"))
        for name in order:
            out.write(made[name][3])
    os.rename(aside, file)
