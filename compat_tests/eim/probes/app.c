/* An application with USDT probes: app N handles requests 0 to N - 1, every other one at another place
 * of the probe `handled`, every third without a peer; `done` has one place, `far` an argument that
 * programs cannot read. It prints the sum of the statuses. */
#include <stdio.h>
#include <stdlib.h>

#define NOTE(place, name, operands) \
	".globl " place "\n" place ": nop\n" \
	".pushsection .note.stapsdt, \"?\", \"note\"\n" \
	".balign 4\n" \
	".4byte 992f-991f, 994f-993f, 3\n" \
	"991: .asciz \"stapsdt\"\n" \
	"992: .balign 4\n" \
	"993: .8byte " place "\n" \
	".8byte 0\n" \
	".8byte 0\n" \
	".asciz \"app\"\n" \
	".asciz \"" name "\"\n" \
	".asciz \"" operands "\"\n" \
	"994: .balign 4\n" \
	".popsection\n"

struct peer {
	int fd;
	unsigned short port;
};
struct request {
	int number;
	struct peer *peer;
	long status;
};

__attribute__((noipa)) void in_registers(struct request *r, short code)
{
	__asm__ volatile(NOTE("place_a", "handled", "8@%0 -2@%1 -4@$-5")::"r"(r), "r"((int)code));
}

__attribute__((noipa)) void in_memory(struct request *r, short code)
{
	struct request *volatile held = r;
	volatile short kept = code;

	__asm__ volatile(NOTE("place_b", "handled", "8@%0 -2@%1 -4@$6")::"m"(held), "m"(kept));
}

__attribute__((noipa)) long done(struct request *r)
{
	__asm__ volatile(NOTE("place_c", "done", "8@%0 8@%1")::"r"(r), "r"(r->status));
	__asm__ volatile(NOTE("place_d", "far", "8@%0 8@%%xmm0")::"r"(r));
	return r->status;
}

int main(int argc, char **argv)
{
	struct peer peer = { 3, 80 };
	long sum = 0;

	for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++) {
		struct request r = { i, i % 3 ? &peer : 0, 200 };

		if (i % 2)
			in_registers(&r, -i);
		else
			in_memory(&r, -i);
		sum += done(&r);
	}
	printf("%ld\n", sum);
	return 0;
}
