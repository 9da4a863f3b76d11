/* An application to be extended: app N handles requests 0 to N - 1, whose uris grow; every fifth
 * has no peer. It prints the sum of the statuses. */
#include <stdio.h>
#include <stdlib.h>

struct text {
	unsigned long len;
	const char *data;
};
struct peer {
	int fd;
	unsigned short port;
	struct text name;
};
struct request {
	int number;
	struct text uri;
	struct peer *peer;
	int status;
};

__attribute__((noipa)) int app_handle(struct request *r)
{
	return r->number;
}

__attribute__((noipa)) int app_done(struct request *r)
{
	return r->status;
}

int main(int argc, char **argv)
{
	struct peer peer = {3, 80, {4, "gateway"}};
	long sum = 0;

	for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++) {
		struct request r = {i, {i, "/"}, i % 5 ? &peer : 0, 200};

		app_handle(&r);
		sum += app_done(&r);
	}
	printf("%ld\n", sum);
	return 0;
}
