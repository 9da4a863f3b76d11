/* A module that makes a system call by an instruction of its own. */
long calls(void)
{
	long ret = 39; /* getpid */

	__asm__ volatile("syscall" : "+a"(ret) : : "rcx", "r11", "memory");
	return ret;
}
