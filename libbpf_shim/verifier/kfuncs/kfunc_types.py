"""Prototypes of kernel functions as values: kinds of arguments and results. Ready for mypyc."""

from __future__ import annotations

from typing import Final, final

# Kinds of arguments.
IGNORED: Final = 1
PROG: Final = 2
NUMBER: Final = 3
CONSTANT: Final = 4
CTX_ARG: Final = 5
ALLOC_ARG: Final = 6
REFCOUNTED: Final = 7
DYNPTR_ARG: Final = 8
ITER_ARG: Final = 9
LIST_HEAD_ARG: Final = 10
LIST_NODE_ARG: Final = 11
RB_ROOT_ARG: Final = 12
RB_NODE_ARG: Final = 13
STRING: Final = 14
MAP_ARG: Final = 15
WORKQUEUE_ARG: Final = 16
TASK_WORK_ARG: Final = 17
IRQ_FLAG: Final = 18
RES_LOCK: Final = 19
OTHER: Final = 20
UNKNOWN_ARG: Final = 21  # neither a number nor a pointer

# Results.
NOTHING: Final = 0
INTEGER: Final = 1
POINTER: Final = 2

_KIND_WORDS: Final = (
    "UNKNOWN", "INT", "PTR", "ARRAY", "STRUCT", "UNION", "ENUM", "FWD", "TYPEDEF", "VOLATILE",
    "CONST", "RESTRICT", "FUNC", "FUNC_PROTO", "VAR", "DATASEC", "FLOAT", "DECL_TAG", "TYPE_TAG",
    "ENUM64",
)


@final
class Param:
    """One argument. target: the type behind the pointer (0: void), its kind, name and size in
    bytes (-1: it has none). plain: it is a number, or a structure of numbers. nullable, uninit:
    the name's end says so. sized: the next argument is its size; constant_size: a constant."""

    __slots__ = ("name", "kind", "target", "target_kind", "target_name", "size", "plain",
                 "nullable", "uninit", "sized", "constant_size", "function")

    def __init__(self, name: str, kind: int) -> None:
        self.name: str = name
        self.kind: int = kind
        self.target: int = 0
        self.target_kind: int = 0
        self.target_name: str = ""
        self.size: int = -1
        self.plain: bool = False
        self.nullable: bool = name.endswith("__nullable")
        self.uninit: bool = name.endswith("__uninit")
        self.sized: bool = False
        self.constant_size: bool = False
        self.function: bool = False

    def target_words(self) -> str:
        """The pointed to type, as messages have it."""
        return f"{_KIND_WORDS[self.target_kind]} {self.target_name}"


@final
class Kfunc:
    """A kernel function that the program names. result: NOTHING, INTEGER or POINTER; target,
    target_kind, target_name, size: as a Param's, of what the result points to (INTEGER: size)."""

    __slots__ = ("id", "name", "flags", "allowed", "params", "result", "target", "target_kind",
                 "target_name", "size")

    def __init__(self, id: int, name: str) -> None:
        self.id: int = id
        self.name: str = name
        self.flags: int = 0
        self.allowed: bool = False
        self.params: list[Param] = []
        self.result: int = NOTHING
        self.target: int = 0
        self.target_kind: int = 0
        self.target_name: str = ""
        self.size: int = 0


def kind_words(kind: int) -> str:
    """A BTF kind as messages have it."""
    return _KIND_WORDS[kind]
