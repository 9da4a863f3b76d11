/* What a process sees of system calls whose results are replaced: a number a line. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REGS = 15 };

/* getuid with a pattern in every register; they are stored as the call leaves them: rbx rbp rdi rsi
 * rdx r8 r9 r10 r12 r13 r14 r15, rcx less the address behind the call, r11 less the flags, rax. */
void regs_around(unsigned long *out);
__asm__(".text\n.globl regs_around\n.type regs_around, @function\nregs_around:\n"
	"push %rbx\npush %rbp\npush %r12\npush %r13\npush %r14\npush %r15\npush %rdi\n"
	"mov $1, %ebx\nmov $2, %ebp\nmov $3, %edi\nmov $4, %esi\nmov $5, %edx\nmov $6, %r8d\n"
	"mov $7, %r9d\nmov $8, %r10d\nmov $9, %r12d\nmov $10, %r13d\nmov $11, %r14d\n"
	"mov $12, %r15d\nstc\nmov $102, %eax\nsyscall\n1:\n"
	"movq %rax, -24(%rsp)\nmov (%rsp), %rax\n"
	"mov %rbx, (%rax)\nmov %rbp, 8(%rax)\nmov %rdi, 16(%rax)\nmov %rsi, 24(%rax)\n"
	"mov %rdx, 32(%rax)\nmov %r8, 40(%rax)\nmov %r9, 48(%rax)\nmov %r10, 56(%rax)\n"
	"mov %r12, 64(%rax)\nmov %r13, 72(%rax)\nmov %r14, 80(%rax)\nmov %r15, 88(%rax)\n"
	"pushfq\npop %rdx\nmov %rdx, %rsi\nsub %rdx, %r11\nmov %r11, 104(%rax)\n"
	"lea 1b(%rip), %rdx\nsub %rdx, %rcx\nmov %rcx, 96(%rax)\n"
	"and $1, %esi\nmov %rsi, 120(%rax)\n"
	"mov -24(%rsp), %rdx\nmov %rdx, 112(%rax)\n"
	"pop %rdi\npop %r15\npop %r14\npop %r13\npop %r12\npop %rbp\npop %rbx\nret\n"
	".size regs_around, . - regs_around\n");

static void in_handler(int sig)
{
	(void)sig;
	printf("handler %d\n", (int)getuid());
}

int main(int argc, char **argv)
{
	unsigned long regs[REGS + 1];
	char *none[] = { NULL };
	pid_t pid;

	(void)argc;
	for (int i = 0; i < 5; i++)
		printf("uid %d\n", (int)getuid());
	errno = 0;
	int fd = open("/no/such", O_RDONLY);
	printf("open %d %d\n", fd, errno);
	errno = 0;
	fd = open("/nothing", O_RDONLY);
	printf("other %d %d\n", fd, errno);
	regs_around(regs);
	printf("regs");
	for (int i = 0; i <= REGS; i++)
		printf(" %ld", regs[i]);
	printf("\nppid %ld\n", (long)getppid());
	errno = 0;
	pid = fork();
	if (!pid)
		_exit(0);
	printf("fork %d %d\n", pid, errno);
	signal(SIGUSR1, in_handler);
	raise(SIGUSR1);
	errno = 0;
	fd = execve(argv[0], none, none);
	printf("exec %d %d\n", fd, errno);
	fflush(stdout);
	pid = fork();
	if (!pid)
		_exit((int)getuid() == 4242 ? 9 : 1);
	int status = 0;
	fd = waitpid(pid, &status, 0) == pid;
	printf("waited %d", fd);
	printf(" %d\n", WEXITSTATUS(status));
	return 0;
}
