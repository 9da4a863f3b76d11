"""An application, a session, and what is isolated in it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.attach.host import Host
from compat_tests.isolation import world
from compat_tests.isolation.world import Application
from compat_tests.victims import build


@pytest.fixture(scope="module")
def application() -> Iterator[Application]:
    # socket paths are short: not pytest's tmp_path
    folder = build.private_copy({"guarded": world.application()})
    with tempfile.TemporaryDirectory(prefix="is") as runtime_dir:
        host = Host(Path(runtime_dir), 1)
        made = Application(host, folder / "guarded", Path(runtime_dir))
        try:
            yield made
            made.end()
        finally:
            made.kill()
            host.end()
            host.close()
            made.close()
    shutil.rmtree(folder)


@pytest.fixture
def app(application: Application) -> Application:
    """With nothing in its array."""
    application.clear()
    return application
