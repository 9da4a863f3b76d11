/* Calling a libc function with a path that may lead elsewhere. */
#ifndef SHIM_PATH_H
#define SHIM_PATH_H

#include "surface.h"

/* call(p): p is the path as given, else where it leads. Evaluates to call's result. */
#define REDIRECTED(type, path, fails, call) \
	({ \
		char buf_[SURFACE_PATH]; \
		const char *p = surface_override(path, buf_), *other_; \
		int saved_ = errno; \
		type ret_; \
		if (unlikely(p != NULL)) { \
			ret_ = call; \
		} else { \
			p = path; \
			ret_ = call; \
			if (unlikely(ret_ == (type)(fails)) && \
			    (other_ = surface_redirect(path, buf_, errno))) { \
				p = other_; \
				errno = saved_; \
				ret_ = call; \
			} \
		} \
		ret_; \
	})

#endif
