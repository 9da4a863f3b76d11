/* A static loader: the folder that its token path is, a BPF token of it, a map with that token. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int bpf(int cmd, void *attr, unsigned size)
{
	long ret = syscall(SYS_bpf, cmd, attr, size);

	return ret < 0 ? -errno : (int)ret;
}

int main(void)
{
	unsigned create[2] = { 0 }, map[20] = { 2, 4, 8, 1, 1 << 16 };
	const char *path = getenv("LIBBPF_BPF_TOKEN_PATH");
	int folder = open(path ? path : "/sys/fs/bpf", O_DIRECTORY), token, made;

	create[1] = (unsigned)folder;
	token = folder < 0 ? -errno : bpf(36, create, sizeof(create));
	map[19] = (unsigned)token;
	made = bpf(0, map, sizeof(map));
	printf("token %d map %d\n", token < 0 ? token : 0, made < 0 ? made : 0);
	return 0;
}
