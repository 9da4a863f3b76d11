/*
 * glob: a pattern under a redirected prefix is looked up where it leads, and the names come back
 * under the prefix that was asked for (callers cut it off by its length).
 */
#include <glob.h>
#include <stdlib.h>
#include <string.h>

#include "path.h"

/* from and to are the prefix as looked up and as asked for. */
static long rename_back(char **names, size_t n, const char *from, const char *to)
{
	size_t cut = strlen(from), put = strlen(to);

	for (size_t i = 0; i < n; i++) {
		char *name = names[i];
		size_t rest;

		if (!name || strncmp(name, from, cut))
			continue;
		rest = strlen(name + cut) + 1;
		if (put > cut) {
			name = realloc(name, put + rest);
			if (!name)
				return -ENOMEM;
			names[i] = name;
		}
		memmove(name + put, name + cut, rest);
		memcpy(name, to, put);
	}
	return 0;
}

/* Splits at the common tail: what stands before it was replaced. */
static void prefixes(const char *asked, const char *looked, char *from, char *to)
{
	size_t a = strlen(asked), l = strlen(looked);

	while (a && l && asked[a - 1] == looked[l - 1]) {
		a--;
		l--;
	}
	memcpy(from, looked, l);
	from[l] = 0;
	memcpy(to, asked, a);
	to[a] = 0;
}

#define GLOB(name, type) \
	({ \
		char other_[SURFACE_PATH], from_[SURFACE_PATH], to_[SURFACE_PATH]; \
		int ret_ = REAL(name)(pattern, flags, fail, g); \
		if (ret_ == GLOB_NOMATCH && strlen(pattern) < SURFACE_PATH && \
		    surface_redirect(pattern, other_, ENOENT)) { \
			ret_ = REAL(name)(other_, flags, fail, g); \
			prefixes(pattern, other_, from_, to_); \
			if (!ret_ && rename_back(g->gl_pathv, \
						 g->gl_pathc + (flags & GLOB_DOOFFS ? g->gl_offs : 0), \
						 from_, to_)) \
				ret_ = GLOB_NOSPACE; \
		} \
		ret_; \
	})

EXPORT int glob(const char *restrict pattern, int flags, int (*fail)(const char *, int),
		glob_t *restrict g)
{
	return GLOB(glob, glob_t);
}

EXPORT int glob64(const char *restrict pattern, int flags, int (*fail)(const char *, int),
		  glob64_t *restrict g)
{
	return GLOB(glob64, glob64_t);
}
