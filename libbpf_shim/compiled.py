"""Which modules mypyc compiles, and the finder that loads them in place of their sources.

They are one library, _lib/engine-KEY plus Python's suffix, made by tools/compile_verifier.py. KEY
digests every source that the library may depend on, so a library of other sources is never found:
Python then runs what is written, with the same verdicts. LIBBPF_SHIM_PURE=1: always so.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import ModuleSpec  # importlib's, without the rest of it
from _frozen_importlib_external import EXTENSION_SUFFIXES, ExtensionFileLoader

TYPE_CHECKING = False  # as in __init__.py
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

PACKAGE = os.path.dirname(os.path.realpath(__file__))
GROUP = "libbpf_shim_engine"  # mypyc's name for the library's modules together
# Of the verifier, what is not compiled: nothing hot, and dataclasses or much text.
PLAIN = frozenset(("__init__", "facts", "infos", "marklog", "policy", "program", "signature",
                   "statelog", "trace", "verify"))
OTHERS = frozenset(("libbpf_shim.isa.insn",))
ROOMS = ("verifier", *(f"verifier/{room}" for room in (
    "call", "granted", "kernel", "kfuncs", "log", "memory", "path", "scalar")))
_PACKAGES = ("btf", "isa", "uapi", *ROOMS)  # whose constants are compiled in
_found: list[str] = []  # the library's path, when it was looked for
_OWN = frozenset("libbpf_shim." + room.replace("/", ".") for room in ROOMS)


def sources() -> list[str]:
    """Files of the modules to compile: all of the verifier's rooms but PLAIN, and OTHERS."""
    found = [f"{PACKAGE}/{room}/{name}" for room in ROOMS
             for name in sorted(os.listdir(f"{PACKAGE}/{room}"))
             if name.endswith(".py") and name[:-3] not in PLAIN]
    return found + [_source(name) for name in sorted(OTHERS)]


def _source(name: str) -> str:
    return os.path.dirname(PACKAGE) + "/" + name.replace(".", "/") + ".py"


def key(package: str = PACKAGE) -> str:
    """Digest of the sources in that folder, and of the Python that they are compiled for."""
    from importlib.util import source_hash

    texts = [sys.implementation.cache_tag.encode()]
    for folder in _PACKAGES:
        for name in sorted(os.listdir(f"{package}/{folder}")):
            if name.endswith(".py"):
                with open(f"{package}/{folder}/{name}", "rb") as file:
                    text = file.read()
                texts += [f"{folder}/{name} {len(text)}".encode(), text]
    with open(f"{package}/compiled.py", "rb") as file:
        texts.append(file.read())
    return source_hash(b"\n".join(texts)).hex()


def path() -> str:
    """Where the library of these sources is, or would be."""
    return f"{PACKAGE}/_lib/engine-{key()}{EXTENSION_SUFFIXES[0]}"


def library() -> str:
    """The library's path, or "": the sources are run."""
    if not _found:
        _found.append(_library())
    return _found[0]


def _library() -> str:
    if os.environ.get("LIBBPF_SHIM_PURE"):
        return ""
    try:
        found = path()
    except OSError:
        return ""
    return found if os.access(found, os.R_OK) else ""


def owns(name: str) -> bool:
    """A module that is to be compiled."""
    package, _, module = name.rpartition(".")
    return (package in _OWN and module not in PLAIN) or name in OTHERS


class Finder:
    """A finder (sys.meta_path) of the compiled modules."""

    @staticmethod
    def find_spec(
        name: str, where: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != f"{GROUP}__mypyc":
            if not owns(name):
                return None
            if not os.path.exists(_source(name)):
                return None
        if not (found := library()):
            return None
        return ModuleSpec(name, ExtensionFileLoader(name, found), origin=found)


def install() -> None:
    """Once, before any of the modules is imported."""
    sys.meta_path.insert(0, Finder)
