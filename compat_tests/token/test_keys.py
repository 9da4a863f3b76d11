"""Key files and lists of revocations: whose they must be, and what is refused."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from libbpf_shim.errors import ShimError
from libbpf_shim.token import keys

NAME = bytes(range(16))


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    keys.make(path)
    return path


def test_a_key_is_32_random_bytes_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keys.make(tmp_path / "one")
    finally:
        os.umask(before)
    keys.make(tmp_path / "two")
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o600
    assert len(keys.read(tmp_path / "one")) == 32
    assert keys.read(tmp_path / "one") != keys.read(tmp_path / "two")


def test_a_key_is_never_overwritten(key: Path) -> None:
    before = keys.read(key)
    with pytest.raises(ShimError) as refused:
        keys.make(key)
    assert refused.value.errno == errno.EEXIST and keys.read(key) == before


def _link(path: Path) -> None:
    path.rename(path.with_name("real"))
    path.symlink_to("real")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(("change", "code"), [
    (lambda path: path.chmod(0o640), errno.EPERM), (lambda path: path.chmod(0o602), errno.EPERM),
    (_link, errno.ELOOP), (_pipe, errno.EPERM), (lambda path: path.unlink(), errno.ENOENT),
    (lambda path: path.write_bytes(bytes(31)), errno.EINVAL),
    (lambda path: path.write_bytes(bytes(33)), errno.EINVAL),
], ids=["group", "others", "link", "pipe", "gone", "short", "long"])
def test_what_is_no_private_key_is_refused(
    key: Path, change: Callable[[Path], None], code: int
) -> None:
    change(key)
    with pytest.raises(ShimError) as refused:
        keys.read(key)
    assert refused.value.errno == code


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a file of another user")
def test_a_key_of_another_user_is_refused(key: Path) -> None:
    os.chown(key, 61207, 61207)
    with pytest.raises(ShimError, match="not a file of this user"):
        keys.read(key)


def test_revocations_are_seen_when_they_are_made(key: Path) -> None:
    revoked = keys.Revoked(key)
    assert NAME not in revoked.now()
    assert keys.revoke(key, NAME) and not keys.revoke(key, NAME)
    assert keys.revoke(key, NAME[::-1])
    assert revoked.now() == {NAME, NAME[::-1]}
    assert stat.S_IMODE(keys.list_of(key).stat().st_mode) == 0o600


@pytest.mark.parametrize("change", [
    lambda path: path.unlink(), lambda path: path.chmod(0o666),
    lambda path: path.write_text("not a name\n"), _link, _pipe,
], ids=["gone", "others", "garbage", "link", "pipe"])
def test_a_list_that_cannot_be_believed_revokes_everything(
    key: Path, change: Callable[[Path], None]
) -> None:
    keys.revoke(key, NAME)
    revoked = keys.Revoked(key)
    revoked.now()
    change(keys.list_of(key))
    with pytest.raises(ShimError):
        revoked.now()


def test_only_who_has_the_key_revokes(key: Path) -> None:
    key.chmod(0o644)
    with pytest.raises(ShimError):
        keys.revoke(key, NAME)
    assert not keys.list_of(key).exists()
