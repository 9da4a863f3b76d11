/* tracer PID: traces it, as a debugger does, and says "ready". */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char c;

	if (argc < 2 || ptrace(PTRACE_SEIZE, atoi(argv[1]), 0, 0))
		return 1;
	puts("ready");
	fflush(stdout);
	return read(0, &c, 1) < 0;
}
