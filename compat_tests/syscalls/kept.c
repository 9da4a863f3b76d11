/* kept: waits in a call whose number comes from the stack, as glibc 2.41 makes cancellable ones; then makes
 * others there. */
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

long kept_call(long nr, long a, long b, long c);

__asm__(".text\n.globl kept_call\n.type kept_call, @function\n"
	"kept_call:\n.cfi_startproc\n"
	"	push %rbx\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	push %rdi\n"
	"	.cfi_adjust_cfa_offset 8\n"
	"	mov %rsi, %rdi\n"
	"	mov %rdx, %rsi\n"
	"	mov %rcx, %rdx\n"
	"	mov (%rsp), %rax\n"
	"	syscall\n"
	"	pop %rbx\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	pop %rbx\n"
	"	.cfi_adjust_cfa_offset -8\n"
	"	ret\n"
	"	.cfi_endproc\n"
	"	nopw 0(%rax, %rax, 1)\n"
	".size kept_call, . - kept_call\n");

int main(void)
{
	char byte;

	printf("pid %d\n", getpid());
	fflush(stdout);
	if (kept_call(SYS_read, 0, (long)&byte, 1) != 1)
		return 1;
	for (int i = 0; i < 3; i++)
		if (kept_call(SYS_getppid, 0, 0, 0) <= 0)
			return 2;
	return kept_call(SYS_close, -1, 0, 0) >= 0;
}
