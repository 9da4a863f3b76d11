"""A run directory and a session in it; victims that end with the test."""

from compat_tests.attach.conftest import host, runtime_dir

__all__ = ["host", "runtime_dir"]
