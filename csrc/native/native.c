#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <linux/kcmp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "native.h"

int shim_native_hold(void *backend_lock)
{
	pthread_mutexattr_t attr;
	int err;

	_Static_assert(sizeof(pthread_mutex_t) <= 64, "room in struct shim_ctl");
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	err = pthread_mutex_init(backend_lock, &attr);
	if (!err)
		err = pthread_mutex_lock(backend_lock);
	pthread_mutexattr_destroy(&attr);
	return -err;
}

int shim_native_let_go(void *backend_lock)
{
	u32 dead = __atomic_load_n((u32 *)backend_lock, __ATOMIC_RELAXED) & SHIM_BACKEND_DEAD;
	int err = pthread_mutex_unlock(backend_lock);

	__atomic_fetch_or((u32 *)backend_lock, dead, __ATOMIC_RELEASE);
	return -err;
}

void shim_native_slots(struct shim_ctl *ctl)
{
	for (u32 i = 0; i < SHIM_MAX_SLOTS; i++)
		ctl->slot[i].gen = 1;
}

int shim_native_descriptors(int room)
{
	struct rlimit limit;
	int spare, last;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return -errno;
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		return -errno;
	spare = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (spare < 0)
		return -errno;
	last = (limit.rlim_max < (rlim_t)room ? (int)limit.rlim_max : room) - 1;
	if (last > spare && fcntl(last, F_GETFD) < 0 && dup3(spare, last, O_CLOEXEC) == last)
		close(last);
	close(spare);
	return 0;
}

int shim_native_futex_wait(void *word, u32 seen, s64 timeout_ns)
{
	struct timespec ts = { timeout_ns / 1000000000, timeout_ns % 1000000000 };

	if (syscall(SYS_futex, word, FUTEX_WAIT, seen, timeout_ns < 0 ? NULL : &ts, NULL, 0))
		return -errno;
	return 0;
}

int shim_native_futex_wake(void *word, int how_many)
{
	return (int)syscall(SYS_futex, word, FUTEX_WAKE, how_many, NULL, NULL, 0);
}

int shim_native_sleep(struct shim_ctl *ctl, u32 seen, s64 timeout_ns)
{
	int err;

	__atomic_add_fetch(&ctl->wake_waiters, 1, __ATOMIC_SEQ_CST);
	err = shim_native_futex_wait(&ctl->wake_seq, seen, timeout_ns);
	__atomic_sub_fetch(&ctl->wake_waiters, 1, __ATOMIC_SEQ_CST);
	return err;
}

int shim_native_trace_sleep(struct shim_ctl *ctl, u32 seen, s64 timeout_ns)
{
	int err;

	__atomic_add_fetch(&ctl->trace_waiters, 1, __ATOMIC_SEQ_CST);
	err = shim_native_futex_wait(&ctl->trace_seq, seen, timeout_ns);
	__atomic_sub_fetch(&ctl->trace_waiters, 1, __ATOMIC_SEQ_CST);
	return err;
}

u64 shim_native_map(int fd, u64 size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);

	return at == MAP_FAILED ? 0 : (u64)at;
}

void shim_native_unmap(u64 at, u64 size)
{
	munmap((void *)at, size);
}

int shim_native_die_with(int parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return getppid() == parent ? 0 : -ESRCH;
}

int shim_native_same_memory(int pid, int other)
{
	return syscall(SYS_kcmp, pid, other, KCMP_VM, 0, 0) == 0;
}

int shim_native_inotify(void)
{
	int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

int shim_native_watch(int inotify_fd, int fd, u32 events)
{
	char path[32];
	int watch;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	watch = inotify_add_watch(inotify_fd, path, events);
	return watch < 0 ? -errno : watch;
}

int shim_native_unwatch(int inotify_fd, int watch)
{
	return inotify_rm_watch(inotify_fd, watch) ? -errno : 0;
}
