"""What makes a backend's start shorter; without it the same happens, later.

Two thirds of a start were Python finding, reading and executing a hundred modules, and what they
ask of Python's own. The build keeps their code as a backend wants it (`make`, backend/trim.py)
in one file, and a backend takes it from there (`install`): a module whose source is not the one
that was read then is loaded as ever.
"""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import (  # type: ignore[attr-defined]
    _RAW_MAGIC_NUMBER,
    MAGIC_NUMBER,
    ExtensionFileLoader,
    PathFinder,
)
from _imp import source_hash
from _thread import RLock

TYPE_CHECKING = False  # typing is a tenth of what there is to load
if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import FileIO
    from types import ModuleType as Module
    from typing import Any, TypeAlias

    # path (of ours: below the root), package?, bytes, ns, hash of the source; where the code is;
    # what to load before it, in this order, and where the code of these and its own are in one
    Row: TypeAlias = tuple[str, bool, int, int, bytes, int, int, tuple[str, ...], int, int]
else:
    Module = type(sys)

_PACKAGE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_ROOT = os.path.dirname(_PACKAGE)
FILE = f"{_PACKAGE}/_lib/start-{sys.implementation.cache_tag}"
BOOT = f"{_PACKAGE}/_lib/boot-{sys.implementation.cache_tag}"  # csrc/surface/spawn.c
LIBRARY = "library"  # a line of keeping.py's
# What a backend has loaded when it is ready, when it has attached, and when it had to compile and
# plan, with what that loads; the verifier's modules need each other
FIRST = ("libbpf_shim.backend.share", "libbpf_shim.backend.server", "libbpf_shim.btf.check",
         "libbpf_shim.attach.deliver", "libbpf_shim.attach.visits", "libbpf_shim.attach.placing",
         "libbpf_shim.jit.tier1", "libbpf_shim.rewrite.site")
# Of the standard library, what others import in case they want it: here hardly ever. Functions
# of theirs that may be had without loading them
_SELDOM = {
    "dataclasses": ("asdict", "dataclass", "field", "fields", "is_dataclass", "replace"),
    "ctypes": (), "fnmatch": (), "inspect": (), "ipaddress": (), "ntpath": (), "re": (),
    "shutil": (), "subprocess": (), "tempfile": (), "threading": (), "traceback": (),
}
# Functions that are all that is wanted of a module, and where Python's own has them from
_ALONE = (("hashlib", "blake2b", ("_blake2.blake2b",)),
          ("hashlib", "sha256", ("_sha256.sha256", "_sha2.sha256")),
          ("hmac", "compare_digest", ("_operator._compare_digest",)))
# Of capstone, what instructions of other machines are: half of what it loads
_MACHINES = ("arm", "arm64", "bpf", "evm", "m680x", "m68k", "mips", "mos65xx", "ppc", "riscv",
             "sh", "sparc", "systemz", "tms320c64x", "tricore", "wasm", "xcore")
_NOWHERE = ("org",)  # copy asks for it, for Jython's sake
_loading = RLock()


def install() -> None:
    """Before anything else is loaded, in a process of our own."""
    if kept := Kept.read():
        sys.meta_path.insert(0, kept)
    if not sys.flags.no_site or "site" in sys.modules:
        pass  # all that is installed is found already
    else:
        sys.path += installed()
        sys.meta_path.append(_Site())
    if "hashlib" not in sys.modules:  # OpenSSL's functions take 2 ms to load
        sys.modules.setdefault("_hashlib", None)  # type: ignore[arg-type]
        for whole, function, parts in _ALONE:
            _alone(whole, function, parts)
    for name, functions in _SELDOM.items():
        sys.modules.setdefault(name, _Later(name, functions))
    if "capstone" not in sys.modules:
        sys.modules.update((name, _Machine(name)) for name in
                           (f"capstone.{machine}" for machine in _MACHINES))


def _alone(whole: str, function: str, parts: tuple[str, ...]) -> None:
    """The function is there without the rest of the module, if this Python has it so."""
    later = sys.modules.setdefault(whole, _Later(whole, (function,)))
    for place, _, name in (part.partition(".") for part in parts):
        if place not in sys.stdlib_module_names:
            continue  # another Python's: who looks for it asks `site`
        try:
            found = getattr(__import__(place), name, None)
        except ImportError:
            continue
        if found and isinstance(later, _Later):
            vars(later)[function] = found
            return


def installed() -> list[str]:
    """Where packages of a virtual environment are, as `site` would say, which takes 2 ms."""
    place = os.path.dirname(os.path.dirname(sys.executable))
    if not os.path.exists(f"{place}/pyvenv.cfg"):
        return []
    return [f"{place}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"]


class _Site:
    """The finder of last resort (sys.meta_path): `site` says where else to look."""

    def __init__(self) -> None:
        self._asked = False

    def find_spec(
        self, name: str, where: Sequence[str] | None = None, target: Module | None = None
    ) -> ModuleSpec | None:
        if self._asked or where is not None or name in _NOWHERE \
                or name in sys.stdlib_module_names:
            return None
        self._asked = True
        import site

        site.main()
        return PathFinder.find_spec(name, where, target)


class Kept:
    """A finder and loader (sys.meta_path) of the modules of the build's file."""

    def __init__(self, file: FileIO, rows: dict[str, Row], libraries: dict[str, str]) -> None:
        self._file, self.rows, self._libraries = file, rows, libraries
        self._data: memoryview | None = None

    @classmethod
    def read(cls) -> Kept | None:
        """None: there is none of this Python's."""
        try:
            file = open(FILE, "rb", 0)
            head = file.read(8)
            if head[:4] != MAGIC_NUMBER:
                return None
            rows, libraries = marshal.loads(file.read(int.from_bytes(head[4:], "little")))
        except (OSError, EOFError, ValueError, TypeError):
            return None
        known = isinstance(rows, dict) and isinstance(libraries, dict)
        found = cls(file, rows, libraries) if known else None
        # what is written out goes by what is in that module
        return found if found and found.find_spec("libbpf_shim.plain") else None

    def find_spec(
        self, name: str, where: Sequence[str] | None = None, target: Module | None = None
    ) -> ModuleSpec | None:
        if library := self._libraries.get(name):
            return _library(name, library)
        row = self.rows.get(name)
        path = f"{_ROOT}/{row[0]}" if row and row[0][0] != "/" else row[0] if row else ""
        if not row or not _same(path, row):
            return None
        spec = ModuleSpec(name, self, origin=path, is_package=row[1])  # type: ignore[arg-type]
        spec.has_location = True
        if row[1]:
            assert spec.submodule_search_locations is not None
            spec.submodule_search_locations.append(path.rpartition("/")[0])
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """One as ever."""

    def exec_module(self, module: Module) -> None:
        before, at, length = self.rows[module.__name__][7:]
        if before:
            *codes, code = self._at(at, length)
            for name, its in zip(before, codes, strict=True):
                if name not in sys.modules:
                    self._load(name, its)
        else:
            code = self.code(module.__name__)
        exec(code, vars(module))

    def _load(self, name: str, code: Any) -> None:
        """As `import` does, with what it loads there already; a third of what that takes."""
        spec = self.find_spec(name)
        if not spec:
            __import__(name)
            return
        module = sys.modules[name] = Module(name)
        known: dict[str, Any] = vars(module)
        known.update(__spec__=spec, __loader__=self, __package__=spec.parent,
                     __file__=spec.origin)
        if spec.submodule_search_locations is not None:
            known["__path__"] = spec.submodule_search_locations
        try:
            exec(code, known)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        package, _, child = name.rpartition(".")
        if package:
            setattr(sys.modules[package], child, module)

    def code(self, name: str) -> Any:
        """Of a module that is there."""
        return self._at(*self.rows[name][5:7])

    def _at(self, at: int, length: int) -> Any:
        if self._data is None:
            from mmap import ACCESS_READ, mmap  # it may be one of those that are found here

            with self._file:
                self._data = memoryview(mmap(self._file.fileno(), 0, access=ACCESS_READ))
        return marshal.loads(self._data[at : at + length])


def _library(name: str, path: str) -> ModuleSpec | None:
    """One where it was found before; path: below the root or where packages are, or whole."""
    kind, _, rest = path.partition(":")
    places = [_ROOT] if kind == "ours" else installed() if kind else [""]
    for place in places:
        if os.access(found := f"{place}/{rest}", os.R_OK):
            spec = ModuleSpec(name, ExtensionFileLoader(name, found), origin=found)
            spec.has_location = True
            return spec
    return None


def _same(path: str, row: Row) -> bool:
    """The source is the one that was read: by its time, or, if it was copied, by what is in it."""
    try:
        seen = os.stat(path)
        if seen.st_size != row[2]:
            return False
        if seen.st_mtime_ns == row[3]:
            return True
        with open(path, "rb", 0) as file:
            return bool(source_hash(_RAW_MAGIC_NUMBER, file.read()) == row[4])
    except OSError:
        return False


class _Later(Module):
    """A module that is loaded when something of it is asked for. importlib.util.LazyLoader's are
    when they are imported again, too."""

    def __init__(self, name: str, functions: tuple[str, ...] = ()) -> None:
        super().__init__(name)
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        functions = vars(self)["_functions"]
        if functions and name == "__path__":  # asked for by `from`
            raise AttributeError(name)
        if name in functions:
            return lambda *given, **words: _Later._loaded(self, name)(*given, **words)
        return self._loaded(name)

    def _loaded(self, name: str) -> Any:
        with _loading:
            if "_begun" not in vars(self):  # neither there nor on its way
                vars(self)["_begun"] = True
                try:
                    self._load()
                except BaseException:
                    del vars(self)["_begun"]
                    raise
            return Module.__getattribute__(self, name)

    def _load(self) -> None:
        from importlib.util import module_from_spec

        package = sys.modules.get(self.__name__.rpartition(".")[0])
        where = getattr(package, "__path__", None)
        found = (finder.find_spec(self.__name__, where, None) for finder in sys.meta_path)
        spec = next((one for one in found if one), None)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(self.__name__, name=self.__name__)
        vars(self).update(vars(module_from_spec(spec)))
        spec.loader.exec_module(self)
        self.__class__ = Module  # type: ignore[assignment]


class _Quiet(_Later):
    """logging, where nobody would see what is logged."""

    def __getattr__(self, name: str) -> Any:
        return _nobody if name == "getLogger" else super().__getattr__(name)


class _Nobody:
    """A logger that says nothing."""

    def isEnabledFor(self, level: int) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return _nothing


def _nothing(*given: object, **words: object) -> None:
    pass


def _nobody(name: str = "") -> _Nobody:
    return _Nobody()


def quiet() -> None:
    """Before anything logs, in a process whose messages go nowhere."""
    sys.modules.setdefault("logging", _Quiet("logging"))


class _Machine(_Later):
    """A part of capstone of which only types of structures are asked for, as parts of a union of
    which another part is used."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("Cs"):
            return super().__getattr__(name)
        import ctypes

        return type(name, (ctypes.Structure,), {"_fields_": (("unused", ctypes.c_byte),)})


def make() -> None:
    """Part of the build: the file, and that of what is loaded before it is read, written whole or
    not at all."""
    for name in FIRST:
        __import__(name)
    loaded = [name for name, module in sys.modules.items() if module]
    from libbpf_shim.backend import keeping

    keeping.make(FILE, _ROOT, loaded)
    keeping.make_first(BOOT, _ROOT)
