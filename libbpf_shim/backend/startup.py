"""What makes a backend's start shorter; without it the same happens, later.

`dataclass` writes the methods of a class as text and compiles them: with so many classes a third
of what there is to load. The build compiles those texts once, as Python itself does with modules
(`make`), and a backend takes their code by the text (`install`): a text that is not known, or a
file of another Python's, is compiled as ever.
"""

# no `annotations` of __future__ here, which what is compiled for dataclasses would inherit
import contextlib
import importlib
import marshal
import os
import sys
from importlib.util import MAGIC_NUMBER, find_spec, module_from_spec
from types import CodeType, ModuleType
from typing import Any

_PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
FILE = f"{_PACKAGE}/_lib/methods-{sys.implementation.cache_tag}"
# Of the standard library, what others import in case they want it: here hardly ever
_SELDOM = ("inspect", "ipaddress", "traceback")


def install() -> None:
    """Before the first class is made, in a process of our own."""
    if "hashlib" not in sys.modules:  # OpenSSL's functions take 2 ms to load
        sys.modules.setdefault("_hashlib", None)  # type: ignore[arg-type]
    for name in _SELDOM:
        _later(name)
    codes = _kept()

    def run(text: str, *scope: Any) -> None:
        code = codes.get(text)
        exec(marshal.loads(code) if code else _compiled(text), *scope)

    _replace(run)


class _Later(ModuleType):
    """A module that is loaded when something of it is asked for. importlib.util.LazyLoader's are
    when they are imported again, too."""

    def __getattr__(self, name: str) -> Any:
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ and self.__spec__.loader
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def _later(name: str) -> None:
    if name not in sys.modules and (spec := find_spec(name)):
        module = sys.modules[name] = module_from_spec(spec)
        module.__class__ = _Later


def _compiled(text: str) -> CodeType:
    """As exec() in dataclasses does."""
    return compile(text, "<string>", "exec", dont_inherit=True)


def _replace(run: Any) -> None:
    import dataclasses

    vars(dataclasses)["exec"] = run


def _kept() -> dict[str, bytes]:
    with contextlib.suppress(OSError, EOFError, ValueError, TypeError):
        with open(FILE, "rb") as file:
            data = file.read()
        if data.startswith(MAGIC_NUMBER):
            codes = marshal.loads(data[len(MAGIC_NUMBER):])
            return codes if isinstance(codes, dict) else {}
    return {}


def make() -> None:
    """Part of the build: the texts of all our modules, written whole or not at all."""
    import pkgutil

    codes: dict[str, bytes] = {}

    def run(text: str, *scope: Any) -> None:
        code = _compiled(text)
        codes[text] = marshal.dumps(code)
        exec(code, *scope)

    _replace(run)
    for found in pkgutil.walk_packages([_PACKAGE], "libbpf_shim."):
        if not found.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # an extra that is not installed
                importlib.import_module(found.name)
    aside = f"{FILE}.{os.getpid()}"
    with open(aside, "wb") as file:
        file.write(MAGIC_NUMBER + marshal.dumps(codes))
    os.rename(aside, FILE)
