"""Stock programs at work: each does the same round again and again, and says what came of it.

A round is asked for by a line on stdin, and answered by one on stdout; of a server, by its
clients.
Nothing here executes another program: what forks stays in the same image.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from compat_tests.victims import build

HERE = Path(__file__).resolve().parent
LIB = "/lib/x86_64-linux-gnu"
LIMIT = 60.0  # seconds of one round


@dataclass
class Workload:
    """argv, and the files whose functions are probed. answer: what a round came to; by stdin if
    there is none."""

    argv: list[str]
    files: list[str]
    answer: Callable[[], str] | None = None
    cwd: str = "/"
    process: subprocess.Popen[str] | None = None
    ready: Callable[[], bool] = lambda: True
    clients: Executor = field(default_factory=lambda: ThreadPoolExecutor(1))
    under_way: Future[str] | None = None

    def start(self, env: dict[str, str]) -> int:
        """Its pid."""
        quiet = subprocess.DEVNULL if self.answer else subprocess.PIPE
        self.process = subprocess.Popen(
            self.argv, stdin=subprocess.PIPE, stdout=quiet, stderr=subprocess.DEVNULL, text=True,
            bufsize=1, cwd=self.cwd, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", **env})
        return self.process.pid

    def wait_ready(self) -> None:
        end = time.monotonic() + LIMIT
        while not self.ready():
            assert self.process and self.process.poll() is None, f"{self.argv[0]} ended"
            assert time.monotonic() < end, f"{self.argv[0]} is not ready"
            time.sleep(0.05)

    def ask(self) -> None:
        """Begins a round."""
        assert self.process and self.process.stdin
        if self.answer:
            self.under_way = self.clients.submit(self.answer)
        else:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def told(self) -> str:
        """Ends it."""
        assert self.process
        if self.under_way:
            answer, self.under_way = self.under_way.result(LIMIT), None
            return answer
        assert self.process.stdout
        line = self.process.stdout.readline().strip()
        assert line, f"{self.argv[0]} ended: {self.process.wait(5)}"
        return line

    def stop(self) -> int:
        """Its exit status; servers are told by SIGTERM."""
        assert self.process and self.process.stdin
        self.process.stdin.close()
        if self.answer:
            self.process.terminate()
        status = self.process.wait(LIMIT)
        if self.process.stdout:
            self.process.stdout.close()
        return status

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _run(*argv: str, text: str = "") -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, timeout=LIMIT,
                          errors="backslashreplace")  # fmt: skip
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def bash(scratch: Path) -> Workload:
    return Workload(["/bin/bash", str(HERE / "round.sh")], ["/bin/bash", f"{LIB}/libc.so.6"])


def python(scratch: Path) -> Workload:
    cert, key = scratch / "cert.pem", scratch / "key.pem"
    _run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out",
         str(cert), "-subj", "/CN=localhost", "-days", "9")  # fmt: skip
    return Workload(
        ["/usr/bin/python3.11", "-I", str(HERE / "round.py"), str(cert), str(key)],
        ["/usr/bin/python3.11", f"{LIB}/libssl.so.3", f"{LIB}/libcrypto.so.3"])


def cpp(scratch: Path) -> Workload:
    program = build.make("streams", [HERE / "streams.cpp"], ["-O1", "-pthread"], compiler="g++")
    return Workload([str(program)], [f"{LIB}/libstdc++.so.6", f"{LIB}/libc.so.6"])


def redis(scratch: Path) -> Workload:
    port = _free_port()
    script = "".join(f"{line}\n" for line in (
        "flushall", "set a 1", "incrby a 41", "rpush l 3 1 2", "sort l", "lrange l 0 -1",
        "zadd z 1 x 2 y", "zrangebyscore z 0 9 withscores", "hset h f v g w", "hgetall h",
        "sadd s 1 2 3", "sdiff s l2", "setrange a 3 xyz", "get a",
        "eval 'return redis.call(\"get\",\"a\")' 0",
        "pfadd p 1 2 3", "pfcount p", "bitcount a", "geoadd g 13.3 38.1 q", "geohash g q",
        "xadd st 1-1 k v", "xrange st - +", "object encoding l", "expire a 100", "dump a",
        "debug digest", "dbsize"))

    def answer() -> str:
        load = _run("redis-benchmark", "-p", str(port), "-n", "600", "-c", "8", "-q", "-t",
                    "set,get,lpush,lrange_100,sadd,zadd,mset,hset")  # fmt: skip
        assert "rror" not in load and load.count("requests per second") >= 8, load
        return _run("redis-cli", "-p", str(port), text=script)

    return Workload(
        ["/usr/bin/redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "",
         "--enable-debug-command", "local"],
        ["/usr/bin/redis-server"], answer, str(scratch), ready=lambda: _listens(port))  # fmt: skip


NGINX = """
daemon off; master_process off; worker_processes 1; pid {0}/pid; error_log /dev/null;
events {{ worker_connections 128; }}
http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p;
fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;
gzip on; gzip_min_length 1; gzip_types text/plain;
server {{ listen 127.0.0.1:{1}; root {0}; location /r {{ return 302 /data; }}
location ~ ^/x(.*)$ {{ rewrite ^/x(.*)$ /$1 break; add_header X-Way $uri; }} autoindex on; }} }}
"""


def nginx(scratch: Path) -> Workload:
    port = _free_port()
    (scratch / "conf").write_text(NGINX.format(scratch, port))
    (scratch / "data").write_text("".join(f"line {i}\n" for i in range(500)))

    def answer() -> str:
        url = f"http://127.0.0.1:{port}"
        load = _run("wrk", "-t1", "-c4", "-d1s", f"{url}/data")
        assert "Socket errors" not in load and "Non-2xx" not in load, load
        return "".join(_run("curl", "-s", "-i", *more, f"{url}/{what}").partition("Date:")[2][31:]
                       for what, *more in (("data",), ("xdata", "--compressed"), ("r",), ("none",),
                                           ("data", "-r", "5-20"), ("", "-I")))  # fmt: skip

    return Workload(
        ["/usr/sbin/nginx", "-p", str(scratch), "-c", str(scratch / "conf"), "-e", "/dev/null"],
        ["/usr/sbin/nginx"], answer, ready=lambda: _listens(port))



def postgres(scratch: Path) -> Workload:
    """Single-user mode: no server, SQL on stdin. Not as root."""
    home = max(Path("/usr/lib/postgresql").glob("*/bin"))
    _run(str(home / "initdb"), "-D", str(scratch / "db"), "-A", "trust", "-N", "-E", "UTF8",
         "--locale=C")  # fmt: skip
    program = str(home / "postgres")
    return _Postgres([program, "--single", "-F", "-D", str(scratch / "db"), "-c",
                      "shared_buffers=8MB", "-j", "postgres"], [program])  # fmt: skip


class _Postgres(Workload):
    """Rows are printed one by one; a marker ends a round."""

    def ask(self) -> None:
        assert self.process and self.process.stdin
        text = (HERE / "round.sql").read_text().partition("\n")[2]
        for statement in (*text.strip().split(";\n"), "select 'round ' || 'over'"):
            self.process.stdin.write(f"{statement.rstrip(';')};\n\n")
        self.process.stdin.flush()

    def told(self) -> str:
        assert self.process and self.process.stdout
        rows = []
        while True:
            line = self.process.stdout.readline()
            assert line, f"postgres ended: {self.process.wait(5)}"
            rows.append(line.strip().removeprefix("backend> "))
            if 'round over"' in line:
                return "\n".join(rows)


ALL: dict[str, Callable[[Path], Workload]] = {
    "bash": bash, "python": python, "cpp": cpp, "redis": redis, "nginx": nginx,
    "postgres": postgres,
}  # fmt: skip
NEEDS = {"redis": "redis-server", "nginx": "nginx", "python": "python3.11"}


def missing(name: str) -> str:
    """What is not installed; "": nothing."""
    import shutil

    if name == "postgres":
        return "" if list(Path("/usr/lib/postgresql").glob("*/bin/postgres")) else "postgresql"
    needed = NEEDS.get(name, "bash")
    path = "/usr/bin:/bin:/usr/sbin:" + os.environ.get("PATH", "")
    return "" if shutil.which(needed, path=path) else needed
