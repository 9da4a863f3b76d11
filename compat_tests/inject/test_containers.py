"""In a container nobody reads seccomp filters, but its init's are known to be everybody's."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

import pytest

from compat_tests.guard import launch
from compat_tests.inject.test_refusals import GIVE, fenced

# A container's init: argv is the product, fenced, the filters of target and keeper, GIVE.
INIT = """
import subprocess, sys
product, fenced, own, keepers, give = sys.argv[1:]
target = subprocess.Popen([fenced, own], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
assert target.stdout.readline() == b"ready\\n"
subprocess.run([fenced, keepers, sys.executable, "-I", "-c", give, product, str(target.pid),
                "/tmp"], check=True, timeout=60)
target.stdin.write(b"x")
target.stdin.close()
assert target.stdout.read() == b"0 1\\n"
target.wait()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="makes namespaces")
@pytest.mark.parametrize("uid", [0, launch.UID], ids=["root", "user"])
@pytest.mark.parametrize(("own", "keepers", "refused"), [
    ("none", "none", ""),
    ("none", "kill-bpf", ""),
    ("docker", "none", "cannot be read without CAP_SYS_ADMIN"),
    ("docker", "docker", "cannot be read without CAP_SYS_ADMIN"),
], ids=["alike", "keeper's own", "target's own", "both have their own"])  # fmt: skip
def test_who_is_under_the_filter_of_init_alone_is_given_an_agent(
    uid: int, own: str, keepers: str, refused: str
) -> None:
    """With no_new_privs, as Kubernetes has it, and without capabilities."""
    unshare, setpriv = shutil.which("unshare"), shutil.which("setpriv")
    assert unshare and setpriv
    python = str(launch.product() / ".venv" / "bin" / "python")
    done = subprocess.run(
        [unshare, "--pid", "--fork", "--kill-child", "--mount-proc",
         setpriv, f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--inh-caps=-all",
         "--bounding-set=-all", fenced(), "docker",
         python, "-I", "-c", INIT, str(launch.product()), fenced(), own, keepers,
         GIVE],
        capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.strip()
    if refused:
        assert said.startswith(f"{errno.EACCES} ") and refused in said
    else:
        assert said == "0"
