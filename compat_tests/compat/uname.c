/* Preloaded into bcc's tools: uname(2) reports the release whose headers are installed. */
#define _GNU_SOURCE
#include <string.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

int uname(struct utsname *name)
{
	long ret = syscall(SYS_uname, name);

	if (!ret)
		strcpy(name->release, RELEASE);
	return (int)ret;
}
