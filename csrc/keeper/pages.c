/*
 * Many small changes of a stopped process's memory with one read and one write a page. A page changes
 * with one write, so a keeper that dies leaves it as it was or as it was to be. Pages are written in the
 * order in which they are changed: whoever turns to another one has the last one written.
 */
#include <string.h>

#include "keeper.h"

enum { PAGE = 4096 };

static struct {
	u64 at; /* its first byte */
	u32 lo, hi; /* changed here and not yet there; equal: nothing */
	int known; /* at hand */
	int failed; /* the first write that did: nothing is written behind it */
	u8 bytes[PAGE];
} page;

void kp_pages_begin(void)
{
	page.lo = page.hi = 0;
	page.known = page.failed = 0;
}

static void put(struct kp_target *t)
{
	if (page.lo != page.hi && !page.failed)
		page.failed = kp_write(t, page.at + page.lo, page.bytes + page.lo, page.hi - page.lo);
	page.lo = page.hi = 0;
}

int kp_pages_end(struct kp_target *t)
{
	int err;

	put(t);
	err = page.failed;
	kp_pages_begin();
	return err;
}

/* 1: the page is at hand; 0: it is more than one; -errno. */
static int turn_to(struct kp_target *t, u64 addr, size_t len)
{
	u64 at = addr & ~(u64)(PAGE - 1);
	int err;

	if (page.known && page.at == at && addr + len <= at + PAGE)
		return 1;
	put(t);
	page.known = 0;
	if (addr + len > at + PAGE)
		return 0;
	err = kp_read(t, at, page.bytes, PAGE);
	page.at = at;
	page.known = !err;
	return err ? err : 1;
}

int kp_pages_read(struct kp_target *t, u64 addr, void *buf, size_t len)
{
	int ret = turn_to(t, addr, len);

	if (ret <= 0)
		return ret < 0 ? ret : kp_read(t, addr, buf, len);
	memcpy(buf, page.bytes + (addr - page.at), len);
	return 0;
}

int kp_pages_write(struct kp_target *t, u64 addr, const void *buf, size_t len)
{
	int ret = turn_to(t, addr, len);
	u32 lo, hi;

	if (page.failed)
		return page.failed;
	if (ret <= 0)
		return ret < 0 ? ret : kp_write(t, addr, buf, len);
	lo = (u32)(addr - page.at);
	hi = lo + (u32)len;
	memcpy(page.bytes + lo, buf, len);
	if (page.lo == page.hi)
		page.lo = lo, page.hi = hi;
	page.lo = lo < page.lo ? lo : page.lo;
	page.hi = hi > page.hi ? hi : page.hi;
	return 0;
}
