/* Raw x86_64 system calls: no libc, no errno, safe between clone and exec.
 * Every function returns the kernel's value: >= 0, or -errno. syscall(2). */
#ifndef NSTOOL_RAW_H
#define NSTOOL_RAW_H

#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>

/* Older headers than the kernel's lack these; the numbers are the same on every architecture. */
#ifndef __NR_open_tree
#define __NR_open_tree 428
#define __NR_move_mount 429
#define __NR_fsopen 430
#define __NR_fsconfig 431
#define __NR_fsmount 432
#define __NR_pidfd_open 434
#define __NR_clone3 435
#define __NR_close_range 436
#define __NR_openat2 437
#endif
#ifndef __NR_mount_setattr
#define __NR_mount_setattr 442
#endif
#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444
#define __NR_landlock_add_rule 445
#define __NR_landlock_restrict_self 446
#endif

#ifdef NST_FUZZ
/* tests/fuzz stands in for the kernel: it touches what the kernel would touch. */
long nst_raw6(long nr, long a, long b, long c, long d, long e, long f);
#else
static inline long nst_raw6(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "0"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#endif

#define nst_raw5(nr, a, b, c, d, e) nst_raw6(nr, a, b, c, d, e, 0)
#define nst_raw4(nr, a, b, c, d) nst_raw6(nr, a, b, c, d, 0, 0)
#define nst_raw3(nr, a, b, c) nst_raw6(nr, a, b, c, 0, 0, 0)
#define nst_raw2(nr, a, b) nst_raw6(nr, a, b, 0, 0, 0, 0)
#define nst_raw1(nr, a) nst_raw6(nr, a, 0, 0, 0, 0, 0)
#define nst_raw0(nr) nst_raw6(nr, 0, 0, 0, 0, 0, 0)

/* clone3(2) with CLONE_VM and a stack of its own: the child calls fn(arg), which must not return.
 * args: struct clone_args with stack and stack_size set. */
#ifdef NST_FUZZ
long nst_clone3_on_stack(const void *args, size_t size, void (*fn)(void *), void *arg);
#else
static inline long nst_clone3_on_stack(const void *args, size_t size, void (*fn)(void *), void *arg)
{
	register void (*r12)(void *) __asm__("r12") = fn;
	register void *r13 __asm__("r13") = arg;
	long ret;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r13, %%rdi\n\t"
			 "call *%%r12\n\t"
			 "ud2\n\t"
			 "1:"
			 : "=a"(ret)
			 : "0"((long)__NR_clone3), "D"(args), "S"(size), "r"(r12), "r"(r13)
			 : "rcx", "r11", "memory", "cc");
	return ret;
}
#endif

/* A pointer as a system call argument. */
#define NST_P(p) ((long)(uintptr_t)(p))

/* What there is no libc for. exit_group(2), strcmp(3), strlen(3), and a number in decimal that ends at `end`. */
_Noreturn static inline void nst_leave(int status)
{
	for (;;)
		nst_raw1(__NR_exit_group, status);
}

static inline int nst_same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static inline char *nst_put_number(char *end, unsigned int n)
{
	*--end = 0;
	do
		*--end = (char)('0' + n % 10);
	while (n /= 10);
	return end;
}

static inline size_t nst_length(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

#endif
