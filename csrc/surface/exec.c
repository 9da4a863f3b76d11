/*
 * exec(3) and posix_spawn(3) in process trees that `bpf-shim run` follows: whoever gives a program
 * an environment of its own gives it the library all the same. Only where LIBBPF_SHIM_FOLLOW says so.
 * Everywhere the backends are told before a program that will not load the library.
 * Callers may be vfork children or signal handlers: no memory but the stack, and the real
 * functions are looked up beforehand.
 */
#include <alloca.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "surface.h"

enum { MOST = 16384, ROOM = 4096 };
static const char preload[] = "LD_PRELOAD=", follow[] = "LIBBPF_SHIM_FOLLOW=1";
static char library[ROOM]; /* "": nothing is followed */

/* libc's own function: REAL(), looked up once for all of its callers here. */
#define NEXT(name) ((__typeof__(&name))surface_real(&next_##name, #name))
static void *next_execve, *next_execv, *next_execvp, *next_execvpe, *next_fexecve, *next_execveat;
static void *next_posix_spawn, *next_posix_spawnp;

extern char **environ;
int execveat(int dir, const char *path, char *const argv[], char *const envp[], int flags);
int execvpe(const char *file, char *const argv[], char *const envp[]);

const char *surface_variable(const char *name)
{
	size_t n = strlen(name);

	for (char **env = environ; env && *env; env++)
		if (!strncmp(*env, name, n) && (*env)[n] == '=')
			return *env + n + 1;
	return NULL;
}

void surface_follow(void)
{
	const char *wanted = surface_variable("LIBBPF_SHIM_FOLLOW");

	if (!wanted || strcmp(wanted, "1") || !surface_home()[0])
		return;
	NEXT(execve);
	NEXT(execv);
	NEXT(execvp);
	NEXT(execvpe);
	NEXT(fexecve);
	NEXT(execveat);
	NEXT(posix_spawn);
	NEXT(posix_spawnp);
	surface_join(library, sizeof(library), surface_home(), "/libbpf_shim.so", "");
}

/* What is to be done to an environment. */
struct change {
	char *const *env;
	size_t n; /* entries */
	size_t at; /* of LD_PRELOAD, n: there is none */
	size_t text; /* bytes of a new LD_PRELOAD, 0: the old one has the library */
	bool marked; /* LIBBPF_SHIM_FOLLOW is there */
	bool without; /* the library is for another libc's programs none: out of it */
};

static bool look(struct change *c, char *const *env, bool without)
{
	size_t n = 0;

	if ((!library[0] && !without) || !env)
		return false;
	*c = (struct change){ .env = env, .without = without, .marked = !library[0] };
	for (c->at = (size_t)-1; env[n] && n < MOST; n++) {
		if (!strncmp(env[n], preload, sizeof(preload) - 1))
			c->at = n;
		c->marked |= !strcmp(env[n], follow);
	}
	c->n = n;
	if (c->at == (size_t)-1)
		c->at = n;
	if (without ? c->at < n && strstr(env[c->at], "/libbpf_shim.so")
		    : c->at == n || !strstr(env[c->at], "/libbpf_shim.so"))
		c->text = sizeof(preload) + strlen(library) + 1 + (c->at < n ? strlen(env[c->at]) : 0);
	return n < MOST && (c->text || !c->marked);
}

/* names without those that end in our library's name, behind what text holds. */
static void others_of(char *text, const char *names)
{
	static const char tail[] = "/libbpf_shim.so";
	char *to = text + strlen(text), *start = to;

	while (*names) {
		size_t n = strcspn(names, ": ");

		if (n && (n < sizeof(tail) - 1 ||
			  memcmp(names + n - (sizeof(tail) - 1), tail, sizeof(tail) - 1) != 0)) {
			if (to != start)
				*to++ = ':';
			memcpy(to, names, n);
			to += n;
		}
		names += n + !!names[n];
	}
	*to = 0;
}

void surface_leave_environment(void)
{
	char names[ROOM];

	for (char **env = environ; env && *env; env++) {
		char *there = *env + sizeof(preload) - 1;

		if (strncmp(*env, preload, sizeof(preload) - 1) || strlen(there) >= sizeof(names))
			continue;
		names[0] = 0;
		others_of(names, there);
		shim_copy_to((u64)there, names, strlen(names) + 1);
	}
}

/* The new environment, in memory for n + 3 entries and c->text bytes. */
static char *const *apply(const struct change *c, char **to, char *text)
{
	size_t n = c->n;

	memcpy(to, c->env, n * sizeof(*to));
	if (c->text) {
		const char *others = c->at < n ? c->env[c->at] + sizeof(preload) - 1 : "";

		strcpy(text, preload);
		if (c->without) {
			others_of(text, others);
		} else {
			strcat(text, library);
			if (*others)
				strcat(strcat(text, ":"), others);
		}
		to[c->at] = text;
		n += c->at == n;
	}
	if (!c->marked)
		to[n++] = (char *)follow;
	to[n] = NULL;
	return to;
}

/* env as it is to be, in memory of the caller's frame. */
#define FOLLOWED(env, without) \
	({ \
		struct change c_; \
		char *const *env_ = env; \
		look(&c_, env_, without) \
			? apply(&c_, alloca((c_.n + 3) * sizeof(char *)), alloca(c_.text + 1)) \
			: env_; \
	})

/* The library is preloaded by this environment, or will be. */
static bool preloads(char *const *env)
{
	for (; !library[0] && env && *env; env++)
		if (!strncmp(*env, preload, sizeof(preload) - 1) && strstr(*env, "libbpf_shim.so"))
			return true;
	return library[0];
}

/* Is the library to be kept from the program? */
static bool other(int dir, const char *path, int flags)
{
	return agent_muted() /* it would not live through the library's start */
	       || agent_next(dir, path, (u32)flags) == AGENT_NEXT_OTHER;
}

/* The same before this process execs it, with env: backends are told if it will not load the library. */
static bool ahead(int dir, const char *path, int flags, char *const *env)
{
	u32 next;

	if (agent_muted())
		return true;
	next = agent_next(dir, path, (u32)flags);
	if (next == AGENT_NEXT_STATIC || next == AGENT_NEXT_OTHER ||
	    (next == AGENT_NEXT_LOADS && !preloads(env)))
		agent_exec_ahead();
	return next == AGENT_NEXT_OTHER;
}

/* What an exec function answers, which it only does when it has failed. */
static int failed(int ret)
{
	agent_exec_over();
	return ret;
}

/* The file that execvp(3) will find, in memory of `room` bytes. */
static const char *search(const char *file, char *buf, size_t room)
{
	const char *path = surface_variable("PATH"), *end;

	if (agent_muted() || strchr(file, '/'))
		return file;
	for (path = path ? path : "/bin:/usr/bin"; *path; path = *end ? end + 1 : end) {
		size_t n = (size_t)((end = strchrnul(path, ':')) - path);

		if (n + strlen(file) + 2 > room)
			continue;
		memcpy(buf, path, n);
		surface_join(buf + n, room - n, "/", file, "");
		if (!shim_sys2(SYS_access, buf, X_OK))
			return buf;
	}
	return "";
}

EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
	bool without = ahead(AT_FDCWD, path, 0, envp);

	return failed(NEXT(execve)(path, argv, FOLLOWED(envp, without)));
}

EXPORT int execv(const char *path, char *const argv[])
{
	bool without = ahead(AT_FDCWD, path, 0, environ);
	char *const *env = FOLLOWED(environ, without);

	return failed(env == environ ? NEXT(execv)(path, argv) : NEXT(execve)(path, argv, env));
}

EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
	char found[ROOM];
	bool without = ahead(AT_FDCWD, search(file, found, sizeof(found)), 0, envp);

	return failed(NEXT(execvpe)(file, argv, FOLLOWED(envp, without)));
}

EXPORT int execvp(const char *file, char *const argv[])
{
	char found[ROOM];
	bool without = ahead(AT_FDCWD, search(file, found, sizeof(found)), 0, environ);
	char *const *env = FOLLOWED(environ, without);

	return failed(env == environ ? NEXT(execvp)(file, argv) : NEXT(execvpe)(file, argv, env));
}

EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
	bool without = ahead(fd, "", AT_EMPTY_PATH, envp);

	return failed(NEXT(fexecve)(fd, argv, FOLLOWED(envp, without)));
}

EXPORT int execveat(int dir, const char *path, char *const argv[], char *const envp[], int flags)
{
	bool without = ahead(dir, path, flags, envp);

	if (!NEXT(execveat)) /* glibc before 2.34 */
		return failed((int)surface_ret(
			shim_sys5(SYS_execveat, dir, path, argv, FOLLOWED(envp, without), flags)));
	return failed(NEXT(execveat)(dir, path, argv, FOLLOWED(envp, without), flags));
}

/* The arguments of a call with "first, ..., NULL", in memory of the caller's frame; behind it `list`
 * stands at what follows the NULL. */
static size_t count(va_list list)
{
	size_t n = 1;

	while (va_arg(list, char *))
		n++;
	return n;
}

#define ARGUMENTS(argv, first) \
	do { \
		va_list list_; \
		va_start(list_, first); \
		argv = alloca((count(list_) + 1) * sizeof(char *)); \
		va_end(list_); \
	} while (0)

static void take(char **argv, const char *first, va_list list)
{
	*argv = (char *)first;
	while (*argv)
		*++argv = va_arg(list, char *);
}

EXPORT int execl(const char *path, const char *first, ...)
{
	va_list list;
	char **argv;

	ARGUMENTS(argv, first);
	va_start(list, first);
	take(argv, first, list);
	va_end(list);
	return execve(path, argv, environ);
}

EXPORT int execlp(const char *file, const char *first, ...)
{
	va_list list;
	char **argv;

	ARGUMENTS(argv, first);
	va_start(list, first);
	take(argv, first, list);
	va_end(list);
	return execvpe(file, argv, environ);
}

EXPORT int execle(const char *path, const char *first, ...)
{
	va_list list;
	char **argv, **envp;

	ARGUMENTS(argv, first);
	va_start(list, first);
	take(argv, first, list);
	envp = va_arg(list, char **);
	va_end(list);
	return execve(path, argv, envp);
}

EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	bool without = other(AT_FDCWD, path, 0);

	return NEXT(posix_spawn)(pid, path, actions, attr, argv, FOLLOWED(envp, without));
}

EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
			const posix_spawnattr_t *attr, char *const argv[], char *const envp[])
{
	char found[ROOM];
	bool without = other(AT_FDCWD, search(file, found, sizeof(found)), 0);

	return NEXT(posix_spawnp)(pid, file, actions, attr, argv, FOLLOWED(envp, without));
}
