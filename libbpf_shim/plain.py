"""What classes have in common that the build has written out (backend/trim.py).

They are what `dataclass(slots=True)` and `NamedTuple` make, but that nothing has to be loaded,
written or compiled for it. Python's own sees dataclasses in them.
"""

from __future__ import annotations

from collections import _tuplegetter  # type: ignore[attr-defined]
from enum import Enum, IntEnum
from types import MappingProxyType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any


class Field:
    """What `dataclasses.fields` has of one."""

    __slots__ = ("compare", "init", "kw_only", "name", "repr")
    hash, type = None, "Any"
    metadata: MappingProxyType[Any, Any] = MappingProxyType({})

    def __init__(self, name: str, init: bool, repr: bool, compare: bool, kw_only: bool) -> None:
        self.name, self.init, self.repr = name, init, repr
        self.compare, self.kw_only = compare, kw_only

    def __getattr__(self, name: str) -> Any:
        import dataclasses

        if name == "_field_type":
            return dataclasses._FIELD  # type: ignore[attr-defined]
        if name in ("default", "default_factory"):  # they are in the class's __init__ alone
            return dataclasses.MISSING
        raise AttributeError(name)


class Fields:
    """`__dataclass_fields__` of a class, made when somebody asks. rows: of each, what Field
    takes."""

    __slots__ = ("_made", "_rows")

    def __init__(self, rows: tuple[tuple[str, bool, bool, bool, bool], ...]) -> None:
        self._rows = rows
        self._made: dict[str, Field] | None = None

    def __get__(self, obj: object, owner: type | None = None) -> dict[str, Field]:
        if self._made is None:
            self._made = {row[0]: Field(*row) for row in self._rows}
        return self._made


class Pattern:
    """A regular expression, compiled when it is used."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)


def shown(self: Any) -> str:
    """__repr__."""
    from reprlib import recursive_repr

    @recursive_repr()
    def text(one: Any) -> str:
        rows = type(one).__dataclass_fields__.values()
        inner = ", ".join(f"{row.name}={getattr(one, row.name)!r}" for row in rows if row.repr)
        return f"{type(one).__qualname__}({inner})"

    return text(self)


def _no(self: Any, name: str, what: str) -> bool:
    fields = type(self).__dataclass_fields__
    if "__dataclass_fields__" in vars(type(self)) or name in fields:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot {what} field {name!r}")
    return False


def no_setattr(self: Any, name: str, value: object) -> None:
    """__setattr__ of one that is frozen."""
    _no(self, name, "assign to")
    object.__setattr__(self, name, value)


def no_delattr(self: Any, name: str) -> None:
    """__delattr__ of one that is frozen."""
    _no(self, name, "delete")
    object.__delattr__(self, name)


def state(self: Any) -> list[Any]:
    """__getstate__ of one that is frozen."""
    return [getattr(self, name) for name in self.__slots__]


def take_state(self: Any, values: list[Any]) -> None:
    """__setstate__ of one that is frozen."""
    for name, value in zip(self.__slots__, values, strict=True):
        object.__setattr__(self, name, value)


class _Nothing(IntEnum):
    """What classes of numbers have in common."""


class _Nameless(Enum):
    """What other enumerations have in common."""


def numbers(name: str, module: str, rows: tuple[tuple[str, int], ...]) -> Any:
    """An IntEnum of constants. Python's own way to make one takes five times as long; the build
    looks whether this comes to the same here (backend/trim.py)."""
    return _enumeration(name, module, rows, _Nothing, IntEnum, int.__new__)


def names(name: str, module: str, rows: tuple[tuple[str, str], ...]) -> Any:
    """An Enum of texts, in the same way."""
    return _enumeration(name, module, rows, _Nameless, Enum, lambda made, _: object.__new__(made))


def _enumeration(
    name: str, module: str, rows: Iterable[tuple[str, Any]], like: Any, base: Any,
    new: Callable[[Any, Any], Any],
) -> Any:
    common = {**vars(like), "__module__": module, "__qualname__": name, "__doc__": None,
              "_unhashable_values_": []}
    names: list[str] = []
    by_name: dict[str, Any] = {}
    by_value: dict[Any, Any] = {}
    common |= {"_member_names_": names, "_member_map_": by_name, "_value2member_map_": by_value}
    made = type.__new__(type(like), name, (base,), common)
    for key, value in rows:
        one: Any = by_value.get(value)
        if one is None:
            one = by_value[value] = new(made, value)
            one._name_, one._value_, one.__objclass__ = key, value, made
            one._sort_order_ = len(names)
            names.append(key)
        by_name[key] = one
        type.__setattr__(made, key, one)
    return made


def make(cls: Any, values: Iterable[Any]) -> Any:
    """_make of a NamedTuple."""
    made = tuple.__new__(cls, values)
    if len(made) != len(cls._fields):
        raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(made)}")
    return made


def changed(self: Any, /, **words: Any) -> Any:
    """_replace of a NamedTuple."""
    made = self._make(map(words.pop, self._fields, self))
    if words:
        raise ValueError(f"Got unexpected field names: {list(words)!r}")
    return made


def row(self: Any) -> str:
    """__repr__ of a NamedTuple."""
    inner = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
    return f"{type(self).__name__}({inner})"


def as_dict(self: Any) -> dict[str, Any]:
    """_asdict of a NamedTuple."""
    return dict(zip(self._fields, self, strict=True))


def arguments(self: Any) -> tuple[Any, ...]:
    """__getnewargs__ of a NamedTuple."""
    return tuple(self)


def item(index: int) -> Any:
    """A field of a NamedTuple."""
    return _tuplegetter(index, None)
