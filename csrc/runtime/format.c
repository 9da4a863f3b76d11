/*
 * printf as programs have it. Addresses that conversions follow are the process's. A plain %p is
 * the number, where the kernel shows a hash of it; %ps and its kin have no symbols to show.
 * Source: kernel/bpf/helpers.c, bpf_bprintf_prepare(); lib/vsprintf.c.
 */
#include "format.h"

enum { LEFT = 1, PLUS = 2, SPACE = 4, ZERO = 8, STRING = 1023, PART = 64 };

struct sink {
	char *out;
	u64 room, n;
};

/* One conversion. letter: d u x X c s; p: then kind is what follows, \0: none. */
struct conversion {
	u32 flags, width;
	u32 wide; /* 64 bits */
	char letter, kind, family; /* %pi4: 'i', '4' */
};

static void put(struct sink *s, char c)
{
	if (s->n + 1 < s->room)
		s->out[s->n] = c;
	s->n++;
}

static void pad(struct sink *s, u64 have, u32 width, char c)
{
	for (; have < width; have++)
		put(s, c);
}

static void text(struct sink *s, const struct conversion *c, const char *from, u64 len)
{
	if (!(c->flags & LEFT))
		pad(s, len, c->width, ' ');
	for (u64 i = 0; i < len; i++)
		put(s, from[i]);
	if (c->flags & LEFT)
		pad(s, len, c->width, ' ');
}

static void number(struct sink *s, const struct conversion *c, u64 value, u32 base, char sign)
{
	const char *digit = c->letter == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
	char buf[24];
	u32 n = 0, len;

	do {
		buf[n++] = digit[value % base];
		value /= base;
	} while (value);
	len = n + !!sign;
	if (!(c->flags & (LEFT | ZERO)))
		pad(s, len, c->width, ' ');
	if (sign)
		put(s, sign);
	if (c->flags & ZERO && !(c->flags & LEFT))
		pad(s, len, c->width, '0');
	while (n)
		put(s, buf[--n]);
	if (c->flags & LEFT)
		pad(s, len, c->width, ' ');
}

static void hex(struct sink *s, u64 value, u32 width)
{
	struct conversion c = { .flags = ZERO, .width = width };

	number(s, &c, value, 16, 0);
}

/* Bytes of an address of the internet: %pi4 has leading zeroes, %pi6 no colons. */
static void internet(struct sink *s, const struct conversion *c, u64 address)
{
	struct conversion part = { .flags = ZERO, .width = c->kind == 'i' ? 3 : 0 };
	u8 b[16] = { 0 };
	u32 len = c->family == '4' ? 4 : 16;

	if (shim_copy_from(b, address, len))
		memset(b, 0, len);
	for (u32 i = 0; i < len; i++) {
		if (c->family == '4') {
			if (i)
				put(s, '.');
			number(s, &part, b[i], 10, 0);
			continue;
		}
		if (i && i % 2 == 0 && c->kind == 'I')
			put(s, ':');
		hex(s, b[i], 2);
	}
}

/* Its length, at most STRING; what is readable of it. put: into s, too. A piece at a time: stacks are
 * small where this runs. */
static u64 characters(struct sink *s, u64 address, bool write)
{
	char part[PART];
	u64 len = 0;

	while (len < STRING) {
		long n = shim_strncpy_from(part, address + len, sizeof(part));

		if (n <= 0)
			return len;
		for (long i = 0; i < n; i++, len++) {
			if (!part[i])
				return len;
			if (write)
				put(s, part[i]);
		}
	}
	return len;
}

static void string(struct sink *s, const struct conversion *c, u64 address)
{
	u64 len;

	if (c->width && !(c->flags & LEFT))
		pad(s, characters(s, address, false), c->width, ' ');
	len = characters(s, address, true);
	if (c->flags & LEFT)
		pad(s, len, c->width, ' ');
}

static void pointer(struct sink *s, const struct conversion *c, u64 value)
{
	struct conversion plain = *c;

	switch (c->kind) {
	case 'i':
	case 'I': internet(s, c, value); return;
	case 's':
	case 'S':
	case 'B':
		put(s, '0');
		put(s, 'x');
		hex(s, value, 0);
		return;
	default: break;
	}
	if (!c->width) {
		plain.width = 16;
		plain.flags |= ZERO;
	}
	number(s, &plain, value, 16, 0);
}

static void convert(struct sink *s, const struct conversion *c, u64 value)
{
	char sign = 0, byte = (char)value;

	if (!c->wide && c->letter != 's' && c->letter != 'p')
		value = c->letter == 'd' ? (u64)(s64)(s32)value : (u32)value;
	switch (c->letter) {
	case 'p': pointer(s, c, value); return;
	case 's': string(s, c, value); return;
	case 'c': text(s, c, &byte, 1); return;
	case 'd':
		if ((s64)value < 0) {
			sign = '-';
			value = -value;
		} else {
			sign = c->flags & PLUS ? '+' : c->flags & SPACE ? ' ' : 0;
		}
		break;
	default: break;
	}
	number(s, c, value, c->letter == 'x' || c->letter == 'X' ? 16 : 10, sign);
}

static bool digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* What may follow %s and %p: the end, a space, punctuation. */
static bool ends(char c)
{
	u32 letter = (u32)((c | 32) - 'a');

	return !c || space(c) || (c > ' ' && c < 127 && !digit(c) && letter > 25);
}

/* Behind %p at f: behind the letters that belong to it, or NULL. */
static const char *pointer_kind(const char *f, struct conversion *c)
{
	if (ends(*f))
		return f;
	if ((*f == 'k' || *f == 'u') && f[1] == 's') {
		c->letter = 's';
		return ends(f[2]) ? f + 2 : 0;
	}
	c->kind = *f;
	if (*f == 'K' || *f == 'x' || *f == 's' || *f == 'S' || *f == 'B')
		return f + 1;
	c->family = f[1];
	return (*f == 'i' || *f == 'I') && (f[1] == '4' || f[1] == '6') ? f + 2 : 0;
}

/* Behind the conversion whose '%' is before f, or NULL. */
static const char *parse(const char *f, struct conversion *c)
{
	*c = (struct conversion){ 0 };
	for (; *f == '0' || *f == '+' || *f == '-' || *f == ' '; f++)
		c->flags |= *f == '0' ? ZERO : *f == '+' ? PLUS : *f == '-' ? LEFT : SPACE;
	for (; digit(*f); f++)
		c->width = c->width * 10 + (u32)(*f - '0');
	if (c->width > 4096)
		c->width = 4096;
	c->letter = *f;
	if (*f == 'p')
		return pointer_kind(f + 1, c);
	if (*f == 's')
		return ends(f[1]) ? f + 1 : 0;
	if (*f == 'c')
		return f + 1;
	for (u32 i = 0; i < 2 && *f == 'l'; i++, f++)
		c->wide = 1;
	c->letter = *f == 'i' ? 'd' : *f;
	return *f == 'd' || *f == 'i' || *f == 'u' || *f == 'x' || *f == 'X' ? f + 1 : 0;
}

/* How many arguments the format takes; -EINVAL. */
static long count(const char *fmt, u64 size)
{
	struct conversion c;
	u64 len = 0;
	long n = 0;

	while (len < size && fmt[len])
		len++;
	if (len == size)
		return -EINVAL;
	for (u64 i = 0; i < len; i++)
		if ((fmt[i] < ' ' && !space(fmt[i])) || fmt[i] == 127)
			return -EINVAL;
	for (const char *f = fmt; f && *f;) {
		if (*f != '%') {
			f++;
		} else if (f[1] == '%') {
			f += 2;
		} else {
			f = parse(f + 1, &c);
			n++;
			if (!f)
				return -EINVAL;
		}
	}
	return n;
}

long format_text(char *out, u64 room, const char *fmt, u64 size, const u64 *args, u32 nr)
{
	struct sink s = { out, room, 0 };
	long want = count(fmt, size);
	u32 at = 0;

	if (want < 0 || (u64)want > nr)
		return -EINVAL;
	for (const char *f = fmt; *f;) {
		struct conversion c;

		if (*f != '%' || f[1] == '%') {
			put(&s, *f);
			f += *f == '%' ? 2 : 1;
			continue;
		}
		f = parse(f + 1, &c);
		convert(&s, &c, args[at++]);
	}
	if (room)
		out[s.n < room ? s.n : room - 1] = 0;
	return (long)s.n;
}
