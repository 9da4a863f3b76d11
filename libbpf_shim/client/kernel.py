"""What a loader asks the machine: its kernel's version, configuration, symbols and types.

Source: libbpf 1.1 src/libbpf.c, get_kernel_version, bpf_object__read_kconfig_file,
libbpf_kallsyms_parse, bpf_object__resolve_ksyms_btf_id.
"""

from __future__ import annotations

import errno
import functools
import gzip
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from libbpf_shim.btf import kinds, sane, synthetic
from libbpf_shim.btf.core_match import Unfit, compatible
from libbpf_shim.btf.parse import Btf
from libbpf_shim.elf import kconfig
from libbpf_shim.elf.link import Found
from libbpf_shim.elf.typeinfo import Extern
from libbpf_shim.errors import ShimError

VMLINUX: Final = "/sys/kernel/btf/vmlinux"
KALLSYMS: Final = "/proc/kallsyms"


def version() -> int:
    """KERNEL_VERSION(): what PROG_LOAD and LINUX_KERNEL_VERSION say. Debian says its own in the
    build's text, Ubuntu in a file."""
    found = os.uname()
    text = found.release
    if debian := re.search(r"Debian (\d+\.\d+\.\d+)", found.version):
        text = debian[1]
    else:
        try:
            text = Path("/proc/version_signature").read_text().split()[2]
        except (OSError, IndexError):
            pass
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    major, minor, patch = (int(n) for n in numbers.groups()) if numbers else (0, 0, 0)
    return major << 16 | minor << 8 | min(patch, 255)


def virtual() -> dict[str, int]:
    """The LINUX_* externs."""
    return {"LINUX_KERNEL_VERSION": version(), "LINUX_HAS_BPF_COOKIE": 1,
            "LINUX_HAS_SYSCALL_WRAPPER": 1}


def config(given: str | None) -> Mapping[str, str]:
    """The kernel's options, `given` before those of /boot/config-* or /proc/config.gz."""
    return {**_machine_config(), **kconfig.options((given or "").splitlines())}


@functools.cache
def _machine_config() -> Mapping[str, str]:
    for path in (f"/boot/config-{os.uname().release}", "/proc/config.gz"):
        try:
            data = Path(path).read_bytes()
            text = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
            return kconfig.options(text.decode(errors="replace").splitlines())
        except OSError:
            continue
    return {}


def target(wanted: str | os.PathLike[str] | Btf | None) -> Btf:
    """The BTF to relocate against: a file, or the machine's, or where that cannot be read the one
    that loaders are shown instead. "synthetic": that one in any case."""
    if isinstance(wanted, Btf):
        return wanted
    return _target("" if wanted is None else os.fspath(wanted))


@functools.lru_cache(maxsize=4)
def _target(path: str) -> Btf:
    if path == "synthetic":
        return Btf(synthetic.build())
    try:
        blob = Path(path or VMLINUX).read_bytes()
    except OSError as error:
        if not path:
            return Btf(synthetic.build())
        raise ShimError("CK0001", error.errno or errno.EIO, f"{path}") from error
    if path and blob[:4] == b"\x7fELF":
        blob = _of_elf(blob, path)
    return sane.parse(blob) if path else Btf(blob)


def _of_elf(data: bytes, path: str) -> bytes:
    """The .BTF of an ELF file: a vmlinux image."""
    import io

    from elftools.elf.elffile import ELFFile

    try:
        section = ELFFile(io.BytesIO(data)).get_section_by_name(".BTF")
        if section is None:
            raise ValueError("no section .BTF")
        return bytes(section.data())
    except Exception as error:  # of whatever kind pyelftools' parts raise
        raise ShimError("CK0001", errno.EINVAL, f"{path}: no BTF in it: {error}") from error


def _addresses(names: set[str]) -> dict[str, int]:
    """Addresses of symbols. EINVAL: one has two."""
    found: dict[str, int] = {}
    try:
        with open(KALLSYMS, encoding="ascii", errors="replace") as file:
            for line in file:
                address, _, name = line.split(maxsplit=3)[:3]
                if name in names:
                    if found.setdefault(name, int(address, 16)) != int(address, 16):
                        raise ShimError("CK0002", errno.EINVAL, f"extern {name}: two addresses")
    except OSError as error:
        raise ShimError("CK0002", error.errno or errno.EIO, f"{KALLSYMS}",
                        ) from error
    return found


_NOR: Final = ", nor in an application of the policy"


def resolve(externs: Iterable[Extern], local: Btf | None, types: Btf | None,
            hosts: Sequence[Btf] = ()) -> list[Found]:
    """What each extern comes to; kconfig ones are in .kconfig. hosts: BTF of applications, where
    what the kernel has not is looked for. ESRCH: a strong one is nowhere; EINVAL: it is of another
    type."""
    wanted = list(externs)
    plain = {e.name for e in wanted if not e.kconfig and not e.type}
    addresses = _addresses(plain) if plain else {}
    found = []
    for extern in wanted:
        result = Found()
        if extern.kconfig:
            pass
        elif not extern.type:
            result = Found(addresses.get(extern.name, 0))
        elif local and types:
            result = Found(btf_id=_typed(extern, local, types))
            for n, host in enumerate(hosts):
                if result.btf_id:
                    break
                result = Found(btf_id=_typed(extern, local, host, "application"), module=n + 1)
        missing = not extern.kconfig and not (
            extern.name in addresses if not extern.type else result.btf_id)
        if missing and not extern.weak:
            raise ShimError("CK0003", errno.ESRCH, f"extern {extern.name}: not in the kernel"
                            f"{_NOR if hosts else ''}",
                            "declare it __weak if the program can do without")
        found.append(result)
    return found


def _typed(extern: Extern, local: Btf, types: Btf, whose: str = "kernel") -> int:
    there = types.find(extern.name, kinds.FUNC if extern.function else kinds.VAR)
    if there is None:
        return 0
    held = there.ref if extern.function else (types.strip(there.ref) or there).id
    try:
        fits = compatible(local, extern.type, types, held)
    except Unfit:
        fits = False
    if not fits:
        raise ShimError("CK0003", errno.EINVAL,
                        f"extern {extern.name}: of another type than the {whose}'s")
    return there.id
