/* What the parts of the probe share. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* In memory that the children share: value and errno of what was tried, the signal that ended it, a text. */
struct answer {
	long value;
	int error;
	int signal;
	size_t size;
	char text[64 << 10];
};

/* words[0] is its name, the arguments come after it. */
struct action {
	const char *name;
	void (*act)(char **words, int number);
};

extern struct answer *answer;
extern const struct action special_actions[]; /* special.c */
extern const size_t special_number;

void do_use_up(char **words, int number); /* used_up.c */
long tell(long value); /* the result of a call; errno where it is negative */
void tell_text(const char *text, size_t size);
__attribute__((format(printf, 1, 2))) void add_text(const char *format, ...);
