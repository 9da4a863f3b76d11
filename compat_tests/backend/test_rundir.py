"""The run directory: made with care, counters shared, the dead reaped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from libbpf_shim.backend import rundir
from libbpf_shim.errors import ShimError


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return rundir.open_run_dir()


def test_it_is_the_users_alone(run: Path) -> None:
    assert run.stat().st_mode & 0o777 == 0o700
    assert rundir.open_run_dir() == run


def test_one_that_others_may_enter_is_refused(run: Path) -> None:
    run.chmod(0o755)
    with pytest.raises(ShimError) as caught:
        rundir.open_run_dir()
    assert caught.value.errno == 1


def test_a_symlink_in_its_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "libbpf_shim").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(ShimError):
        rundir.open_run_dir()


def test_ids_ascend_over_sessions(run: Path) -> None:
    one, two = rundir.Counters(run), rundir.Counters(run)
    assert [one.next("map"), two.next("map"), one.next("map")] == [1, 2, 3]
    assert one.next("btf") == 2  # 1 is vmlinux
    one.close()
    two.close()


def test_a_live_session_stays_and_a_dead_one_goes(run: Path) -> None:
    alive = rundir.SessionDir(run, 1, 8)
    child = os.fork()
    if not child:
        rundir.SessionDir(run, 2, 8)
        os._exit(0)
    os.waitpid(child, 0)
    assert (run / "sessions" / "2").exists()
    assert rundir.reap(run) == [2]
    assert sorted(p.name for p in (run / "sessions").iterdir()) == ["1"]
    assert (alive.path / "cpu_possible").read_text() == "0-7\n"
    alive.remove()
    assert not alive.path.exists()


def test_mailboxes_of_dead_processes_go(run: Path) -> None:
    (run / "agents" / "999999999").touch()
    (run / "agents" / str(os.getpid())).touch()
    rundir.reap(run)
    assert [p.name for p in (run / "agents").iterdir()] == [str(os.getpid())]
