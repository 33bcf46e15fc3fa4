/* The smallest payload that stays: no libc, sleeps until a signal ends it.  gcc -static -nostdlib */
__attribute__((noreturn)) void _start(void)
{
	for (;;)
		__asm__ volatile("syscall" : : "a"(34L /* pause */) : "rcx", "r11", "memory");
}
