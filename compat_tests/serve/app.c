/* The protected application: for each line of its input, a number N, it handles a request whose uri
 * is N bytes long and prints its status. */
#include <stdio.h>
#include <stdlib.h>

struct text {
	unsigned long len;
	const char *data;
};
struct request {
	int number;
	struct text uri;
	int status;
};

__attribute__((noipa)) int app_handle(struct request *r)
{
	return r->number;
}

__attribute__((noipa)) int app_other(struct request *r)
{
	return r->status;
}

int main(void)
{
	char line[32];

	while (fgets(line, sizeof(line), stdin)) {
		struct request r = { 1, { strtoul(line, 0, 10), "/" }, 200 };

		for (int i = 0; i < 100; i++)
			app_handle(&r);
		printf("%d\n", app_other(&r));
		fflush(stdout);
	}
	return 0;
}
