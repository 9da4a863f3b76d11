"""The first modules of a backend, out of a file of the build (`make`, backend/keeping.py), before
there is anything that finds modules: what Python does to find five files takes it 2 ms. The line
that starts a backend (csrc/surface/spawn.c) has the code below from that file, and calls `load`;
where a source is not the one that was read then, nothing is loaded here, and `import` does it.
"""

import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import (  # type: ignore[attr-defined]
    _RAW_MAGIC_NUMBER,
    SourceFileLoader,
)
from _imp import source_hash
from posix import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import TypeAlias

    # name, path below the root, package?, bytes, ns, hash of the source, code
    Row: TypeAlias = tuple[str, str, bool, int, int, bytes, CodeType]


def load(root: str, rows: "list[Row]") -> None:
    """All of them or none; what is run first stands first."""
    if not all(_same(f"{root}/{row[1]}", *row[3:6]) for row in rows):
        return
    for name, below, package, _, _, _, _ in rows:
        path = f"{root}/{below}"
        spec = ModuleSpec(name, SourceFileLoader(name, path), origin=path, is_package=package)
        spec.has_location = True
        module = sys.modules[name] = type(sys)(name)
        known = vars(module)
        known.update(__spec__=spec, __loader__=spec.loader, __package__=spec.parent, __file__=path)
        if package:
            known["__path__"] = spec.submodule_search_locations = [path.rpartition("/")[0]]
    for name, _, _, _, _, _, code in rows:
        outer, _, inner = name.rpartition(".")
        if outer:
            setattr(sys.modules[outer], inner, sys.modules[name])
        exec(code, vars(sys.modules[name]))


def _same(path: str, size: int, changed: int, digest: bytes) -> bool:
    """The source is the one that was read: by its time, or, if it was copied, by what is in it."""
    try:
        seen = stat(path)
        if seen.st_size != size:
            return False
        if seen.st_mtime_ns == changed:
            return True
        with open(path, "rb", 0) as file:
            return bool(source_hash(_RAW_MAGIC_NUMBER, file.read()) == digest)
    except OSError:
        return False
