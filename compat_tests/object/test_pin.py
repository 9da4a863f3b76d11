"""Pins: names that keep objects alive, as bpffs does."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from libbpf_shim.errors import ShimError
from libbpf_shim.object.pin import BPFFS, Pins
from libbpf_shim.object.store import Object, Store


class Thing(Object):
    """An object without a file: alive while something refers to it."""

    kind = 1


class Tree:
    """Pins below a folder, and one object that only pins hold."""

    def __init__(self, root: Path) -> None:
        self.store = Store()
        self.thing = Thing(1, None)
        self.store.add(self.thing)
        self.root = root
        self.pins = Pins(root, self.store)

    def errno(self, path: str, get: bool = False) -> int:
        try:
            if get:
                assert self.pins.get(path, True, True) is self.thing
            else:
                self.pins.pin(self.thing, path)
        except ShimError as error:
            return error.errno
        return 0

    @property
    def alive(self) -> bool:
        self.pins.look()
        return 1 in self.store.by_id[1]


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    (tmp_path / "bpffs").mkdir(mode=0o700)
    tree = Tree(tmp_path / "bpffs")
    yield tree
    tree.pins.close()


# name below bpffs, pin once and again, get afterwards: errnos as Linux 6.18 has them
NAMES = [
    ("m", 0, errno.EEXIST, 0),
    ("folder/m", 0, errno.EEXIST, 0),
    ("nothing/m", errno.ENOENT, errno.ENOENT, errno.ENOENT),
    ("m/", errno.ENOENT, errno.ENOENT, errno.ENOENT),
    ("folder", errno.EEXIST, errno.EEXIST, errno.EACCES),
    ("m.2", errno.EPERM, errno.EPERM, errno.EPERM),
    ("folder/.hidden", errno.EPERM, errno.EPERM, errno.EPERM),
    ("nothing/m.2", errno.ENOENT, errno.ENOENT, errno.ENOENT),
    ("", errno.EEXIST, errno.EEXIST, errno.EACCES),
]


@pytest.mark.parametrize(("name", "first", "second", "got"), NAMES)
def test_a_name_is_taken_once_and_found_again(
    tree: Tree, name: str, first: int, second: int, got: int
) -> None:
    (tree.root / "folder").mkdir()
    path = f"{BPFFS}/{name}".rstrip("/") if not name else f"{BPFFS}/{name}"
    assert [tree.errno(path), tree.errno(path), tree.errno(path, get=True)] == [first, second, got]


def test_outside_of_the_tree_is_no_place_for_pins(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert tree.errno(f"{tmp_path}/m") == errno.EPERM
    assert tree.errno(f"{tmp_path}/nothing/m") == errno.ENOENT
    assert tree.errno(f"{tmp_path}/file") == errno.EEXIST
    assert tree.errno(f"{tmp_path}/file", get=True) == errno.EACCES
    assert tree.errno(f"{BPFFS}/../m") == errno.EPERM


def test_the_last_name_that_goes_ends_the_pin(tree: Tree) -> None:
    assert tree.errno(f"{BPFFS}/m") == 0
    assert tree.errno(f"{BPFFS}/other") == 0
    os.link(tree.root / "m", tree.root / "hard")
    (tree.root / "m").unlink()
    assert tree.alive and tree.errno(f"{BPFFS}/hard", get=True) == 0
    (tree.root / "other").unlink()
    assert tree.alive and len(tree.pins) == 1
    (tree.root / "hard").unlink()
    assert not tree.alive and len(tree.pins) == 0


def test_a_pin_moves_with_its_name(tree: Tree) -> None:
    (tree.root / "folder").mkdir()
    assert tree.errno(f"{BPFFS}/m") == 0
    (tree.root / "m").rename(tree.root / "folder" / "n")
    assert tree.errno(f"{BPFFS}/m", get=True) == errno.ENOENT
    assert tree.errno(f"{BPFFS}/folder/n", get=True) == 0
    shutil.rmtree(tree.root / "folder")
    assert not tree.alive


def test_a_removed_name_may_be_taken_before_its_pin_has_ended(tree: Tree) -> None:
    assert tree.errno(f"{BPFFS}/m") == 0
    (tree.root / "m").unlink()
    assert tree.errno(f"{BPFFS}/m") == 0
    assert tree.alive and len(tree.pins) == 1


def test_links_are_followed_inside_the_tree_alone(tree: Tree, tmp_path: Path) -> None:
    (tree.root / "folder").mkdir()
    (tree.root / "in").symlink_to("folder")
    (tree.root / "view").symlink_to(f"{BPFFS}/folder")
    (tree.root / "out").symlink_to(tmp_path)
    (tree.root / "round").symlink_to("round")
    (tree.root / "name").symlink_to(f"{BPFFS}/folder/m")
    assert tree.errno(f"{BPFFS}/in/m") == 0
    assert tree.errno(f"{BPFFS}/view/m", get=True) == 0
    assert tree.errno(f"{BPFFS}/name", get=True) == 0
    assert tree.errno(f"{BPFFS}/name") == errno.EEXIST
    assert tree.errno(f"{BPFFS}/out/m") == errno.EPERM
    assert not (tmp_path / "m").exists()
    assert tree.errno(f"{BPFFS}/round", get=True) == errno.ELOOP


def test_permissions_of_the_file_are_the_objects(tree: Tree) -> None:
    if not os.geteuid():
        pytest.skip("root may read all files")
    assert tree.errno(f"{BPFFS}/m") == 0
    (tree.root / "m").chmod(0o400)
    assert tree.errno(f"{BPFFS}/m", get=True) == errno.EACCES
    assert tree.pins.get(f"{BPFFS}/m", True, False) is tree.thing


def test_the_end_of_a_session_removes_its_pins_and_leaves_what_others_made(tree: Tree) -> None:
    (tree.root / "folder").mkdir()
    assert tree.errno(f"{BPFFS}/folder/m") == 0
    assert tree.errno(f"{BPFFS}/n") == 0
    (tree.root / "folder" / "m").rename(tree.root / "folder" / "moved")
    (tree.root / "foreign").touch()
    tree.pins.close()
    assert not tree.alive
    assert sorted(p.name for p in tree.root.rglob("*")) == ["folder", "foreign"]
