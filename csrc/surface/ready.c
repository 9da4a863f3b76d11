/*
 * Wake-ups: producers in other processes wake a futex of the control page; here a thread turns
 * that into eventfds, and every sleep is preceded by a look (REWRITING.md 7).
 *
 * Readiness is the kernel's. A perf ring is ready once for each time its head has moved since
 * it was last told (perf_poll() takes rb->poll); a BPF ring buffer is ready while it has data. A
 * user ring buffer is ready to be written while it has room, as its eventfd is until that is full.
 *
 * Order that loses nothing: a consumer counts itself in wake_waiters, then looks, then sleeps; a
 * producer publishes, bumps wake_seq, then reads wake_waiters. In surface_notify the eventfd is
 * written before 'notified', so that whoever sees 'notified' finds the eventfd readable.
 */
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

#include "surface.h"

static u32 watched[SURFACE_MAX_WATCHED]; /* object index + 1 */
static u32 nr_watched; /* high-water mark */

void surface_drain(int efd)
{
	u64 count;

	shim_sys3(SYS_read, efd, &count, sizeof(count));
}

bool surface_is_writer(const struct surface_obj *obj)
{
	return obj->kind == SHIM_FD_MAP && obj->desc.type == 31; /* BPF_MAP_TYPE_USER_RINGBUF */
}

void surface_unready(struct surface_obj *obj, int efd)
{
	u64 full = ~0ULL - 1;

	store_release(&obj->lit, 0);
	surface_drain(efd);
	if (surface_is_writer(obj))
		shim_sys3(SYS_write, efd, &full, sizeof(full));
}

void surface_ready(struct surface_obj *obj, int efd)
{
	u64 one = 1;

	store_release(&obj->pending, 1);
	if (!surface_is_writer(obj))
		store_release(&obj->lit, 1);
	shim_sys3(SYS_write, efd, &one, sizeof(one)); /* fails where it is full */
	if (surface_is_writer(obj))
		surface_drain(efd); /* an edge each time; it is never full in between */
}

/* Does a ring have what its reader has not taken? */
static bool has_data(const struct surface_obj *obj)
{
	return obj->kind == SHIM_FD_PERF_RING ? shim_perf_avail(surface.perf + obj->perf_off)
					      : shim_ringbuf_ready(&obj->desc);
}

/*
 * A ring that its reader has emptied unasked (ring_buffer__consume()): its eventfd is read, or an
 * epoll set that is itself waited for would be ready for ever. What comes between the two looks is told
 * of by the second, if whoever told of it has done so before the read.
 */
static void emptied(struct surface_obj *obj, int efd)
{
	if (!load_acquire(&obj->lit) || has_data(obj))
		return;
	surface_unready(obj, efd);
	if (has_data(obj))
		surface_ready(obj, efd);
}

/* data_head of a ring (linux/perf_event.h: perf_event_mmap_page), if the reader has yet to be told. */
static bool perf_news(const struct surface_obj *obj, u8 **page, u64 *head)
{
	if (load_acquire(&obj->efd) <= 0 || !load_acquire(&obj->data_size))
		return false;
	*page = surface.perf + obj->perf_off;
	*head = load_acquire((u64 *)(*page + 1024));
	return *head != load_acquire(&obj->notified);
}

bool surface_notify(struct surface_obj *obj)
{
	int efd = load_acquire(&obj->efd) - 1;

	if (efd < 0)
		return false;
	if (obj->kind == SHIM_FD_PERF_RING) {
		u8 *page;
		u64 head;

		if (!perf_news(obj, &page, &head)) {
			if (load_acquire(&obj->data_size))
				emptied(obj, efd);
			return false;
		}
		shim_perf_told(page, head);
		surface_ready(obj, efd);
		store_release(&obj->notified, head);
		return true;
	}
	if (!load_acquire(&obj->mapped))
		return false;
	if (!shim_ringbuf_ready(&obj->desc)) {
		if (!surface_is_writer(obj)) {
			emptied(obj, efd);
			return false;
		}
		surface_unready(obj, efd); /* an eventfd of which nothing is known can be written */
		if (!shim_ringbuf_ready(&obj->desc))
			return false;
	}
	surface_ready(obj, efd);
	return true;
}

enum { SORTED = 64, LOOKS = 3 };

/* Rings with news, the oldest first; each is held. */
struct queue {
	u32 n;
	struct {
		struct surface_obj *obj;
		u32 since;
	} at[SORTED];
};

static void enqueue(struct queue *q, struct surface_obj *obj, u32 since)
{
	u32 i = q->n++;

	for (; i && (s32)(since - q->at[i - 1].since) < 0; i--)
		q->at[i] = q->at[i - 1];
	q->at[i].obj = obj;
	q->at[i].since = since;
}

/* One look at all. With 'wait', a ring whose news are younger than the look is left for the next:
 * what came to another one before it may not have been seen. */
static bool look(struct queue *q, bool wait, u32 *told)
{
	u32 n = load_acquire(&nr_watched), now = load_acquire(&surface.ctl->wake_seq);
	bool left = false;

	for (u32 i = 0; i < n; i++) {
		u32 index = load_acquire(&watched[i]), since;
		struct surface_obj *obj = index ? surface_obj_hold(index - 1) : NULL;
		u8 *page;
		u64 head;

		if (!obj)
			continue;
		if (obj->kind == SHIM_FD_PERF_RING && q->n < SORTED && perf_news(obj, &page, &head)) {
			since = shim_perf_since(page);
			if (!wait || (s32)(since - now) < 0) {
				enqueue(q, obj, since);
				continue;
			}
			left = true;
		} else {
			*told += surface_notify(obj);
		}
		surface_obj_put(obj);
	}
	return left;
}

/*
 * The kernel wakes a reader ring by ring, in the order of the records: so whoever has written to
 * one ring and then, on another CPU, to a second (bpftrace: an event, then exit()) is read in that order.
 */
u32 surface_notify_all(void)
{
	bool left = true;
	u32 told = 0;

	for (u32 looks = 1; left && looks <= LOOKS; looks++) {
		struct queue q = { .n = 0 };

		left = look(&q, looks < LOOKS, &told);
		for (u32 i = 0; i < q.n; i++) {
			told += surface_notify(q.at[i].obj);
			surface_obj_put(q.at[i].obj);
		}
	}
	return told;
}

void surface_sleep_begin(void)
{
	__atomic_add_fetch(&surface.ctl->wake_waiters, 1, __ATOMIC_SEQ_CST);
}

void surface_sleep_end(void)
{
	__atomic_sub_fetch(&surface.ctl->wake_waiters, 1, __ATOMIC_SEQ_CST);
}

static void *hop(void *unused)
{
	(void)unused;
	for (;;) {
		u32 seq = __atomic_load_n(&surface.ctl->wake_seq, __ATOMIC_SEQ_CST);

		surface_notify_all();
		shim_sys4(SYS_futex, &surface.ctl->wake_seq, FUTEX_WAIT, seq, 0);
	}
	return NULL;
}

/* A thread of this process with every signal blocked, so that no handler runs on it. */
/* Counted as it is there already, and still. */
static void *counted(void *fn)
{
	__atomic_add_fetch(&surface.self->begun, 1, __ATOMIC_SEQ_CST);
	((void *(*)(void *))fn)(NULL);
	__atomic_add_fetch(&surface.self->ended, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

long surface_start_thread(void *(*fn)(void *))
{
	u64 all = ~0ULL, mask = 0;
	pthread_attr_t attr;
	pthread_t id;
	int err;

	shim_sys4(SYS_rt_sigprocmask, 0, &all, &mask, 8);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 256 << 10);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	err = pthread_create(&id, &attr, counted, (void *)fn);
	pthread_attr_destroy(&attr);
	shim_sys4(SYS_rt_sigprocmask, 2, &mask, 0, 8);
	return -err;
}

static long ensure_hop(void)
{
	u32 no = 0;
	long err;

	if (!__atomic_compare_exchange_n(&surface.self->hop, &no, 1, false, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		return 0;
	err = surface_start_thread(hop);
	if (err)
		store_release(&surface.self->hop, 0);
	return err;
}

static long add_to_list(struct surface_obj *obj)
{
	u32 at = 0;

	while (at < nr_watched && watched[at])
		at++;
	if (at == SURFACE_MAX_WATCHED)
		return -ENOSPC;
	store_release(&watched[at], surface_obj_index(obj) + 1);
	obj->watch = at + 1;
	if (at == nr_watched)
		store_release(&nr_watched, at + 1);
	__atomic_add_fetch(&surface.nwatched, 1, __ATOMIC_ACQ_REL);
	return 0;
}

long surface_watch(struct surface_obj *obj)
{
	long efd = load_acquire(&obj->efd) - 1, err = 0;
	u64 mask;

	if (!surface_self())
		return -EPERM;
	if (efd < 0) {
		mask = surface_lock(&surface.self->table_lock);
		efd = obj->efd - 1;
		if (efd < 0) {
			efd = shim_sys2(SYS_eventfd2, 0, EFD_NONBLOCK | EFD_CLOEXEC);
			if (efd >= 0) {
				efd = surface_raise_fd((int)efd);
				err = add_to_list(obj);
				if (err) {
					surface_close((int)efd);
					efd = err;
				} else {
					surface_fd_internal((int)efd, true);
					store_release(&obj->efd, (s32)efd + 1);
				}
			}
		}
		surface_unlock(&surface.self->table_lock, mask);
	}
	if (efd < 0)
		return efd;
	err = ensure_hop();
	return err ? err : efd;
}

/* Under the table lock, when the last descriptor of obj is gone. */
void surface_unwatch(struct surface_obj *obj)
{
	int efd = obj->efd - 1;

	if (efd < 0)
		return;
	store_release(&obj->efd, 0);
	if (obj->watch)
		store_release(&watched[obj->watch - 1], 0);
	obj->watch = 0;
	surface_fd_internal(efd, false);
	surface_close(efd); /* leaves every epoll set it was in */
	__atomic_sub_fetch(&surface.nwatched, 1, __ATOMIC_ACQ_REL);
}
