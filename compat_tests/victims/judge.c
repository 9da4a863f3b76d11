/* judge OBJECT: loads each of its programs by itself; a line each: name, result, the verifier's last
 * line. */
#include <bpf/libbpf.h>
#include <stdio.h>
#include <string.h>

static char text[1 << 20];

static int quiet(enum libbpf_print_level level, const char *format, va_list rest)
{
	(void)level, (void)format, (void)rest;
	return 0;
}

/* The last line that is no statistics. */
static const char *last(void)
{
	char *end = text + strlen(text);

	while (end > text) {
		char *line;

		while (end > text && end[-1] == '\n')
			*--end = 0;
		for (line = end; line > text && line[-1] != '\n';)
			line--;
		if (strncmp(line, "processed ", 10))
			return line;
		end = line;
	}
	return "";
}

/* The at-th program, alone; false: there are not so many. */
static int judged(const char *path, int at)
{
	struct bpf_object *object = bpf_object__open_file(path, NULL);
	struct bpf_program *prog, *chosen = NULL;
	int n = 0, ret;

	if (!object)
		return 0;
	bpf_object__for_each_program(prog, object)
	{
		bpf_program__set_autoload(prog, n == at);
		if (n++ == at)
			chosen = prog;
	}
	if (chosen) {
		text[0] = 0;
		bpf_program__set_log_buf(chosen, text, sizeof(text));
		bpf_program__set_log_level(chosen, 1);
		ret = bpf_object__load(object);
		printf("%s|%d|%s\n", bpf_program__name(chosen), ret, ret ? last() : "");
	}
	bpf_object__close(object);
	return chosen != NULL;
}

int main(int argc, char **argv)
{
	int at = 0;

	libbpf_set_print(quiet);
	while (argc > 1 && judged(argv[1], at))
		at++;
	return at == 0;
}
