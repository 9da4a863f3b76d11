/* What the files of caller share: checks, and the tests that caller.c runs by name. */
#ifndef CALLER_H
#define CALLER_H

#include <errno.h>
#include <stdio.h>

extern char wrong[256]; /* the first check that failed, and where */

#define CHECK(what) \
	do { \
		if (!(what) && !wrong[0]) \
			snprintf(wrong, sizeof(wrong), "%s, line %d: %s (errno %d)", __func__, \
				 __LINE__, #what, errno); \
	} while (0)

/* registers.c */
void t_sites(void);
void t_jumps(void);
void t_entry(void);

/* waits.c */
void t_cancel(void);
void t_backtrace(void);
void t_interrupted(void);
void t_stopped(void);
void t_signals(void);

/* procs.c */
void t_clone(void);
void t_forks(void);
void t_exec(void);

#endif
