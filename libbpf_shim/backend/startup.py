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
from _thread import RLock
from importlib.machinery import PathFinder
from importlib.util import MAGIC_NUMBER, module_from_spec
from types import CodeType, ModuleType
from typing import Any

_PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
FILE = f"{_PACKAGE}/_lib/methods-{sys.implementation.cache_tag}"
# Of the standard library, what others import in case they want it: here hardly ever
_SELDOM = ("inspect", "ipaddress", "shutil", "subprocess", "tempfile", "traceback")
# Of capstone, what instructions of other machines are: half of what it loads
_MACHINES = ("arm", "arm64", "bpf", "evm", "m680x", "m68k", "mips", "mos65xx", "ppc", "riscv",
             "sh", "sparc", "systemz", "tms320c64x", "tricore", "wasm", "xcore")
_loading = RLock()


def install() -> None:
    """Before the first class is made, in a process of our own."""
    if "hashlib" not in sys.modules:  # OpenSSL's functions take 2 ms to load
        sys.modules.setdefault("_hashlib", None)  # type: ignore[arg-type]
    for name in _SELDOM:
        sys.modules.setdefault(name, _Later(name))
    if "capstone" not in sys.modules:
        sys.modules.update((name, _Machine(name)) for name in
                           (f"capstone.{machine}" for machine in _MACHINES))
    codes = _kept()

    def run(text: str, *scope: Any) -> None:
        code = codes.get(text)
        exec(marshal.loads(code) if code else _compiled(text), *scope)

    _replace(run)


class _Later(ModuleType):
    """A module that is loaded when something of it is asked for. importlib.util.LazyLoader's are
    when they are imported again, too."""

    def __getattr__(self, name: str) -> Any:
        with _loading:
            if "_begun" not in vars(self):  # neither there nor on its way
                vars(self)["_begun"] = True
                try:
                    self._load()
                except BaseException:
                    del vars(self)["_begun"]
                    raise
            return ModuleType.__getattribute__(self, name)

    def _load(self) -> None:
        package = sys.modules.get(self.__name__.rpartition(".")[0])
        spec = PathFinder.find_spec(self.__name__, getattr(package, "__path__", None))
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(self.__name__, name=self.__name__)
        vars(self).update(vars(module_from_spec(spec)))
        spec.loader.exec_module(self)
        self.__class__ = ModuleType  # type: ignore[assignment]


class _Machine(_Later):
    """A part of capstone of which only types of structures are asked for, as parts of a union of
    which another part is used."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("Cs"):
            return super().__getattr__(name)
        import ctypes

        return type(name, (ctypes.Structure,), {"_fields_": (("unused", ctypes.c_byte),)})


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
