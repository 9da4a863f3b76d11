"""cffi builder of libbpf_shim._native: the shared layouts and the runtime, for Python.

API mode: the declarations come from csrc/include after the preprocessor, the compiler checks
sizes and offsets.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from cffi import FFI

CSRC = Path(__file__).resolve().parent.parent
HEADERS = ["shim_wire.h", "shim_map.h", "shim_keeper.h", "shim_runtime.h", "shim_held.h"]
NATIVE = ["native.h"]


def declarations() -> str:
    """All headers as cffi can read them: one pass of the preprocessor, attributes defined away."""
    source = "".join(f'#include "{h}"\n' for h in [*HEADERS, *NATIVE])
    return subprocess.run(
        ["gcc", "-E", "-P", "-DSHIM_CDEF", f"-I{CSRC / 'include'}", f"-I{CSRC / 'native'}", "-"],
        input=source, capture_output=True, text=True, check=True,
    ).stdout


ffi = FFI()
ffi.cdef(declarations())
ffi.set_source(
    "libbpf_shim._native",
    "".join(f'#include "{h}"\n' for h in [*HEADERS, *NATIVE]),
    sources=sorted(
        str(p.relative_to(CSRC.parent))
        for p in [*(CSRC / "runtime").glob("*.c"), *(CSRC / "native").glob("*.c")]
    ),
    include_dirs=["csrc/include", "csrc/native", "csrc/runtime"],
    extra_compile_args=["-std=gnu11", "-O2", "-g", "-D_GNU_SOURCE"],
)
