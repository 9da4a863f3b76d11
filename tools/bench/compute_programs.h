/*
 * Programs that compute: one source for BPF and for the machine itself. Each reads and writes the
 * arrays below and returns what it found, so that all sides can be compared. A file that includes
 * this defines PROGRAM(name), CPU() and PID_TGID().
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

enum { WORDS = 64, BYTES = 512, NODES = 256, OPS = 128 };

struct node {
	u32 key, next;
	u64 value;
};

u32 words[WORDS];
u64 longs[WORDS];
u8 bytes[BYTES] __attribute__((aligned(8))), other[BYTES] __attribute__((aligned(8)));
u32 heads[WORDS];
struct node nodes[NODES];
u32 table[256];
u32 matrix[3][64];

/* Run once, before the others. */
PROGRAM(fill)
{
	u64 x = 0x9e3779b97f4a7c15ull;

	for (u32 i = 0; i < 256; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		words[i % WORDS] = (u32)x;
		longs[i % WORDS] = x >> (i % 48);
		bytes[i] = other[i] = (u8)(x >> 8) | 1;
		bytes[i + 256] = other[i + 256] = (u8)(x >> 16) | 1;
		table[i] = (u32)(x >> 24);
		matrix[i / 64 % 2][i % 64] = (u32)x & 0xffff;
		nodes[i].key = i * 7;
		nodes[i].value = x;
		nodes[i].next = heads[i * 7 % WORDS];
		heads[i * 7 % WORDS] = i;
	}
	other[120] = 0;
	return 0;
}

static inline __attribute__((always_inline)) u32 log2_of(u32 v)
{
	u32 r = (v > 0xffff) << 4, s;

	v >>= r;
	s = (v > 0xff) << 3;
	v >>= s;
	r |= s;
	s = (v > 0xf) << 2;
	v >>= s;
	r |= s;
	s = (v > 0x3) << 1;
	v >>= s;
	return r | s | v >> 1;
}

PROGRAM(log2)
{
	u32 sum = 0;

	for (u32 i = 0; i < WORDS; i++) {
		u64 v = longs[i];
		u32 high = (u32)(v >> 32);

		sum += high ? log2_of(high) + 32 : log2_of((u32)v);
	}
	return (int)sum;
}

/* How many of some numbers below 1024 are prime, by trial division. */
PROGRAM(prime)
{
	u32 found = 0;

	for (u32 i = 0; i < 32; i++) {
		u32 n = (words[i] & 1023) | 1, d;

		for (d = 3; d < 32; d += 2)
			if (d * d > n || n % d == 0)
				break;
		found += d * d > n;
	}
	return (int)found;
}

PROGRAM(memcpy)
{
	for (u32 n = 0; n < 8; n++)
		for (u32 i = 0; i < BYTES; i += 64)
			__builtin_memcpy(&bytes[i], &other[i], 64);
	return bytes[120] + bytes[121];
}

PROGRAM(strncmp)
{
	int result = 0;

	for (u32 n = 0; n < 4; n++) {
		u32 i;

		for (i = 0; i < 128; i++)
			if (bytes[256 + i] != other[256 + i] || !bytes[256 + i])
				break;
		result += i < 128 ? bytes[256 + i] - other[256 + i] : (int)i;
	}
	return result;
}

PROGRAM(fnv)
{
	u64 h = 0xcbf29ce484222325ull;

	for (u32 i = 0; i < 256; i++) {
		h ^= other[i];
		h *= 0x100000001b3ull;
	}
	return (int)(h ^ h >> 32);
}

static inline __attribute__((always_inline)) u32 rotate(u32 x, u32 n)
{
	return x << n | x >> (32 - n);
}

/* Arithmetic of 32 and 64 bits, with rotations, as hash functions have it. */
PROGRAM(alu)
{
	u32 a = 0xdeadbeef, b = a, c = a;
	u64 sum = 0;

	for (u32 i = 0; i < WORDS; i++) {
		a += words[i];
		b += (u32)longs[i];
		c += (u32)(longs[i] >> 32);
		a = (a - c) ^ rotate(c, 4);
		c += b;
		b = (b - a) ^ rotate(a, 6);
		a += c;
		c = (c - b) ^ rotate(b, 8);
		b += a;
		sum = (sum ^ ((u64)a << 32 | b)) * 5 + c;
	}
	return (int)(sum ^ sum >> 32 ^ c);
}

/* An interpreter of eight operations. */
PROGRAM(switch_)
{
	u32 acc = 1;

	for (u32 i = 0; i < OPS; i++) {
		u32 x = other[i];

		switch (x >> 3 & 7) {
		case 0: acc += x; break;
		case 1: acc ^= x << 4; break;
		case 2: acc = acc << 3 | acc >> 29; break;
		case 3: acc -= x * 3; break;
		case 4: acc = ~acc; break;
		case 5: acc *= 17; break;
		case 6: acc &= 0xffffff; break;
		default: acc >>= 1; break;
		}
	}
	return (int)acc;
}

static __attribute__((noinline)) u32 mix(u32 a, u32 b)
{
	a ^= b;
	a *= 0x85ebca6b;
	return a ^ a >> 13;
}

static __attribute__((noinline)) u32 twice(u32 a, u32 b)
{
	u32 first = mix(a, b);

	return mix(first, b + 1) + a;
}

PROGRAM(calls)
{
	u32 h = 1;

	for (u32 i = 0; i < WORDS; i++)
		h = twice(h, words[i]);
	return (int)h;
}

/* Helpers whose answer is at hand; the machine's side calls functions of another file. What they
 * answer differs, so it is not in the result. */
PROGRAM(helpers)
{
	u64 before = PID_TGID(), changes = CPU() >> 31;

	for (u32 i = 0; i < WORDS; i++) {
		changes += PID_TGID() != before;
		changes += CPU() >> 20;
	}
	return (int)changes;
}

PROGRAM(hashwalk)
{
	u64 sum = 0;

	for (u32 i = 0; i < WORDS; i++) {
		u32 key = words[i] % 1024 * 7, at = heads[key % WORDS];

		for (u32 n = 0; n < 8; n++) {
			struct node *e = &nodes[at % NODES];

			if (e->key == key) {
				sum += e->value;
				break;
			}
			at = e->next;
		}
	}
	return (int)(sum ^ sum >> 32);
}

/* Decimal digits: division by a constant. */
PROGRAM(decimal)
{
	u32 sum = 0;

	for (u32 i = 0; i < WORDS; i++) {
		u32 v = words[i];
		u64 w = longs[i];

		for (u32 n = 0; n < 10 && v; n++) {
			sum += v % 10 * (n + 1);
			v /= 10;
		}
		sum += (u32)(w % 1000 + w / 1000 % 1000);
	}
	return (int)sum;
}

/* The Internet checksum (RFC 1071). */
PROGRAM(checksum)
{
	u32 sum = 0;

	for (u32 i = 0; i < BYTES; i += 2)
		sum += (u32)other[i] | (u32)other[i + 1] << 8;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (int)(u16)~sum;
}

/* A table at each byte, as CRC-32 is computed. */
PROGRAM(crc)
{
	u32 crc = ~0u;

	for (u32 i = 0; i < 256; i++)
		crc = table[(crc ^ other[i]) & 0xff] ^ crc >> 8;
	return (int)~crc;
}

PROGRAM(matmul)
{
	u32 sum = 0;

	for (u32 i = 0; i < 8; i++)
		for (u32 j = 0; j < 8; j++) {
			u32 cell = 0;

			for (u32 k = 0; k < 8; k++)
				cell += matrix[0][i * 8 + k] * matrix[1][k * 8 + j];
			matrix[2][i * 8 + j] = cell;
			sum ^= cell;
		}
	return (int)sum;
}

/* Greatest and smallest, and how often the direction changes: choices that nobody foresees. */
PROGRAM(choose)
{
	u32 least = ~0u, most = 0, turns = 0, last = 0;

	for (u32 n = 0; n < 4; n++)
		for (u32 i = 0; i < WORDS; i++) {
			u32 v = words[i] ^ n;

			if (v < least)
				least = v;
			if (v > most)
				most = v;
			turns += (v < last) ? 3 : 1;
			last = v;
		}
	return (int)(least + most + turns);
}
