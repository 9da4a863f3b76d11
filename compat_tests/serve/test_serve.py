"""bpf-shim serve: loaders of other users extend an application as its manager's policy says."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from compat_tests.serve.world import ALICE, BOB, World

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="three users: needs root")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def test_programs_of_two_users_run_under_their_classes_and_leave(world: World) -> None:
    alice, bob = world.begin(ALICE, "watch_uri"), world.begin(BOB, "mark_status")
    for loader in (alice, bob):
        assert loader.stdout and loader.stdout.readline() == "ready\n", loader.communicate()
    assert world.application.handle(7) == 403
    assert bob.communicate("", 60)[0] == "0 0\n"
    assert alice.communicate("", 60)[0] == "100 700\n"
    admitted = [(row["uid"], row["op"], row["what"], row["class"]) for row in world.log()
                if row["verdict"] == "admitted" and row["op"] in ("load", "attach")]
    assert (ALICE, "load", "watch_uri", "watch") in admitted
    assert (BOB, "load", "mark_status", "mark") in admitted
    places = [row for row in admitted if row[1] == "attach"]
    assert len(places) == 2 and all(f"{world.folder}/app+0x" in row[2] for row in places)


def test_a_loader_without_a_grant_attaches_to_nothing(world: World) -> None:
    done = world.loader(ALICE, "stranger")
    assert done.status == 1 and "EPERM" in done.err, done
    last = world.log()[-1]
    assert (last["verdict"], last["uid"], last["op"]) == ("refused", ALICE, "attach"), last
    assert len(last["tag"]) == 16 and "bound to no class" in last["missing"], last
    assert world.application.handle() == 200
