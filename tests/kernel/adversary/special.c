/* What takes more than one call, or memory of a certain shape. */
#include "probe.h"

#include <linux/sched.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* clone3(2) with these flags. */
static void do_clone3(char **words, int number)
{
	struct clone_args args = {.flags = strtoull(words[1], NULL, 0), .exit_signal = SIGCHLD};
	long pid = syscall(SYS_clone3, &args, sizeof args);

	(void)number;
	if (pid == 0)
		_exit(0);
	tell(pid);
}

/* Set and clear each securebit; the value is 0 where none can be changed. */
static void do_securebits(char **words, int number)
{
	int before = prctl(PR_GET_SECUREBITS), changed = 0;

	(void)words, (void)number;
	for (int bit = 0; bit < 8; bit++)
		if (prctl(PR_SET_SECUREBITS, before ^ 1 << bit) == 0)
			changed |= 1 << bit;
	add_text("%#x", before);
	tell(changed);
}

const struct action special_actions[] = {
	{"clone3", do_clone3},
	{"securebits", do_securebits},
};
const size_t special_number = sizeof special_actions / sizeof *special_actions;
