/* What <sys/sdt.h> writes for the provider `kinds`: a nop, and a note that says where its semaphore
 * and arguments are. `place` is a label at the nop. */
#ifndef KINDS_USDT_H
#define KINDS_USDT_H

#define SEMAPHORE(name) \
	__attribute__((section(".probes"), used, \
		       visibility("default"))) unsigned short kinds_##name##_semaphore

#define NOTE(place, name, semaphore, operands) \
	".globl " place "\n" place ": nop\n" \
	".pushsection .note.stapsdt, \"?\", \"note\"\n" \
	".balign 4\n" \
	".4byte 992f-991f, 994f-993f, 3\n" \
	"991: .asciz \"stapsdt\"\n" \
	"992: .balign 4\n" \
	"993: .8byte " place "\n" \
	".8byte _.stapsdt.base\n" \
	".8byte " semaphore "\n" \
	".asciz \"kinds\"\n" \
	".asciz \"" name "\"\n" \
	".asciz \"" operands "\"\n" \
	"994: .balign 4\n" \
	".popsection\n" \
	".ifndef _.stapsdt.base\n" \
	".pushsection .stapsdt.base, \"aG\", \"progbits\", .stapsdt.base, comdat\n" \
	".weak _.stapsdt.base\n" \
	".hidden _.stapsdt.base\n" \
	"_.stapsdt.base: .space 1\n" \
	".size _.stapsdt.base, 1\n" \
	".popsection\n" \
	".endif\n"

#define PROBE1(name, place, a) \
	__asm__ volatile(NOTE(place, #name, "kinds_" #name "_semaphore", "-8@%0")::"nor"(a))
#define PROBE3(name, place, a, b, c) \
	__asm__ volatile( \
		NOTE(place, #name, "kinds_" #name "_semaphore", "-8@%0 8@%1 -2@%2")::"nor"(a), \
		"nor"(b), "nor"(c))
#define PROBE1_PLAIN(place, a) __asm__ volatile(NOTE(place, "none", "0", "-8@%0")::"nor"(a))

#endif
