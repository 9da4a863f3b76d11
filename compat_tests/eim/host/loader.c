#define _GNU_SOURCE
/* loader OBJECT APP PROGRAM FUNCTION[%return][%bare] [APP's arguments]: loads one program of the
 * object, puts it at a function of APP, runs APP and prints the values of the map `out`, and the sum
 * of `each`. bare: APP runs already, without the library, and waits for its standard input's end. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void show(struct bpf_object *object)
{
	int out = bpf_object__find_map_fd_by_name(object, "out");
	int each = bpf_object__find_map_fd_by_name(object, "each");
	int cpus = libbpf_num_possible_cpus();
	long long value, sum = 0, *values = calloc(cpus, sizeof(*values));
	unsigned zero = 0;

	printf("out");
	for (unsigned i = 0; i < 6; i++)
		if (!bpf_map_lookup_elem(out, &i, &value))
			printf(" %lld", value);
	if (!bpf_map_lookup_elem(each, &zero, values))
		for (int i = 0; i < cpus; i++)
			sum += values[i];
	printf(" each %lld\n", sum);
	free(values);
}

/* The application; *go: what its standard input is the other end of. */
static pid_t start(char **argv, int *go)
{
	int ends[2];
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC))
		return -1;
	pid = fork();
	if (!pid) {
		dup2(ends[0], 0);
		execv(argv[2], argv + 4);
		_exit(127);
	}
	close(ends[0]);
	*go = ends[1];
	return pid;
}

int main(int argc, char **argv)
{
	bool bare = argc > 4 && strstr(argv[4], "%bare");
	struct bpf_object *object = argc > 4 ? bpf_object__open_file(argv[1], NULL) : NULL;
	struct bpf_program *program, *wanted = NULL;
	LIBBPF_OPTS(bpf_uprobe_opts, how);
	struct bpf_link *link;
	int status, go;
	pid_t pid = 0;

	if (!object)
		return 2;
	bpf_object__for_each_program(program, object)
	{
		bool this = !strcmp(bpf_program__name(program), argv[3]);

		bpf_program__set_autoload(program, this);
		wanted = this ? program : wanted;
	}
	if (bare) {
		unsetenv("LD_PRELOAD");
		pid = start(argv, &go);
	}
	if (!wanted || bpf_object__load(object))
		return 3;
	how.retprobe = strstr(argv[4], "%return") != NULL;
	how.func_name = strtok(argv[4], "%");
	link = bpf_program__attach_uprobe_opts(wanted, -1, argv[2], 0, &how);
	if (!link)
		return 4;
	if (!bare)
		pid = start(argv, &go);
	close(go);
	if (waitpid(pid, &status, 0) != pid || status) {
		printf("status %#x\n", status);
		return 5;
	}
	show(object);
	bpf_link__destroy(link);
	bpf_object__close(object);
	return 0;
}
