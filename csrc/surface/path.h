/* Calling a libc function with a path that may lead elsewhere. */
#ifndef SHIM_PATH_H
#define SHIM_PATH_H

#include "surface.h"

/* call(p): p is the path as given; then, if it means another file to loaders, that one, the first
 * result having been taken back (undo(ret_)). Evaluates to call's result. */
#define REDIRECTED(type, path, fails, undo, call) \
	({ \
		char buf_[SURFACE_PATH]; \
		const char *p = path, *other_; \
		int saved_ = errno, failed_; \
		type ret_ = call; \
		failed_ = ret_ == (type)(fails) ? errno : 0; \
		other_ = surface_redirect(path, buf_, failed_); \
		if (unlikely(other_ != NULL)) { \
			if (!failed_) \
				undo(ret_); \
			p = other_; \
			errno = saved_; \
			ret_ = call; \
		} \
		ret_; \
	})

#define KEEP(ret) ((void)(ret))

#endif
