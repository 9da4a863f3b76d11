"""A workload as actor.c, for tools that watch libssl: a handshake and a few records in memory.

Argument: a PEM file with a key and its certificate.
"""

import os
import ssl
import sys


def settle(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def play(pem: str) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(down, up)
    there = server.wrap_bio(up, down, server_side=True)
    done = [False, False]
    while not all(done):
        done = [done[0] or settle(here), done[1] or settle(there)]
    here.write(b"hello")
    there.read(5)


print(f"pid {os.getpid()}", flush=True)
for _ in sys.stdin:
    play(sys.argv[1])
    print("did 0", flush=True)
