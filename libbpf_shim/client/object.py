"""A BPF object: opened from a file, loaded into a session, attached.

What is made and in which order is libbpf's (bpf_object__load): the BTF, the maps with their first
contents, the programs, what stands in prog arrays.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import Any

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf
from libbpf_shim.client import btf as btf_objects
from libbpf_shim.client import kernel, modules, usdt
from libbpf_shim.client.handle import from_pin
from libbpf_shim.client.link import Link
from libbpf_shim.client.map import BaseMap, Map, opened
from libbpf_shim.client.perf import PerfBuffer
from libbpf_shim.client.program import Program
from libbpf_shim.client.ringbuf import RingBuffer
from libbpf_shim.client.session import Command, Session, closing_fds
from libbpf_shim.client.values import Codec, Structure, codec
from libbpf_shim.elf import kconfig
from libbpf_shim.elf.link import Linked
from libbpf_shim.elf.maps import PIN_BY_NAME, MapSpec
from libbpf_shim.elf.object import Malformed
from libbpf_shim.elf.spec import MAX_FILE, ObjectSpec, attach_btf_id, object_name, prog_flags
from libbpf_shim.elf.typeinfo import KCONFIG
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as isa
from libbpf_shim.uapi.bpf import bpf_cmd, bpf_map_type

_PINS = "/sys/fs/bpf"
_MAX_VARIABLE = 16 << 20  # bytes that are read at once


class Object:
    """One .bpf.o.

    specs: its maps as they will be made, by name, to be changed before `load`. programs: by name.
    maps: by name, once it is loaded. vars: global variables by name, before and after.
    relocates_against, kconfig: as they were given to `open`.
    """

    def __init__(
        self, spec: ObjectSpec, btf: str | os.PathLike[str] | Btf | None = None,
        config: str | None = None, session: Session | None = None,
    ) -> None:
        self.spec, self._session = spec, session
        self.relocates_against, self.kconfig = btf, config
        self.specs = {m.name: m for m in spec.maps}
        self.programs = {f.name: Program(None, f.name, f) for f in spec.programs}
        self.maps: Mapping[str, Any] = _Unloaded(spec.name)
        self.vars = Variables(self)
        self.links: list[Link] = []

    @classmethod
    def open(
        cls, source: str | os.PathLike[str] | bytes, *, name: str = "",
        btf: str | os.PathLike[str] | Btf | None = None, kconfig: str | None = None,
        session: Session | None = None,
    ) -> Object:
        """Reads a file, or the bytes of one; nothing is loaded.

        btf: what CO-RE relocates against, a file or "synthetic"; the machine's if it is not said.
        kconfig: lines CONFIG_X=... that go before the machine's. session: where it will be loaded;
        the user's common one if it is not said. ShimError: no file (its errno), EINVAL and others:
        it is no BPF object, with the reason.
        """
        if isinstance(source, bytes):
            return cls(ObjectSpec(source, name or "object"), btf, kconfig, session)
        path = os.fspath(source)
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_FILE + 1)
        except OSError as error:
            raise ShimError("CO0001", error.errno or errno.EIO,
                            f"{path}: cannot be read: {error.strerror}") from error
        try:
            spec = ObjectSpec(data, name or object_name(path))
        except Malformed as error:
            raise error.of(path) from None
        return cls(spec, btf, kconfig, session)

    @property
    def loaded(self) -> bool:
        return not isinstance(self.maps, _Unloaded)

    def load(self) -> Object:
        """Makes everything in the session; all or nothing. LoadError: the verifier refuses a
        program; ShimError otherwise."""
        if self.loaded:
            raise ShimError("CO0002", errno.EINVAL, f"{self.spec.name}: loaded already")
        session = self._session = self._session or Session.default()
        made: dict[int, BaseMap] = {}
        try:
            with contextlib.ExitStack() as stack:
                self._load(session, made, stack)
        except BaseException:
            for program in self.programs.values():
                program.close()
            for held in made.values():
                held.close()
            raise
        self.maps = {self.spec.maps[index].name: held for index, held in made.items()}
        if isinstance(specs := self.maps.get(usdt.SPECS), Map):
            shared = usdt.Specs(specs)
            for program in self.programs.values():
                program.usdt_specs = shared
        return self

    def _load(
        self, session: Session, made: dict[int, BaseMap], stack: contextlib.ExitStack
    ) -> None:
        """made: maps by their place in the object."""
        spec = self.spec
        # CO-RE may be asked to look elsewhere; ids are those of the BTF that the session has
        target = kernel.target(self.relocates_against) if spec.relocates else None
        types = kernel.target(None) if spec.names_kernel_types else None
        named = stack.enter_context(modules.of(session, spec.externs, types))
        found = kernel.resolve(spec.externs, spec.btf, types, named.blobs)
        wanted = [p for p in self.programs.values() if p.autoload]
        for program in wanted:
            if not program.type:
                raise ShimError("CO0003", errno.EINVAL,
                                f"program {program.name}: SEC({program.section!r}) names no type",
                                "set program.type, or program.autoload = False")
        linked = spec.link(target, found, [p.name for p in wanted])
        fill_kconfig(spec, self.kconfig)
        btf_fd = -1
        if spec.btf:
            btf_fd = btf_objects.load(session, spec.btf.blob)
            stack.enter_context(closing_fds([btf_fd]))
        for index, row in enumerate(spec.maps):
            if row.autocreate:
                made[index] = self._make(session, row, btf_fd)
        by_name = {spec.maps[index].name: held for index, held in made.items()}
        self._fill_slots(made, by_name, programs=False)
        fds = {index: held.need_fd() for index, held in made.items()}
        for code in linked:
            program = self.programs[code.name]
            assert program.function
            at = attach_btf_id(program.function, types)
            program.load(session, prog_command(spec, program, code, fds, btf_fd, at, named.fds))
        self._fill_slots(made, self.programs, programs=True)

    def _make(self, session: Session, row: MapSpec, btf_fd: int) -> BaseMap:
        path = f"{_PINS}/{row.name.replace('.', '_')}" if row.pinning == PIN_BY_NAME else ""
        if path and (reused := _pinned(session, row, path)):
            return reused
        command = map_command(row, btf_fd, session.nr_cpus)
        with contextlib.ExitStack() as stack:
            if row.inner:
                inner = session.must(map_command(row.inner, btf_fd, session.nr_cpus),
                                     f"map {row.inner.name}: not created").fd
                stack.enter_context(closing_fds([inner]))
                command.fd("inner_map_fd", inner)
            reply = session.must(command, f"map {row.name}: not created")
        held = opened(session, reply.fd, self.spec.btf, row.name)
        held.use_types(self.spec.btf, row.key_type, row.value_type)
        try:
            if row.internal and isinstance(held, Map):
                if any(row.contents):
                    held.write_bytes(row.contents.ljust(row.value_size, b"\0"))
                if row.frozen:
                    held.freeze()
            if path:
                held.pin(path)
        except BaseException:
            held.close()
            raise
        return held

    def _fill_slots(
        self, made: dict[int, BaseMap], what: Mapping[str, BaseMap | Program], programs: bool
    ) -> None:
        """What `values` names, in maps of maps or in prog arrays."""
        for place, held in made.items():
            row = self.spec.maps[place]
            if programs != (row.type == bpf_map_type.BPF_MAP_TYPE_PROG_ARRAY):
                continue
            for index, name in row.slots.items():
                if name not in what or not isinstance(held, Map):
                    raise ShimError("CO0004", errno.ENOENT,
                                    f"map {row.name}: {name} is not there")
                if not what[name].closed:  # of a program that is not loaded, it stays empty
                    held[index] = what[name]

    def attach(self) -> Object:
        """Attaches every program whose section says where. EINVAL, EOPNOTSUPP: one of them cannot;
        nothing stays attached then."""
        links: list[Link] = []
        try:
            for program in self.programs.values():
                if program.autoload and not program.closed:
                    links.append(program.attach())
        except BaseException:
            for link in links:
                link.close()
            raise
        self.links += links
        return self

    def close(self) -> None:
        """Detaches, and gives up programs and maps; what is pinned stays."""
        for link in self.links:
            link.close()
        self.links = []
        for program in self.programs.values():
            program.close()
        if self.loaded:
            for held in self.maps.values():
                held.close()

    def __enter__(self) -> Object:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        self.close()

    # readers

    def type(self, name: str) -> Codec:
        """How values of a structure, union, enum or typedef of the object are read. ENOENT."""
        types = self.spec.btf
        found = types.find(name, kinds.STRUCT, kinds.UNION, kinds.TYPEDEF, kinds.ENUM,
                           kinds.INT) if types else None
        if types is None or found is None:
            raise ShimError("CO0007", errno.ENOENT, f"{self.spec.name}: no type {name} in its BTF",
                            f"compilers drop what is local: struct {name} *unused = 0;")
        return codec(types, found.id, types.sizeof(found.id))

    def ring(self, name: str, type: str = "") -> RingBuffer:
        """The reader of a RINGBUF map; type: the structure that its records are."""
        return RingBuffer(self.maps[name], self.type(type) if type else None)

    def perf(self, name: str, type: str = "", pages: int = 64) -> PerfBuffer:
        """The reader of a PERF_EVENT_ARRAY, with rings of so many pages for each CPU."""
        return PerfBuffer(self.maps[name], pages, self.type(type) if type else None)


class _Unloaded(Mapping[str, Any]):
    """The maps of an object that is not loaded."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getitem__(self, name: str) -> Any:
        raise ShimError("CO0005", errno.EBADF, f"{self._name}: its maps are not made yet",
                        "load() makes them; `specs` has them before")

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class Variables(MutableMapping[str, Any]):
    """Global variables by name, typed by BTF: before load their first values, after it the shared
    memory that programs use. Constants can be set before only (EPERM)."""

    def __init__(self, owner: Object) -> None:
        self._owner = owner
        self._at: dict[str, tuple[MapSpec, Codec, int]] = {}
        types = owner.spec.btf
        for spec in owner.spec.maps:
            if not spec.internal or spec.internal == KCONFIG:
                continue
            shape = codec(types, spec.value_type, spec.value_size)
            if isinstance(shape, Structure):
                for field in shape.fields.values():
                    self._at[field.name] = (spec, field.codec, field.at)

    def __getitem__(self, name: str) -> Any:
        spec, form, at = self._at[name]
        if form.size > _MAX_VARIABLE:
            raise ShimError("CO0008", errno.EFBIG, f"variable {name}: {form.size} bytes",
                            f"read a part of the memory of map {spec.name}")
        if self._owner.loaded:
            memory = self._owner.maps[spec.name].memory
            return form.unpack(bytes(memory.bytes[at : at + form.size]))
        return form.unpack(spec.contents[at : at + form.size].ljust(form.size, b"\0"))

    def __setitem__(self, name: str, value: Any) -> None:
        spec, form, at = self._at[name]
        data = form.pack(value)
        if not self._owner.loaded:
            held = spec.contents.ljust(at + form.size, b"\0")
            spec.contents = held[:at] + data + held[at + form.size :]
            return
        held_map = self._owner.maps[spec.name]
        held_map.may_write()
        held_map.memory.bytes[at : at + form.size] = data

    def __delitem__(self, name: str) -> None:
        raise TypeError("a variable cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)


def fill_kconfig(spec: ObjectSpec, config: str | None) -> None:
    """The first contents of .kconfig. ESRCH: an option without which the program cannot do."""
    row = next((m for m in spec.maps if m.internal == KCONFIG), None)
    if row is None:
        return
    ask = any(e.name.startswith("CONFIG_") for e in spec.externs)
    row.contents = kconfig.fill(spec.externs, kernel.virtual(),
                                kernel.config(config) if ask else {})


def _pinned(session: Session, row: MapSpec, path: str) -> BaseMap | None:
    """What is pinned there already, if it is the same map. EINVAL: it is another."""
    try:
        fd = from_pin(session, path)
    except ShimError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    held = opened(session, fd, name=row.name)
    wanted = (row.type, row.key_size, row.value_size, row.max_entries, row.flags)
    there = (held.type, held.key_size, held.value_size, held.max_entries, held.flags)
    if wanted != there:
        held.close()
        raise ShimError("CO0006", errno.EINVAL,
                        f"map {row.name}: {path} is another: {there}, expected {wanted}",
                        f"remove {path}")
    return held


def map_command(row: MapSpec, btf_fd: int, nr_cpus: int) -> Command:
    """MAP_CREATE, without its inner map."""
    entries = row.max_entries
    if row.type == bpf_map_type.BPF_MAP_TYPE_PERF_EVENT_ARRAY and not entries:
        entries = nr_cpus
    command = Command(
        bpf_cmd.BPF_MAP_CREATE, "map_create", map_type=row.type, key_size=row.key_size,
        value_size=row.value_size, max_entries=entries, map_flags=row.flags,
        map_extra=row.extra, numa_node=row.numa_node, map_name=row.name.encode()[:15])
    if row.typed and btf_fd >= 0:
        command.fd("btf_fd", btf_fd)
        command.put("btf_key_type_id", row.key_type)
        command.put("btf_value_type_id", row.value_type)
    return command


def prog_command(
    spec: ObjectSpec, program: Program, code: Linked, fds: Mapping[int, int], btf_fd: int,
    target: int, modules_fds: Sequence[int] = (),
) -> Command:
    """PROG_LOAD. fds: of the object's maps, by their places in it; target: attach_btf_id;
    modules_fds: of BTF of applications."""
    assert program.function
    insns = isa.decode(code.insns)
    for at, index in code.maps.items():
        insns[at].imm = fds[index]
    used, array = modules.named(insns, modules_fds)
    data = isa.encode(insns)
    command = Command(
        bpf_cmd.BPF_PROG_LOAD, "prog_load", prog_type=program.type, insn_cnt=len(insns),
        kern_version=spec.kern_version or kernel.version(),
        prog_flags=prog_flags(program.function), prog_name=program.name.encode()[:15],
        expected_attach_type=program.attach_type, attach_btf_id=target)
    command.give("insns", data)
    command.give("license", spec.license.encode() + b"\0")
    command.refs += [*dict.fromkeys(fds[i] for i in code.maps.values()), *used]
    if array:
        command.give("fd_array", array)
    if btf_fd >= 0:
        command.fd("prog_btf_fd", btf_fd)
        for which, rows, size in (("func_info", code.func_info, code.func_size),
                                  ("line_info", code.line_info, code.line_size)):
            if rows:
                command.put(f"{which}_rec_size", size)
                command.put(f"{which}_cnt", len(rows) // size)
                command.give(which, rows)
    return command
