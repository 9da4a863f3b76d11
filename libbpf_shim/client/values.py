"""Keys and values as Python sees them, by their BTF types.

Integers, enumerators and pointers are int (a _Bool is bool), floats float, structures and unions
`Record`, arrays lists, arrays of char bytes without the NULs at their end; what has no type is
bytes. Writing takes the same, dicts or sequences for structures, and str for arrays of char.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Member, Type

_INTEGERS: Final = {(1, False): "B", (2, False): "H", (4, False): "I", (8, False): "Q",
                    (1, True): "b", (2, True): "h", (4, True): "i", (8, True): "q"}
_SIGNED, _BOOL = 1, 4  # BTF_INT_*
_MAX_DEPTH = 32
_MAX_FIELDS = 1 << 16


class Codec(Protocol):
    """One type. size: bytes. pack raises ValueError, TypeError or OverflowError for what does not
    fit it."""

    size: int

    def pack(self, value: Any) -> bytes: ...

    def unpack(self, data: bytes) -> Any: ...


class Bytes:
    """No type: the bytes themselves."""

    def __init__(self, size: int) -> None:
        self.size = size

    def pack(self, value: Any) -> bytes:
        data = bytes(value)
        if len(data) != self.size:
            raise ValueError(f"{len(data)} bytes, expected {self.size}")
        return data

    def unpack(self, data: bytes) -> bytes:
        return data


class Number:
    """An integer, enumeration, pointer or float, by its struct letter."""

    def __init__(self, letter: str, boolean: bool = False) -> None:
        form = struct.Struct("<" + ("?" if boolean else letter))
        self.letter, self.size = form.format[1:], form.size
        self._pack, self._unpack = form.pack, form.unpack_from

    def pack(self, value: Any) -> bytes:
        try:
            return self._pack(value)
        except struct.error as error:
            raise _unfit(value, self.size, error) from None

    def unpack(self, data: bytes) -> Any:
        return self._unpack(data)[0]


def _unfit(value: Any, size: int, error: Exception) -> Exception:
    if isinstance(value, int):
        return OverflowError(f"{value} does not fit in {size} bytes")
    return TypeError(f"{value!r}: {error}")


class Wide:
    """An integer of an odd size: __int128, bit-precise ones."""

    def __init__(self, size: int, signed: bool) -> None:
        self.size, self._signed = size, signed

    def pack(self, value: Any) -> bytes:
        return int(value).to_bytes(self.size, "little", signed=self._signed)

    def unpack(self, data: bytes) -> int:
        return int.from_bytes(data[: self.size], "little", signed=self._signed)


class Chars:
    """char[N]."""

    def __init__(self, size: int) -> None:
        self.size = size

    def pack(self, value: Any) -> bytes:
        data = value.encode() if isinstance(value, str) else bytes(value)
        if len(data) > self.size:
            raise ValueError(f"{len(data)} characters, at most {self.size}")
        return data.ljust(self.size, b"\0")

    def unpack(self, data: bytes) -> bytes:
        return bytes(data[: self.size]).rstrip(b"\0")


class Array:
    """Elements end to end."""

    def __init__(self, element: Codec, count: int) -> None:
        self.size, self._element, self._count = element.size * count, element, count

    def pack(self, value: Any) -> bytes:
        if isinstance(value, bytes | bytearray) and len(value) == self.size:
            return bytes(value)
        if len(value) != self._count:
            raise ValueError(f"{len(value)} elements, expected {self._count}")
        return b"".join(self._element.pack(v) for v in value)

    def unpack(self, data: bytes) -> list[Any]:
        size, unpack = self._element.size, self._element.unpack
        return [unpack(data[at : at + size]) for at in range(0, self.size, size or 1)]


class Addresses:
    """A stack: addresses, innermost first, without the zeroes at the end."""

    def __init__(self, size: int) -> None:
        self.size = size

    def pack(self, value: Any) -> bytes:
        return b"".join(int(v).to_bytes(8, "little") for v in value).ljust(self.size, b"\0")

    def unpack(self, data: bytes) -> list[int]:
        found = list(struct.unpack(f"<{self.size // 8}Q", data[: self.size]))
        while found and not found[-1]:
            found.pop()
        return found


class Field:
    """A member of a structure: where it lies, and how it is read. bits: width of a bit field."""

    __slots__ = ("name", "at", "codec", "bits", "shift", "signed")

    def __init__(self, name: str, at: int, codec: Codec, bits: int = 0, shift: int = 0,
                 signed: bool = False) -> None:
        self.name, self.at, self.codec = name, at, codec
        self.bits, self.shift, self.signed = bits, shift, signed

    def read(self, data: bytes) -> Any:
        if not self.bits:
            return self.codec.unpack(data[self.at : self.at + self.codec.size])
        word = int.from_bytes(data[self.at : self.at + 16], "little") >> self.shift
        value = word & (1 << self.bits) - 1
        if self.signed and value >> self.bits - 1:
            value -= 1 << self.bits
        return value

    def write(self, data: bytearray, value: Any) -> None:
        if not self.bits:
            packed = self.codec.pack(value)
            data[self.at : self.at + len(packed)] = packed
            return
        low = -(1 << self.bits - 1) if self.signed else 0
        if not low <= value < low + (1 << self.bits):
            raise OverflowError(f"{self.name}: {value} does not fit in {self.bits} bits")
        end = min(self.at + (self.shift + self.bits + 7) // 8, len(data))
        word = int.from_bytes(data[self.at : end], "little")
        mask = (1 << self.bits) - 1 << self.shift
        word = word & ~mask | (value << self.shift) & mask
        data[self.at : end] = word.to_bytes(end - self.at, "little")


class Record:
    """A structure's value: fields as attributes or by `[name]`; a copy, not the map's memory."""

    __slots__ = ("_codec", "_data")

    def __init__(self, codec: Structure, data: bytes) -> None:
        _set_codec(self, codec)
        _set_data(self, bytearray(data))

    def __getattr__(self, name: str) -> Any:
        field = self._codec.fields.get(name)
        if field is None:
            raise AttributeError(f"{self._codec.name}: no field {name}")
        return field.read(self._data)

    def __setattr__(self, name: str, value: Any) -> None:
        field = self._codec.fields.get(name)
        if field is None:
            raise AttributeError(f"{self._codec.name}: no field {name}")
        field.write(self._data, value)

    def __getitem__(self, name: str) -> Any:
        if name not in self._codec.fields:
            raise KeyError(name)
        return getattr(self, name)

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self._codec.fields:
            raise KeyError(name)
        setattr(self, name, value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._codec.fields)

    def keys(self) -> list[str]:
        """Names of the fields, so that dict(record) works."""
        return list(self._codec.fields)

    def __bytes__(self) -> bytes:
        return bytes(self._data)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Record):
            return bytes(self._data) == bytes(other._data)
        if isinstance(other, Mapping):
            return dict(self) == dict(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(bytes(self._data))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={field.read(self._data)!r}"
                           for name, field in self._codec.fields.items())
        return f"{self._codec.name or 'struct'}({inside})"


# Past Record.__setattr__, which is for fields.
_set_codec = Record._codec.__set__  # type: ignore[attr-defined]
_set_data = Record._data.__set__  # type: ignore[attr-defined]


class Structure:
    """A structure, union or section of variables; members of anonymous ones are its own."""

    def __init__(self, name: str, size: int, fields: Sequence[Field]) -> None:
        self.name, self.size = name, size
        self.fields = {f.name: f for f in fields}
        self._form = _form(size, fields)
        self._chars = tuple(f.codec if isinstance(f.codec, Chars) else None for f in fields)
        self._some_chars = any(self._chars)

    def _pack_all(self, values: tuple[Any, ...]) -> bytes:
        """All fields, where each is a number or characters and none overlaps."""
        assert self._form
        if self._some_chars:
            values = tuple([c.pack(v) if c else v
                            for c, v in zip(self._chars, values, strict=True)])
        try:
            return self._form.pack(*values)
        except struct.error:
            return self._pack_each(dict(zip(self.fields, values, strict=True)))

    def _pack_each(self, values: Mapping[str, Any]) -> bytes:
        """Field by field; an error says which."""
        out = bytearray(self.size)
        for name, item in values.items():
            if name not in self.fields:
                raise ValueError(f"{self.name or 'struct'}: no field {name}")
            self.fields[name].write(out, item)
        return bytes(out)

    def pack(self, value: Any) -> bytes:
        """A Record, a dict (absent fields are zero), a sequence of all fields, or the bytes."""
        if type(value) is tuple and self._form and len(value) == len(self._chars):
            return self._pack_all(value)
        if isinstance(value, bytes | bytearray | Record):
            data = bytes(value)
            if len(data) != self.size:
                raise ValueError(f"{len(data)} bytes, expected {self.size}")
            return data
        if not isinstance(value, Mapping):
            values = tuple(value)
            if len(values) != len(self.fields):
                raise ValueError(f"{len(values)} values for {len(self.fields)} fields")
            value = dict(zip(self.fields, values, strict=True))
        return self._pack_each(value)

    def unpack(self, data: bytes) -> Record:
        return Record(self, data[: self.size])


def _form(size: int, fields: Sequence[Field]) -> struct.Struct | None:
    """The fields in order as struct writes them, or None where it cannot."""
    letters, end = "<", 0
    for field in fields:
        if field.bits or field.at < end or not isinstance(field.codec, Number | Chars):
            return None
        letters += f"{field.at - end}x"
        letters += (field.codec.letter if isinstance(field.codec, Number)
                    else f"{field.codec.size}s")
        end = field.at + field.codec.size
    return struct.Struct(f"{letters}{size - end}x") if end <= size else None


class PerCpu:
    """A value for each possible CPU, as the system call lays them out."""

    def __init__(self, value: Codec, cpus: int) -> None:
        self._value, self._cpus = value, cpus
        self._stride = -(-value.size // 8) * 8
        self.size = self._stride * cpus

    def pack(self, value: Any) -> bytes:
        if len(value) != self._cpus:
            raise ValueError(f"{len(value)} values, one a CPU are {self._cpus}")
        return b"".join(self._value.pack(v).ljust(self._stride, b"\0") for v in value)

    def unpack(self, data: bytes) -> list[Any]:
        size, stride, unpack = self._value.size, self._stride, self._value.unpack
        return [unpack(data[at : at + size]) for at in range(0, self.size, stride)]


def codec(btf: Btf | None, type_id: int, size: int) -> Codec:
    """How values of a type are read and written; bytes where the type does not say, or says
    another size than the map's."""
    try:
        found = _Builder(btf).of(type_id) if btf and type_id else None
    except KeyError:  # a type without a size, or not there
        found = None
    return found if found and found.size == size else Bytes(size)


class _Builder:
    """Codecs of one BTF, each type's made once. A structure of more fields than anybody wrote, by
    anonymous ones inside each other, is bytes."""

    def __init__(self, btf: Btf) -> None:
        self._btf = btf
        self._made: dict[int, Codec] = {}
        self._left = _MAX_FIELDS

    def of(self, type_id: int, depth: int = 0) -> Codec:
        """KeyError: a type that has no values."""
        found = self._btf.strip(type_id)
        if found is None or depth > _MAX_DEPTH:
            raise KeyError(type_id)
        if found.id not in self._made:
            self._made[found.id] = self._make(found, depth + 1)
        return self._made[found.id]

    def _make(self, found: Type, depth: int) -> Codec:
        if found.kind == kinds.VAR:
            return self.of(found.ref, depth)
        if found.kind == kinds.PTR:
            return Number("Q")
        if found.kind in (kinds.INT, kinds.ENUM, kinds.ENUM64):
            return _integer(found)
        if found.kind == kinds.FLOAT and found.size in (4, 8):
            return Number("f" if found.size == 4 else "d")
        if found.kind == kinds.ARRAY:
            element = self._btf.strip(found.ref)
            if element and element.kind == kinds.INT and element.name == "char":
                return Chars(found.nelems)
            inner = self.of(found.ref, depth)
            return Array(inner, found.nelems) if inner.size else Bytes(0)
        if found.kind == kinds.DATASEC:
            fields = [Field(self._btf.type(row.type).name, row.offset, self.of(row.type, depth))
                      for row in found.members]
            return Structure(found.name, found.size, fields)
        if found.kind in kinds.COMPOSITE:
            return Structure(found.name, found.size, list(self._fields(found, 0, depth)))
        return Bytes(self._btf.sizeof(found.id))

    def _fields(self, owner: Type, base: int, depth: int) -> Iterator[Field]:
        """base: bits from the start of the structure that the fields belong to."""
        for member in owner.members:
            self._left -= 1
            if self._left < 0 or depth > _MAX_DEPTH:
                raise KeyError(owner.id)
            target = self._btf.strip(member.type)
            if not member.name and target and target.kind in kinds.COMPOSITE:
                yield from self._fields(target, base + member.offset, depth + 1)
            elif member.name:
                yield self._field(member, base + member.offset, depth)

    def _field(self, member: Member, bit: int, depth: int) -> Field:
        inner = self.of(member.type, depth)
        if not member.bits:
            return Field(member.name, bit // 8, inner)
        target = self._btf.strip(member.type)
        signed = bool(target and target.kind == kinds.INT and target.extra >> 24 & _SIGNED)
        return Field(member.name, bit // 8, inner, member.bits, bit % 8, signed)


def _integer(found: Type) -> Codec:
    encoding = found.extra >> 24 if found.kind == kinds.INT else 0
    signed = bool(encoding & _SIGNED) if found.kind == kinds.INT else bool(found.extra)
    letter = _INTEGERS.get((found.size, signed))
    return Number(letter, bool(encoding & _BOOL)) if letter else Wide(found.size, signed)
