/*
 * waits KIND...: each KIND is a system call that waits, made by a thread (the first by the main one)
 * until it is woken. "ready KIND:TID:NUMBER..." (of the call) once all threads are there; at the
 * end of stdin what they wait for comes, and a line for each says "KIND RESULT HANDLED": what the call gave
 * (a negative errno), and how many SIGUSR1 the thread has handled meanwhile.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

enum { MAX = 40 };

struct row;
struct wait {
	const struct row *row;
	int fd, other, id; /* what it waits at, what wakes it */
	unsigned word;
	void *more;
	atomic_int tid, handled;
	long result;
};
struct row {
	const char *name;
	long nr;
	void (*prepare)(struct wait *w);
	long (*make)(struct wait *w);
	void (*wake)(struct wait *w);
};

static struct wait waits[MAX];
static int nwaits;
static const struct timespec long_time = { 60, 0 }; /* in memory that cannot be written */
static _Thread_local struct wait *mine;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static long must(long ret, const char *what)
{
	if (ret < 0)
		die(what);
	return ret;
}

#define CALL(nr, ...) (syscall(nr, __VA_ARGS__) < 0 ? -(long)errno : 0)

/* descriptors */

static void event(struct wait *w)
{
	w->fd = w->other = (int)must(eventfd(0, 0), "eventfd");
}

static void tell(struct wait *w)
{
	unsigned long long one = 1;

	must(write(w->other, &one, sizeof(one)), "write");
}

static void epoll(struct wait *w)
{
	struct epoll_event e = { .events = EPOLLIN };

	event(w);
	w->fd = (int)must(epoll_create1(0), "epoll_create1");
	must(epoll_ctl(w->fd, EPOLL_CTL_ADD, w->other, &e), "epoll_ctl");
}

static long by_epoll(struct wait *w)
{
	struct epoll_event e;
	sigset_t none;

	sigemptyset(&none);
	if (w->row->nr == SYS_epoll_wait)
		return CALL(SYS_epoll_wait, w->fd, &e, 1, -1);
	if (w->row->nr == SYS_epoll_pwait)
		return CALL(SYS_epoll_pwait, w->fd, &e, 1, 60000, &none, 8);
	return CALL(w->row->nr, w->fd, &e, 1, &long_time, &none, 8);
}

static long by_select(struct wait *w)
{
	struct timespec own = long_time;
	const struct timespec *time = w->row->name[0] == '=' ? &long_time : &own;
	fd_set set;

	FD_ZERO(&set);
	FD_SET(w->fd, &set);
	if (w->row->nr == SYS_select)
		return CALL(SYS_select, w->fd + 1, &set, NULL, NULL, time);
	return CALL(SYS_pselect6, w->fd + 1, &set, NULL, NULL, time, NULL);
}

static long by_poll(struct wait *w)
{
	struct pollfd p = { w->fd, POLLIN, 0 };

	if (w->row->nr == SYS_poll)
		return CALL(SYS_poll, &p, 1, 60000);
	return CALL(SYS_ppoll, &p, 1, &long_time, NULL, 8);
}

/* System V */

static void semaphore(struct wait *w)
{
	w->id = (int)must(semget(IPC_PRIVATE, 1, 0600), "semget");
}

static long by_sem(struct wait *w)
{
	struct sembuf op = { 0, -1, 0 };

	if (w->row->nr == SYS_semop)
		return CALL(SYS_semop, w->id, &op, 1);
	return CALL(SYS_semtimedop, w->id, &op, 1, &long_time);
}

static void raise_sem(struct wait *w)
{
	struct sembuf op = { 0, 1, 0 };

	must(semop(w->id, &op, 1), "semop");
}

static void queue(struct wait *w)
{
	w->id = (int)must(msgget(IPC_PRIVATE, 0600), "msgget");
}

static long by_msg(struct wait *w)
{
	long text[2];

	return CALL(SYS_msgrcv, w->id, text, sizeof(long), 0, 0);
}

static void send_msg(struct wait *w)
{
	long text[2] = { 1, 1 };

	must(msgsnd(w->id, text, sizeof(long), 0), "msgsnd");
}

/* signals, futexes */

static void nothing(struct wait *w)
{
	(void)w;
}

static long by_sigwait(struct wait *w)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	return CALL(w->row->nr, &set, NULL, &long_time, 8);
}

static void signal_it(struct wait *w)
{
	if (syscall(SYS_tgkill, getpid(), w->tid, SIGUSR2) && errno != ESRCH)
		die("tgkill"); /* ESRCH: it has ended by another signal */
}

static long by_futex(struct wait *w)
{
	return CALL(SYS_futex, &w->word, FUTEX_WAIT_PRIVATE, 0, &long_time);
}

static void wake_futex(struct wait *w)
{
	__atomic_store_n(&w->word, 1, __ATOMIC_SEQ_CST);
	must(syscall(SYS_futex, &w->word, FUTEX_WAKE_PRIVATE, 1), "futex");
}

/* asynchronous files */

static void aio(struct wait *w)
{
	aio_context_t context = 0;
	static struct iocb cb;
	struct iocb *list[1] = { &cb };

	event(w);
	must(syscall(SYS_io_setup, 1, &context), "io_setup");
	cb.aio_fildes = (unsigned)w->fd;
	cb.aio_lio_opcode = IOCB_CMD_POLL;
	cb.aio_buf = POLLIN;
	must(syscall(SYS_io_submit, context, 1, list), "io_submit");
	w->more = (void *)context;
}

static long by_aio(struct wait *w)
{
	struct io_event e;

	return CALL(SYS_io_getevents, w->more, 1, 1, &e, &long_time);
}

static void uring(struct wait *w)
{
	struct io_uring_params p = { 0 };
	struct io_uring_sqe *sqe;
	char *ring;

	event(w);
	w->fd = (int)must(syscall(SYS_io_uring_setup, 1, &p), "io_uring_setup");
	ring = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, w->fd, IORING_OFF_SQ_RING);
	sqe = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, w->fd, IORING_OFF_SQES);
	if (ring == MAP_FAILED || sqe == MAP_FAILED)
		die("mmap");
	sqe->opcode = IORING_OP_POLL_ADD;
	sqe->fd = w->other;
	sqe->poll32_events = POLLIN;
	((unsigned *)(ring + p.sq_off.array))[0] = 0;
	__atomic_store_n((unsigned *)(ring + p.sq_off.tail), 1, __ATOMIC_RELEASE);
	must(syscall(SYS_io_uring_enter, w->fd, 1, 0, 0, NULL, 0), "io_uring_enter");
}

static long by_uring(struct wait *w)
{
	return CALL(SYS_io_uring_enter, w->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 8);
}

/* sockets with a timeout: without one the kernel itself begins them again */

static void timed(int fd)
{
	const struct timeval time = { 60, 0 };

	must(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time)), "SO_RCVTIMEO");
	must(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time)), "SO_SNDTIMEO");
}

static void pair(struct wait *w)
{
	int ends[2];

	must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
	w->fd = ends[0];
	w->other = ends[1];
	timed(w->fd);
}

static void full(struct wait *w)
{
	char bytes[4096] = { 0 };

	pair(w);
	while (send(w->fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

static long by_socket(struct wait *w)
{
	char byte[1] = { 0 };
	struct iovec v = { byte, 1 };
	struct mmsghdr m = { .msg_hdr = { .msg_iov = &v, .msg_iovlen = 1 } };

	switch (w->row->nr) {
	case SYS_read:
	case SYS_write: return CALL(w->row->nr, w->fd, byte, 1);
	case SYS_readv:
	case SYS_writev: return CALL(w->row->nr, w->fd, &v, 1);
	case SYS_recvfrom:
	case SYS_sendto: return CALL(w->row->nr, w->fd, byte, 1, 0, NULL, 0);
	case SYS_recvmsg:
	case SYS_sendmsg: return CALL(w->row->nr, w->fd, &m.msg_hdr, 0);
	default: return CALL(w->row->nr, w->fd, &m, 1, 0, NULL);
	}
}

static void drain(struct wait *w)
{
	char bytes[4096];

	while (recv(w->other, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

/* The abstract address that the kernel chooses. */
static void listener(struct wait *w)
{
	const struct sockaddr_un any = { .sun_family = AF_UNIX };

	w->fd = (int)must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
	must(bind(w->fd, (const struct sockaddr *)&any, sizeof(sa_family_t)), "bind");
	must(listen(w->fd, 0), "listen");
	timed(w->fd);
}

static int caller(int to, int flags)
{
	struct sockaddr_un name;
	socklen_t len = sizeof(name);
	int fd = (int)must(socket(AF_UNIX, SOCK_STREAM | flags, 0), "socket");

	must(getsockname(to, (struct sockaddr *)&name, &len), "getsockname");
	timed(fd);
	if (connect(fd, (struct sockaddr *)&name, len))
		return -errno;
	return 0;
}

static long by_accept(struct wait *w)
{
	return w->row->nr == SYS_accept ? CALL(SYS_accept, w->fd, NULL, NULL)
					: CALL(SYS_accept4, w->fd, NULL, NULL, 0);
}

static void call_it(struct wait *w)
{
	must(caller(w->fd, 0), "connect");
}

static void crowded(struct wait *w)
{
	listener(w);
	while (!caller(w->fd, SOCK_NONBLOCK))
		;
}

static long by_connect(struct wait *w)
{
	return caller(w->fd, 0);
}

static void accept_it(struct wait *w)
{
	must(accept(w->fd, NULL, NULL), "accept");
}

static const struct row rows[] = {
	{ "epoll_wait", SYS_epoll_wait, epoll, by_epoll, tell },
	{ "epoll_pwait", SYS_epoll_pwait, epoll, by_epoll, tell },
	{ "epoll_pwait2", 441, epoll, by_epoll, tell },
	{ "select", SYS_select, event, by_select, tell },
	{ "pselect6", SYS_pselect6, event, by_select, tell },
	{ "=select", SYS_select, event, by_select, tell },
	{ "=pselect6", SYS_pselect6, event, by_select, tell },
	{ "poll", SYS_poll, event, by_poll, tell },
	{ "=ppoll", SYS_ppoll, event, by_poll, tell },
	{ "semop", SYS_semop, semaphore, by_sem, raise_sem },
	{ "semtimedop", SYS_semtimedop, semaphore, by_sem, raise_sem },
	{ "msgrcv", SYS_msgrcv, queue, by_msg, send_msg },
	{ "sigtimedwait", SYS_rt_sigtimedwait, nothing, by_sigwait, signal_it },
	{ "futex", SYS_futex, nothing, by_futex, wake_futex },
	{ "io_getevents", SYS_io_getevents, aio, by_aio, tell },
	{ "io_uring_enter", SYS_io_uring_enter, uring, by_uring, tell },
	{ "read", SYS_read, pair, by_socket, tell },
	{ "readv", SYS_readv, pair, by_socket, tell },
	{ "recvfrom", SYS_recvfrom, pair, by_socket, tell },
	{ "recvmsg", SYS_recvmsg, pair, by_socket, tell },
	{ "recvmmsg", SYS_recvmmsg, pair, by_socket, tell },
	{ "write", SYS_write, full, by_socket, drain },
	{ "writev", SYS_writev, full, by_socket, drain },
	{ "sendto", SYS_sendto, full, by_socket, drain },
	{ "sendmsg", SYS_sendmsg, full, by_socket, drain },
	{ "sendmmsg", SYS_sendmmsg, full, by_socket, drain },
	{ "accept", SYS_accept, listener, by_accept, call_it },
	{ "accept4", SYS_accept4, listener, by_accept, call_it },
	{ "connect", SYS_connect, crowded, by_connect, accept_it },
};

static void count(int sig)
{
	(void)sig;
	if (mine)
		mine->handled++;
}

static void *thread(void *arg)
{
	mine = arg;
	mine->tid = gettid();
	mine->result = mine->row->make(mine);
	return NULL;
}

/* A process of its own takes away what the kernel would keep, however this one ends. */
static void clean_up(void)
{
	int ends[2], i;
	char c;

	must(pipe(ends), "pipe");
	if (must(fork(), "fork")) {
		close(ends[0]);
		return;
	}
	close(ends[1]);
	close(0);
	close(1);
	while (read(ends[0], &c, 1) < 0 && errno == EINTR)
		;
	for (i = 0; i < nwaits; i++)
		if (waits[i].row->prepare == semaphore)
			semctl(waits[i].id, 0, IPC_RMID);
		else if (waits[i].row->prepare == queue)
			msgctl(waits[i].id, IPC_RMID, NULL);
	_exit(0);
}

static void *control(void *arg)
{
	pthread_t *threads = arg;
	char c;
	int i;

	while (read(0, &c, 1) > 0)
		;
	for (i = 0; i < nwaits; i++)
		waits[i].row->wake(&waits[i]);
	for (i = 0; i < nwaits; i++) {
		must(-pthread_join(threads[i], NULL), "join");
		printf("%s %ld %d\n", waits[i].row->name, waits[i].result, waits[i].handled);
	}
	exit(0);
}

int main(int argc, char **argv)
{
	const struct sigaction act = { .sa_handler = count };
	pthread_t threads[MAX], controller;
	sigset_t set;
	size_t k;
	int i;

	for (i = 1; i < argc && i <= MAX; i++)
		for (k = 0; k < sizeof(rows) / sizeof(rows[0]); k++)
			if (!strcmp(argv[i], rows[k].name)) {
				waits[nwaits].row = &rows[k];
				rows[k].prepare(&waits[nwaits++]);
			}
	if (!nwaits || nwaits != argc - 1)
		return 2;
	clean_up();
	sigaction(SIGUSR1, &act, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	threads[0] = pthread_self();
	for (i = 1; i < nwaits; i++)
		must(-pthread_create(&threads[i], NULL, thread, &waits[i]), "thread");
	waits[0].tid = gettid();
	for (i = 0; i < nwaits; i++)
		while (!waits[i].tid)
			sched_yield();
	printf("ready");
	for (i = 0; i < nwaits; i++)
		printf(" %s:%d:%ld", waits[i].row->name, waits[i].tid, waits[i].row->nr);
	printf("\n");
	fflush(stdout);
	must(-pthread_create(&controller, NULL, control, threads), "thread");
	thread(&waits[0]);
	pthread_exit(NULL);
}
