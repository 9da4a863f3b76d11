"""Attaches and detaches probes of a server that is under load; run as an unprivileged user.

    served.py SERVER OBJECT LIBRARY SECONDS SEED

SERVER: nginx, with wrk; redis, with redis-benchmark and a client that looks at the answers.
Prints one JSON object: what went wrong, and how much was done.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from libbpf_shim import Link, Object, ShimError
from libbpf_shim.elf.module import STT_FUNC, Module

PROBES, LEAST = 200, 20
LIBC = ("malloc", "free", "calloc", "realloc", "read", "write", "writev", "recv", "send",
        "epoll_wait", "close", "gettimeofday", "localtime_r", "snprintf", "memchr", "time")
HOT = {
    "nginx": ("ngx_http_process_request", "ngx_http_parse_request_line", "ngx_http_handler",
              "ngx_http_core_run_phases", "ngx_http_finalize_request", "ngx_http_write_filter",
              "ngx_palloc", "ngx_pnalloc", "ngx_create_pool", "ngx_destroy_pool",
              "ngx_event_process_posted", "ngx_http_parse_header_line", "ngx_linux_sendfile_chain",
              "ngx_http_send_header", "ngx_http_output_filter", "ngx_http_close_connection"),
    "redis": ("processCommand", "call", "lookupKey", "dictFind", "dictSdsHash", "sdsnewlen",
              "sdsfree", "zmalloc", "zfree", "addReply", "addReplyBulk", "readQueryFromClient",
              "processInputBuffer", "aeProcessEvents", "writeToClient", "setGenericCommand",
              "createObject", "decrRefCount", "lpushCommand", "dictAdd"),
}
LIMIT = 30.0  # seconds for anything a server is to do


class Load:
    """A load program that goes on until it is told to end."""

    def __init__(self, argv: list[str]) -> None:
        self.argv, self.out, self.status, self.rounds = argv, "", 0, 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.go)
        self.thread.start()

    def go(self) -> None:
        while not self.stopping.is_set() and not self.status:
            done = subprocess.run(self.argv, capture_output=True, text=True)
            self.status = self.status or done.returncode
            self.out += done.stdout + done.stderr
            self.rounds += 1

    def end(self) -> str:
        self.stopping.set()
        self.thread.join()
        return self.out


class Asking:
    """A client of redis that knows what it put there."""

    def __init__(self, port: int) -> None:
        self.wrong: list[str] = []
        self.asked, self.port = 0, port
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.go)
        self.thread.start()

    def go(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), LIMIT) as sock:
            stream = sock.makefile("rwb")
            while not self.stopping.is_set():
                value = b"%d" % (self.asked * 7919)
                key = b"asking:%d" % (self.asked % 100)
                stream.write(b"SET %s %s\r\nGET %s\r\nINCR n\r\n" % (key, value, key))
                stream.flush()
                answers = [stream.readline().strip() for _ in range(4)]
                self.asked += 1
                want = [b"+OK", b"$%d" % len(value), value, b":%d" % self.asked]
                if answers != want and len(self.wrong) < 5:
                    self.wrong.append(f"{answers} instead of {want}")
                time.sleep(0.001)  # not the load, but a witness

    def end(self) -> list[str]:
        self.stopping.set()
        self.thread.join()
        return self.wrong


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def serving(port: int) -> None:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError("the server does not answer")


def nginx(folder: Path, port: int) -> list[str]:
    (folder / "index.html").write_text("torture\n" * 50)
    (folder / "conf").write_text(f"""
daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log {folder}/access.log; default_type text/plain; keepalive_requests 100;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; root {folder}; }}
}}
""")
    return ["/usr/sbin/nginx", "-c", str(folder / "conf"), "-e", str(folder / "error.log")]


def redis(folder: Path, port: int) -> list[str]:
    return ["/usr/bin/redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir",
            str(folder), "--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]


def family(pid: int) -> list[int]:
    """The process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


@contextlib.contextmanager
def server(kind: str, folder: Path, port: int, library: str) -> Iterator[int]:
    argv = nginx(folder, port) if kind == "nginx" else redis(folder, port)
    with (folder / "out").open("w") as out:
        process = subprocess.Popen(argv, env={**os.environ, "LD_PRELOAD": library}, stdout=out,
                                   stderr=out)
    try:
        serving(port)
        yield process.pid
        assert process.poll() is None, f"{kind} ended with {process.returncode}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT) == 0, f"{kind} ended with {process.returncode}"
    finally:
        if process.poll() is None:
            for pid in family(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.wait()


def probes(kind: str, pid: int, rng: random.Random) -> list[tuple[str, str, bool]]:
    path = os.readlink(f"/proc/{pid}/exe")
    names = sorted({s.name for s in Module(path).symbols if s.type == STT_FUNC and s.size > 16})
    with open(f"/proc/{pid}/maps") as maps:
        libc = next(line.split()[5] for line in maps if "/libc.so" in line)
    hot = [(path, name, ret) for name in HOT[kind] if name in names for ret in (False, True)]
    hot += [(libc, name, ret) for name in LIBC for ret in (False, True)]
    others = [(path, name, ret) for name in names for ret in (False, True)]
    return hot + rng.sample(others, min(PROBES - len(hot), len(others)))


def churn(loaded: Object, places: list[tuple[str, str, bool]], rng: random.Random,
          seconds: float) -> tuple[int, dict[str, str]]:
    """Attaches and detaches for so long, and longer on a slow machine; how often, and what was
    refused."""
    links: dict[int, Link] = {}
    refused: dict[str, str] = {}
    done, end = 0, time.monotonic() + seconds
    while (now := time.monotonic()) < end or (done < LEAST and now < end + LIMIT):
        n = rng.randrange(len(places))
        if n in links:
            links.pop(n).close()
        else:
            path, name, ret = places[n]
            program = loaded.programs["churn"]
            try:
                links[n] = program.attach_uprobe(path, name, ret=ret, cookie=n)
            except ShimError as error:
                refused[name] = error.message
        done += 1
    for link in links.values():
        link.close()
    return done, refused


def failures(kind: str, out: str, status: int) -> list[str]:
    """Of a load's output."""
    wrong = [f"the load ended with {status}"] if status else []
    wrong += re.findall(r"Socket errors: .*|Non-2xx or 3xx responses: .*", out)
    wrong += [line for line in out.splitlines() if kind == "redis" and
              re.search(r"error|refused|reset|ERR", line, re.IGNORECASE)]
    return wrong[:10]


def torture(argv: list[str]) -> dict[str, object]:
    kind, source, library, seconds, seed = argv
    rng, port = random.Random(int(seed)), free_port()
    driver = runpy.run_path(str(Path(__file__).with_name("driver.py")))
    folder = Path(tempfile.mkdtemp(prefix="served-", dir="/tmp"))
    load = ["wrk", "-t1", "-c16", "-d2", f"http://127.0.0.1:{port}/"] if kind == "nginx" else [
        "redis-benchmark", "-p", str(port), "-c", "16", "-n", "20000", "-q", "-t",
        "ping,set,get,incr,lpush,rpop,sadd,hset,zadd,mset"]
    wrong: list[str] = []
    try:
        with server(kind, folder, port, library) as pid, Object.open(source) as loaded:
            loaded.load()
            before = family(pid)
            loading = Load(load)
            asking = Asking(port) if kind == "redis" else None
            changes, refused = churn(loaded, probes(kind, pid, rng), rng, float(seconds))
            wrong += failures(kind, loading.end(), loading.status)
            wrong += asking.end() if asking else []
            hits = sum(loaded.maps["churned"].values())
            if family(pid) != before:
                wrong.append(f"processes {family(pid)}, not {before}")
            wrong += [f"process {each}: {where}" for each in before for where in
                      driver["still_altered"](each)]
        log = folder / "error.log"
        wrong += re.findall(r".*(?:alert|signal).*", log.read_text())[:5] if log.exists() else []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"wrong": wrong, "changes": changes, "hits": hits, "refused": refused,
            "rounds": loading.rounds, "asked": asking.asked if asking else 0}


if __name__ == "__main__":
    print(json.dumps(torture(sys.argv[1:])))
