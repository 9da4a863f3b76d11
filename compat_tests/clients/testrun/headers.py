"""Helpers that change an skb's headers, and what it says of its socket and devices."""

import itertools
import socket
import struct
from typing import Any

from compat_tests.clients.testrun.bpf import (
    CGROUP_SKB,
    CLS,
    EXIT,
    IPV4,
    LWT_IN,
    LWT_XMIT,
    OUT,
    SOCKET,
    XDP,
    call,
    create,
    insn,
    load,
    run,
    say,
    skb,
)

ADDRESSES = bytes(range(0, 12, 2)) + bytes(range(1, 12, 2))
IPV6 = ADDRESSES + b"\x86\xdd" + bytes.fromhex("6020000000201140") + bytes(range(72))
ARP = ADDRESSES + b"\x08\x06" + bytes(range(40))
TAGGED = IPV4[:12] + bytes.fromhex("81002123") + IPV4[12:]
TWICE = IPV4[:12] + bytes.fromhex("88a84fff81000005") + IPV4[12:]
THRICE = IPV6[:12] + bytes.fromhex("88a8400188a8400281004003") + IPV6[12:]
LENGTH = ADDRESSES + bytes.fromhex("810000070030ffff") + bytes(40)
LLC = ADDRESSES + bytes.fromhex("8100000700304242") + bytes(40)
SHORT = ADDRESSES + bytes.fromhex("81000007")
PACKETS = {
    "ipv4": IPV4, "ipv6": IPV6, "arp": ARP, "tagged": TAGGED, "twice": TWICE, "thrice": THRICE,
    "length": LENGTH, "llc": LLC, "short": SHORT,
}  # fmt: skip
QINQ = 0xA888  # 802.1ad in network order
Steps = tuple[tuple[int, ...], ...]  # calls: the helper's number, and arguments behind ctx
VLAN_PUSH, VLAN_POP, CHANGE_PROTO, ADJUST_ROOM = 18, 19, 31, 50


def calls_of(steps: Steps) -> bytes:
    """The calls one after another with ctx and constants; R7 = all of their results' low bytes."""
    code = insn(0xBF, 6, 1) + insn(0xB7, 7, 0, 0, 0)
    for number, *args in steps:
        code += insn(0xBF, 1, 6)
        for regno, value in enumerate(args, 2):
            code += insn(0x18, regno, 0, 0, value & 0xFFFFFFFF) + insn(0, 0, 0, 0, value >> 32)
        code += call(number) + insn(0x67, 7, 0, 0, 11) + insn(0xAF, 7, 0)
    return code


# of struct __sk_buff: pkt_type, protocol, vlan_present, vlan_tci, vlan_proto, len, hash, gso
FIELDS = (0, 4, 16, 20, 24, 28, 68, 164, 176)


def after(steps: Steps) -> bytes:
    """... and a sum of what the context says then, and where its network header begins."""
    code = calls_of(steps)
    for off in FIELDS:
        code += insn(0x61, 0, 6, off) + insn(0x27, 7, 0, 0, 31) + insn(0x0F, 7, 0)
    code += insn(0xBF, 1, 6) + insn(0xB7, 2, 0, 0, 0) + insn(0xBF, 3, 10)
    code += insn(0x07, 3, 0, 0, -8) + insn(0xB7, 4, 0, 0, 8) + insn(0xB7, 5, 0, 0, 1) + call(68)
    return code + insn(0x79, 0, 10, -8) + insn(0xBF, 1, 0) + insn(0x77, 1, 0, 0, 32) + insn(
        0xAF, 0, 1) + insn(0xAF, 0, 7) + EXIT


def compare(steps: Steps, kind: int = CLS, **fields: int) -> None:
    fd = load(kind, after(steps))
    for name, packet in PACKETS.items():
        say(f"type {kind}, {steps}, {name} {fields}", run(fd, packet, OUT, skb(**fields), 192))


def vlan() -> None:
    """bpf_skb_vlan_push and bpf_skb_vlan_pop, in any order."""
    pushes = ((VLAN_PUSH, 0x81, 0x1234), (VLAN_PUSH, QINQ, 0xFFFF), (VLAN_PUSH, 0, 1 << 16 | 5))
    pop = (VLAN_POP,)
    for count in (1, 2, 3):
        for steps in itertools.product((*pushes[:2], pop), repeat=count):
            compare(steps)
    compare(pushes)
    compare((pushes[0], pop, pop, pop, pop, pop))
    # what is too short for a tag, and a header before the packet's
    compare(((38, 14, 0), pop, pushes[0], pushes[1]))
    compare(((38, 17, 0), pop))
    compare(((43, 8, 0), pushes[0], pushes[1]))
    fd = load(CLS, after((*pushes[:2],)))
    say("repeated", run(fd, IPV4, OUT, repeat=5))


def protocols() -> None:
    """bpf_skb_change_proto and bpf_skb_adjust_room."""
    steps: Steps
    to6, to4 = (CHANGE_PROTO, 0xDD86, 0), (CHANGE_PROTO, 8, 0)
    for steps in ((to6,), (to4,), (to6, to4), (to4, to6), (to6, to6), ((CHANGE_PROTO, 8, 1),),
                  ((CHANGE_PROTO, 0x608, 0),), ((VLAN_POP,), to6), ((VLAN_PUSH, 0x81, 7), to6),
                  ((38, 30, 0), to4), ((43, 8, 0), to6), ((43, 8, 0), to4), ((48, 7), to6)):
        compare(steps)
    compare((to6,), gso_size=100, gso_segs=3)
    compare((to4,), gso_size=100, gso_segs=3)
    l2 = 14 << 56
    for flags in (0, 1, 2, 4, 6, 8, 10, 18, 20, 26, 32, 64, 66, 66 | l2, 68 | l2, 2 | 40 << 56,
                  l2, 128, 256, 384, 128 | 2, 512, 1 << 55):
        for mode, diff in itertools.product((0, 1), (-20, -4, 0, 8, 40)):
            compare(((ADJUST_ROOM, diff & 0xFFFFFFFF, mode, flags),))
    for mode, diff in ((2, 8), (0, 0xFFF), (0, 0x1000), (1, -0x1000), (0, -0x7FFFFFFF), (1, -40),
                       (1, -60), (0, -46), (0, -26), (0, -27), (1, -80)):
        compare(((ADJUST_ROOM, diff & 0xFFFFFFFF, mode, 0),))
    room = (ADJUST_ROOM, 40, 1, 4)
    for steps in ((room, room), (room, to4), (room, (ADJUST_ROOM, -40 & 0xFFFFFFFF, 1, 128)),
                  ((ADJUST_ROOM, 0xFFF, 1, 0),) * 4, ((ADJUST_ROOM, 20, 1, 2), to6),
                  ((VLAN_POP,), room), ((43, 8, 0), room)):
        compare(steps)
    # how short it may become: not shorter than to a transport header, which encapsulation tells
    for flags, size in ((2, 100), (2, 13), (10, 33), (10, 34), (12, 53), (12, 54), (18, 33)):
        compare(((ADJUST_ROOM, 40, 1, flags), (38, size, 0)))
    for head, size in itertools.product((64, 65, 82, 96, 129), (13, 16, 17, 29, 100)):
        compare(((43, head, 0), (38, size, 0)))
        compare((to4, (ADJUST_ROOM, head, 0, 0), (38, size, 0)))
    compare(((38, 18, 0), (43, 20, 0), (ADJUST_ROOM, 9, 0, 0)))  # moves what is behind its end
    compare((room,), gso_size=100)
    compare(((ADJUST_ROOM, -4 & 0xFFFFFFFF, 0, 0),), gso_size=100)
    compare(((ADJUST_ROOM, -4 & 0xFFFFFFFF, 0, 2),), gso_size=100)
    compare(((ADJUST_ROOM, 0xFFF, 1, 0),) * 3 + ((ADJUST_ROOM, 0xFFF, 1, 6),), gso_size=0)


def marks() -> None:
    """bpf_csum_level, bpf_skb_ecn_set_ce, bpf_skb_set_tstamp."""
    steps: Steps
    level = [(135, n) for n in range(4)]
    query, more, less, reset = level
    room = (ADJUST_ROOM, 4, 0, 0)
    for steps in ((query,), (more, query), (less, query), (more, more, query), (more, less, query),
                  (more, more, less, query), (more, more, reset, query), (more,) * 4 + (query,),
                  (more,) * 6 + (query,), (more, room, query), (more, room[:3] + (32,), query),
                  ((135, 4),), ((135, 1 << 32),)):
        compare(steps)
    for tos in range(8):
        for kind in (CLS, CGROUP_SKB):
            fd = load(kind, call(97) + insn(0x57, 0, 0, 0, 1) + EXIT)
            for name, packet in PACKETS.items():
                for sum_ in (0, 0x0102, 0xFFFF, 0xFB04):
                    one = bytearray(packet)
                    if len(one) > 40:
                        one[15] = tos << 4 if name == "ipv6" else tos
                        one[19] ^= tos << 4 if name == "tagged" else 0
                        one[24:26] = struct.pack("<H", sum_)
                    say(f"type {kind}, ce {name} {tos} {sum_:#x}", run(fd, bytes(one)))
    for steps in (((VLAN_POP,), (97,)), ((VLAN_PUSH, 0x81, 4), (97,)), ((38, 30, 0), (97,)),
                  ((VLAN_PUSH, 0x81, 0x11),) * 7 + ((97,),),
                  ((VLAN_PUSH, 0x81, 0x11),) * 8 + ((97,),),
                  ((VLAN_PUSH, 0x81, 4), (VLAN_PUSH, 0x81, 4), (97,)), ((43, 8, 0), (97,))):
        compare(steps)
    for stamp, kind in itertools.product((0, 5, 1 << 63), (0, 1, 2, 3, 1 << 31)):
        code = after(((192, stamp, kind),))
        code = code[:-8] + insn(0x71, 1, 6, 180) + insn(0x27, 0, 0, 0, 5) + insn(0x0F, 0, 1) + EXIT
        fd = load(CLS, code)
        for name in ("ipv4", "ipv6", "arp", "tagged"):
            say(f"tstamp {stamp} {kind} {name}", run(fd, PACKETS[name], OUT, skb(tstamp=9), 192))


def encap() -> None:
    """bpf_lwt_push_encap of an IP header."""
    for kind, what, size, first, sum_, gso in itertools.product(
            (LWT_IN, LWT_XMIT), (0, 2, 3), (16, 20, 24, 40, 60, 256, 257),
            (0x45, 0x46, 0x4F, 0x42, 0x60, 0x50), (0, 0x1234), (0, 5)):
        if (what != 2 or gso or sum_) and (size not in (24, 40) or first not in (0x45, 0x60)):
            continue
        code = insn(0xBF, 6, 1) + b"".join(
            insn(0x7A, 10, 0, -8 * n, 0x11223344 * n) for n in range(1, 34))
        code += insn(0x72, 10, 0, -264, first) + insn(0x6A, 10, 0, -254, sum_)
        code += insn(0xB7, 2, 0, 0, what) + insn(0xBF, 3, 10) + insn(0x07, 3, 0, 0, -264)
        code += insn(0xB7, 4, 0, 0, size) + call(73) + insn(0xBF, 7, 0) + insn(0x61, 0, 6, 16)
        fd = load(kind, code + insn(0x61, 1, 6, 0) + insn(0x27, 1, 0, 0, 1 << 16)
                  + insn(0x0F, 0, 1) + insn(0x0F, 0, 7) + EXIT)
        for name in ("ipv4", "ipv6", "arp") if fd >= 0 else ():
            say(f"type {kind}, encap {what} {size} {first:#x} {sum_} {name} {gso}",
                run(fd, PACKETS[name], OUT, skb(gso_size=gso), 192))


def every(name: str, code: bytes) -> None:
    """In each type that may say it; R0 goes to cb[0] and cb[1], R1 is ctx."""
    told = insn(0xBF, 9, 1) + code + insn(0x7B, 9, 0, 48) + insn(0xB7, 0, 0, 0, 1) + EXIT
    for kind in (SOCKET, CLS, CGROUP_SKB, LWT_XMIT):
        fd = load(kind, told)
        for packet in ("ipv4", "ipv6", "arp") if fd >= 0 else ():
            say(f"type {kind}, {name}, {packet}", run(fd, PACKETS[packet], None, bytes(192), 192))


def filled(number: int, *args: Any) -> bytes:
    """A call with ctx, constants, and 'buf', 64 bytes of stack; R0 + a sum of them."""
    code = insn(0xBF, 6, 1) + b"".join(
        insn(0x7A, 10, 0, -8 * n, 0x1122 * n) for n in range(1, 9)) + insn(0xBF, 1, 6)
    for regno, value in enumerate(args, 2):
        if value == "buf":
            code += insn(0xBF, regno, 10) + insn(0x07, regno, 0, 0, -64)
        else:
            code += insn(0xB7, regno, 0, 0, value)
    code += call(number)
    for n in range(1, 9):
        code += insn(0x79, 1, 10, -8 * n) + insn(0x27, 0, 0, 0, 7) + insn(0x0F, 0, 1)
    return code


# R1 = its socket; ends with 0 where there is none
SK = insn(0x79, 1, 1, 168) + insn(0x55, 1, 0, 2, 0) + insn(0xB7, 0, 0, 0, 0) + EXIT


def sockets() -> None:
    """sk of struct __sk_buff, and what helpers say of it."""
    every("sk is there", SK + insn(0xB7, 0, 0, 0, 77))
    full = SK + call(95) + insn(0x55, 0, 0, 2, 0) + insn(0xB7, 0, 0, 0, 0) + EXIT
    for off in range(0, 80, 4):
        size = 0x69 if off == 48 else 0x61
        # the kernel's -1 of rx_queue_mapping has 64 bits
        every(f"sk of {off}", full + insn(size, 0, 0, off) + insn(0xBC, 0, 0))
    for off in (4, 24, 44, 72):
        every(f"sk_common of {off}", SK + insn(0x61, 0, 1, off))
    for number in (96, 98, 136, 137, 138, 139, 140, 128):
        every(f"helper {number} of sk", SK + call(number) + insn(0x15, 0, 0, 1, 0)
              + insn(0xB7, 0, 0, 0, 1))
    for number in (96, 98, 128):
        every(f"helper {number} of a full sk", full + insn(0xBF, 1, 0) + call(number)
              + insn(0x15, 0, 0, 1, 0) + insn(0xB7, 0, 0, 0, 1))
    every("sk_ancestor_cgroup_id", full + insn(0xBF, 1, 0) + insn(0xB7, 2, 0, 0, 0) + call(129))
    every("ids that differ", full + insn(0xBF, 1, 0) + call(128) + insn(0xBF, 7, 0) + call(80)
          + insn(0xAF, 0, 7))
    for number in (79, 83):
        for level in (0, 1, 5, -1):
            every(f"helper {number} {level}", insn(0xB7, 2, 0, 0, level) + call(number))
    for number in (17, 24, 47, 122, 151):
        every(f"helper {number}", call(number))
    every("netns_cookie of nothing", insn(0xB7, 1, 0, 0, 0) + call(122))
    every("a cookie that stays", call(46) + insn(0xBF, 7, 0) + insn(0xBF, 1, 9) + call(46)
          + insn(0x1F, 7, 0) + insn(0x55, 7, 0, 1, 0) + insn(0x15, 0, 0, 1, 0)
          + insn(0xB7, 0, 0, 0, 1))
    fd = create(8, 4, 4, 1)  # BPF_MAP_TYPE_CGROUP_ARRAY
    for index in (0, 1):
        every(f"under cgroup {index}", insn(0x18, 2, 1, 0, fd) + insn(0)
              + insn(0xB7, 3, 0, 0, index) + call(33))
    for flags, size in itertools.product((0, 1, 1 << 4, 7), (4, 8, 20, 28, 44, 64)):
        every(f"tunnel_key {size} {flags}", filled(20, "buf", size, flags))
        every(f"xfrm_state {size} {flags}", filled(66, 0, "buf", size, flags))
        every(f"tunnel_opt {size}", filled(29, "buf", size))


def tunnel() -> None:
    """Data for a tunnel that a program sets and reads."""
    # struct bpf_tunnel_key: id, remote[4], tos, ttl, ext, label, local[4]
    plain = struct.pack("<5IBBHI4I", 77, *range(1, 5), 8, 64, 0, 0, *range(11, 15))
    label = plain[:24] + struct.pack("<I", 0xFFF12345) + plain[28:]
    other = plain[:22] + b"\1\0" + plain[24:]
    sizes, flags = (4, 8, 22, 24, 28, 44, 48), (0, 1, 2, 4, 8, 16, 7, 31, 32)
    cases = [(key, size, flag, 44, flag & 1) for key, size, flag in itertools.product(
        (plain, label, other), sizes, flags)]
    cases += [(key, 44, flag, size, get) for key, flag, size, get in itertools.product(
        (plain, label), (0, 1, 6, 15, 25), sizes, (0, 1, 16, 17, 2))]
    for key, size, flag, got, get in cases:
        tell(f"{key[20:28].hex()} {size} {flag} {got} {get}", key, ((21, size, flag),),
             (20, got, get))
    keys = (21, 44, 0)
    for size, got in itertools.product((0, 1, 4, 8, 48), (1, 4, 6, 8, 48)):
        tell(f"options {size} {got}", plain, (keys, (30, size)), (29, got))
        tell(f"options {size} {got} told", plain, (keys, (30, size)), (20, 44, 16))
        tell(f"options {size} {got}, no key", plain, ((30, size),), (29, got))
        tell(f"options {size} {got}, a key after", plain, ((30, size), keys), (29, got))
        tell(f"options {size} {got}, a key again", plain, (keys, (30, size), keys), (29, got))
    tell("options twice", plain, (keys, (30, 8), (30, 4)), (29, 48))
    tell("options none after", plain, (keys, (30, 8), (30, 0)), (29, 48))
    tell("another protocol", plain, (keys, (CHANGE_PROTO, 0xDD86, 0)), (20, 44, 0))
    tell("a route's realm", plain, (keys,), (24,))


def tell(name: str, data: bytes, steps: Steps, last: tuple[int, ...]) -> None:
    """Calls with data (but change_proto), and one that fills a buffer of nines; all of that."""
    code = insn(0xBF, 9, 1) + insn(0xB7, 7, 0, 0, 0)
    for at in range(0, 48, 4):
        code += insn(0x62, 10, 0, at - 48, int.from_bytes(data[at : at + 4], "little"))
        code += insn(0x62, 10, 0, at - 96, 0x09090909)
    for number, *args in (*steps, last):
        code += insn(0xBF, 1, 9)
        if number not in (CHANGE_PROTO, 24):
            code += insn(0xBF, 2, 10) + insn(0x07, 2, 0, 0, -96 if number == last[0] else -48)
        for regno, value in enumerate(args, 2 if number == CHANGE_PROTO else 3):
            code += insn(0xB7, regno, 0, 0, value)
        code += call(number) + insn(0x67, 7, 0, 0, 12) + insn(0x0F, 7, 0)
    code += insn(0x7B, 9, 7, 48)
    for at in range(0, 48, 8):
        code += insn(0x79, 1, 10, at - 96) + insn(0x27, 8, 0, 0, 1000003) + insn(0xAF, 8, 1)
    code = code[:8] + insn(0xB7, 8, 0, 0, 1) + code[8:]
    code += insn(0x7B, 9, 8, 56) + insn(0xB7, 0, 0, 0, 1) + EXIT
    for kind in (CLS, LWT_XMIT):
        fd = load(kind, code)
        if fd >= 0:
            say(f"type {kind}, {name}", run(fd, IPV4, OUT, bytes(192), 192))


def devices() -> None:
    """bpf_check_mtu, bpf_redirect_neigh, bpf_redirect_peer."""
    for flags in (0, 1):
        for number, args in ((155, (1, flags)), (152, (1, 0, 0, flags)), (155, (99999, flags))):
            code = b"".join(insn(0xB7, n, 0, 0, value) for n, value in enumerate(args, 1))
            every(f"helper {number} {args}", code + call(number))
    for size in (4, 19, 20, 24):
        code = insn(0x7A, 10, 0, -8) + insn(0x7A, 10, 0, -16) + insn(0x7A, 10, 0, -24)
        code += insn(0xB7, 1, 0, 0, 1) + insn(0xBF, 2, 10) + insn(0x07, 2, 0, 0, -24)
        every(f"redirect_neigh {size}", code + insn(0xB7, 3, 0, 0, size)
              + insn(0xB7, 4, 0, 0, 0) + call(152))
    for index, told, diff, flags in itertools.product(
            (0, 1, 99999, -1), (0, 1, 65536, 65537, -20), (0, 1, -1, 65536 - 60, 65536, -70000),
            (0, 1, 2, 3)):
        for kind in (CLS, XDP):
            fd = load(kind, check_mtu(index, told, diff, flags))
            for gso in (0, 5) if kind == CLS and fd >= 0 else (None,):
                say(f"type {kind}, mtu {index} {told} {diff} {flags} {gso}",
                    run(fd, IPV4, None, None if gso is None else skb(gso_size=gso)))
    for (index, name), told, flags in itertools.product(
            socket.if_nameindex(), (0, 1400, 1401, 1500, 1501, 3000), (0, 1)):
        for of, device in ((index, 0), (0, index)):
            fd = load(CLS, check_mtu(of, told, 0, flags))
            for size, gso in itertools.product((60, 1414, 1415, 1514, 1515, 3000), (0, 100)):
                say(f"mtu {name} {of} {told} {flags} {size} {gso}",
                    run(fd, IPV4.ljust(size), None, skb(gso_size=gso, ifindex=device)))
            fd = load(XDP, check_mtu(of, told, 0, flags))
            for size in (60, 1414, 1415, 1514, 1515, 3000):
                say(f"XDP mtu {name} {of} {told} {flags} {size}", run(
                    fd, IPV4.ljust(size), None, struct.pack("<6I", 0, size, 0, device, 0, 0)))


def check_mtu(index: int, told: int, diff: int, flags: int) -> bytes:
    """What it returns, and what it tells."""
    return (insn(0x62, 10, 0, -4, told) + insn(0xB7, 2, 0, 0, index) + insn(0xBF, 3, 10)
            + insn(0x07, 3, 0, 0, -4) + insn(0xB7, 4, 0, 0, diff) + insn(0xB7, 5, 0, 0, flags)
            + call(163) + insn(0x61, 1, 10, -4) + insn(0x27, 0, 0, 0, 1 << 20) + insn(0x0F, 0, 1)
            + EXIT)
