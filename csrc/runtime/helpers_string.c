/* Numbers and strings. Source: kernel/bpf/helpers.c (bpf_strtol and its kin), lib/kstrtox.c. */
#include "helpers.h"

enum { BASE_MASK = 0x1f, DIGITS = 63 /* of a number with its prefix that are looked at */ };

static bool is_space(u8 c)
{
	return c == ' ' || (c >= '\t' && c <= '\r') || c == 0xa0;
}

/* Value of a digit, 36 if it is none. */
static u32 digit(u8 c)
{
	u8 lower = c | 0x20;

	if (c >= '0' && c <= '9')
		return c - '0';
	return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10u : 36;
}

/* Text that ends with its length, or with anything that is no digit. */
struct text {
	const u8 *at;
	u64 len;
};

static u8 look(const struct text *t, u64 i)
{
	return i < t->len ? t->at[i] : 0;
}

/* Bytes of a prefix that says hexadecimal; *base is settled. */
static u64 prefix(const struct text *t, u32 *base)
{
	bool zero_x = look(t, 0) == '0' && (look(t, 1) | 0x20) == 'x';

	if (!*base)
		*base = look(t, 0) != '0' ? 10 : zero_x && digit(look(t, 2)) < 16 ? 16 : 8;
	return *base == 16 && zero_x ? 2 : 0;
}

/* Bytes read of a sign and a number, or -EINVAL, -ERANGE. */
static long parse(const u8 *buf, u64 len, u64 flags, u64 *value, bool *minus)
{
	u32 base = flags & BASE_MASK;
	u64 skipped = 0, at, first;
	bool overflow = false;
	struct text t;

	*value = 0;
	if (!len || (base && base != 8 && base != 10 && base != 16) || flags & ~(u64)BASE_MASK)
		return -EINVAL;
	while (skipped < len && is_space(buf[skipped]))
		skipped++;
	*minus = skipped < len && buf[skipped] == '-';
	skipped += *minus;
	if (skipped == len)
		return -EINVAL;
	t.at = buf + skipped;
	t.len = len - skipped < DIGITS ? len - skipped : DIGITS;
	first = at = prefix(&t, &base);
	for (; digit(look(&t, at)) < base; at++) {
		u64 d = digit(look(&t, at));

		overflow |= *value > (~0ull - d) / base;
		*value = *value * base + d;
	}
	if (overflow)
		return -ERANGE;
	return at == first ? -EINVAL : (long)(skipped + at);
}

HELPER(strtol)
{
	s64 *out = (s64 *)r4;
	bool minus = false;
	u64 value;
	long n = parse((const u8 *)r1, r2, r3, &value, &minus);

	UNUSED(r5, (u64)run);
	*out = 0;
	if (n < 0)
		return (u64)n;
	if (value > 0x7fffffffffffffffull + minus)
		return (u64)-ERANGE;
	*out = (s64)(minus ? 0 - value : value);
	return (u64)n;
}

HELPER(strtoul)
{
	bool minus = false;
	u64 value;
	long n = parse((const u8 *)r1, r2, r3, &value, &minus);

	UNUSED(r5, (u64)run);
	*(u64 *)r4 = 0;
	if (n < 0)
		return (u64)n;
	if (minus)
		return (u64)-EINVAL;
	*(u64 *)r4 = value;
	return (u64)n;
}

HELPER(strncmp)
{
	const u8 *a = (const u8 *)r1, *b = (const u8 *)r3;

	UNUSED(r4, r5, (u64)run);
	for (u32 i = 0; i < (u32)r2; i++) {
		if (a[i] != b[i])
			return a[i] < b[i] ? (u64)-1 : 1;
		if (!a[i])
			break;
	}
	return 0;
}
