"""Mistakes put into the verifier are noticed by its tests (mutations.py): a few in the suite, one
of each class that is quick, all of them with --long.
"""

from __future__ import annotations

import pytest

from compat_tests.verifier import mutations
from compat_tests.verifier.mutations import MUTATIONS, Mutation

SAMPLE = ("an immediate is not sign extended", "every scalar covers every other",
          "one byte behind a map value", "half an address is one",
          "references may be left at the exit")  # fmt: skip
NAMES = [m.name for m in MUTATIONS]


def noticed(mutation: Mutation) -> None:
    assert mutations.tried(mutation, [mutation.by]), f"{mutation.by} does not notice it"


def test_every_mutation_finds_its_place() -> None:
    for m in MUTATIONS:
        text = (mutations.ROOT / "libbpf_shim" / "verifier" / f"{m.file}.py").read_text()
        assert text.count(m.old) == 1, f"{m.name}: {m.file}.py has changed, give it the new text"


def test_there_are_mutations_of_every_class() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 30
    assert {m.kind for m in MUTATIONS} >= set("abcdeg")


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_is_noticed(name: str) -> None:
    noticed(MUTATIONS[NAMES.index(name)])


def test_nothing_is_noticed_where_there_is_no_mistake() -> None:
    same = Mutation("none", "a", "scalar/bounds", "SIGN64: Final", "SIGN64: Final", "")
    assert not mutations.tried(same, [mutations.CLASSES, mutations.LOCKS, mutations.CALLBACKS])


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=NAMES)
def test_every_mutation_is_noticed(mutation: Mutation) -> None:
    noticed(mutation)
