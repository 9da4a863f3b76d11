# ruff: noqa
# mypy: ignore-errors
"""Work of one round for each line on stdin; see workloads.py."""
import sys, json, re, hashlib, decimal, zlib, ssl, collections, itertools, functools, heapq, struct
import datetime, fractions, io, pickle, random, textwrap, threading, time
CERT, KEY = sys.argv[1:3]
def tls():
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); ctx.load_cert_chain(CERT, KEY)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); own.check_hostname = False
    own.load_verify_locations(CERT)
    a, b, c, d = (ssl.MemoryBIO() for _ in range(4))
    left, right = own.wrap_bio(a, b), ctx.wrap_bio(c, d, server_side=True)
    def both(*steps):
        todo = list(steps)
        for _ in range(50):
            for step in list(todo):
                try: step(); todo.remove(step)
                except ssl.SSLWantReadError: pass
            c.write(b.read()); a.write(d.read())
            if not todo: return
        raise SystemExit("no handshake")
    both(left.do_handshake, right.do_handshake)
    left.write(b"question" * 400); c.write(b.read())
    got = right.read(4096); right.write(got[::-1]); a.write(d.read())
    return left.version(), hashlib.sha256(left.read(4096)).hexdigest()
class Odd(Exception): pass
def deep(n):
    if n == 0: raise Odd("end")
    try: return deep(n - 1)
    finally: deep.seen += 1
def work():
    out = hashlib.blake2b()
    def add(*what): out.update(repr(what).encode())
    r = random.Random(7); rows = [{"k": r.random(), "n": i, "t": f"row {i}"} for i in range(150)]
    text = json.dumps(rows); add(json.loads(text)[3], len(text), zlib.crc32(zlib.compress(text.encode())))
    add(re.findall(r"row (\d*[05])\b", text)[:9], re.sub(r"(\w)(\d)", r"\2\1", text)[:90])
    add(sorted(rows, key=lambda x: x["k"])[:3], heapq.nsmallest(3, (x["k"] for x in rows)))
    decimal.getcontext().prec = 60; add(decimal.Decimal(2).sqrt(), fractions.Fraction(355, 113) ** 5)
    add(collections.Counter(text).most_common(5), functools.reduce(lambda a, b: a * b % 1000007, range(1, 400)))
    add(struct.pack("<dIq", 1.5, 7, -9), pickle.loads(pickle.dumps(rows))[9], textwrap.fill(text, 60)[:99])
    add(datetime.date(2024, 2, 29) + datetime.timedelta(days=366), list(itertools.permutations("abc"))[4])
    deep.seen = 0
    try: deep(40)
    except Odd as e: add(str(e), deep.seen)
    box = []; t = [threading.Thread(target=lambda i=i: box.append(sum(range(i * 500)))) for i in range(4)]
    [x.start() for x in t]; [x.join() for x in t]; add(sorted(box)); add(2 ** 3000 % 99991, "%.17g" % 0.1)
    add([hashlib.new(n, b"x" * 999).hexdigest() for n in ("md5", "sha1", "sha3_256", "sha512", "blake2s")])
    f = io.StringIO(); print(*range(50), sep="|", file=f); add(f.getvalue().translate({124: 45}))
    add(tls()); return out.hexdigest()
for _ in sys.stdin: print(work(), flush=True)
