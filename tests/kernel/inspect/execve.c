/* Execute files as many kinds of processes, and say what each became.
 *
 * "drive": read a case a line from standard input; a child becomes what the case says and executes its file. A line of
 * output a case: "errno N", "setup STEP errno", or what the executed program tells. That program is this one too.
 *
 * case: PATH RUID EUID SUID FSUID RGID EGID SGID FSGID SECUREBITS EFFECTIVE PERMITTED INHERITABLE BOUNDING AMBIENT
 *       NO_NEW_PRIVS SHARES_FS TRACED(0 no, 1 by one without CAP_SYS_PTRACE, 2 by one with it) GROUPS,... or -
 * told: "ok" RUID ... FSGID SECUREBITS EFFECTIVE ... AMBIENT NO_NEW_PRIVS SECURE DUMPABLE DEATH_SIGNAL
 *
 * "setuid": the same cases with RUID,EUID,SUID (setresuid) or FSUID (setfsuid) in the place of PATH; nothing is executed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REPORT = 3, LAST = 63 };

struct wanted {
	char path[4096];
	unsigned uid[4], gid[4], securebits, no_new_privs, shares_fs, traced;
	uint64_t effective, permitted, inheritable, bounding, ambient;
	gid_t groups[64];
	int n_groups;
};

static int capset_(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {
		{(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
		{(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
	};

	return (int)syscall(SYS_capset, &header, data);
}

static void capget_(uint64_t *effective, uint64_t *permitted, uint64_t *inheritable)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {0};

	syscall(SYS_capget, &header, data);
	*effective = data[0].effective | (uint64_t)data[1].effective << 32;
	*permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
	*inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
}

static uint64_t each(int ambient)
{
	uint64_t mask = 0;

	for (int cap = 0; cap <= LAST; cap++) {
		int has = ambient ? prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) : prctl(PR_CAPBSET_READ, cap);

		if (has < 0)
			break;
		mask |= (uint64_t)has << cap;
	}
	return mask;
}

static int tell(int fd)
{
	unsigned ruid, euid, suid, rgid, egid, sgid;
	uint64_t effective, permitted, inheritable;
	int death = 0;

	getresuid(&ruid, &euid, &suid);
	getresgid(&rgid, &egid, &sgid);
	capget_(&effective, &permitted, &inheritable);
	prctl(PR_GET_PDEATHSIG, &death);
	dprintf(fd, "ok %u %u %u %u %u %u %u %u %d %lx %lx %lx %lx %lx %d %lu %d %d\n", ruid, euid, suid, setfsuid(-1), rgid,
		egid, sgid, setfsgid(-1), prctl(PR_GET_SECUREBITS), effective, permitted, inheritable, each(0), each(1),
		prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), getauxval(AT_SECURE), prctl(PR_GET_DUMPABLE), death);
	return 0;
}

static void fail(const char *step)
{
	dprintf(REPORT, "setup %s %d\n", step, errno);
	_exit(1);
}

/* Become what the case says; what needs privilege before what takes it. */
static void become(const struct wanted *w)
{
	uint64_t effective, all, inheritable;

	capget_(&effective, &all, &inheritable);
	if (w->traced) {
		if (w->traced == 1 && capset_(all & ~(1UL << CAP_SYS_PTRACE), all, 0))
			fail("drop-ptrace");
		if (ptrace(PTRACE_TRACEME))
			fail("traceme");
	}
	if (capset_(all, all, w->inheritable))
		fail("inheritable");
	if (syscall(SYS_setgroups, w->n_groups, w->groups))
		fail("setgroups");
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP))
		fail("no-setuid-fixup");
	if (syscall(SYS_setresgid, w->gid[0], w->gid[1], w->gid[2]) || syscall(SYS_setresuid, w->uid[0], w->uid[1], w->uid[2]))
		fail("ids");
	setfsgid(w->gid[3]);
	setfsuid(w->uid[3]);
	for (int cap = 0; cap <= LAST; cap++)
		if (w->ambient >> cap & 1 && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0))
			fail("ambient");
	for (int cap = 0; cap <= LAST; cap++)
		if (!(w->bounding >> cap & 1) && prctl(PR_CAPBSET_DROP, cap) && errno != EINVAL)
			fail("bounding");
	if (prctl(PR_SET_SECUREBITS, w->securebits))
		fail("securebits");
	if (capset_(w->effective, w->permitted, w->inheritable))
		fail("capset");
	if (w->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		fail("no-new-privs");
	if (each(0) != w->bounding || each(1) != w->ambient || (unsigned)setfsuid(-1) != w->uid[3] || (unsigned)setfsgid(-1) != w->gid[3])
		fail("not-as-wanted");
	prctl(PR_SET_DUMPABLE, 1);
	prctl(PR_SET_PDEATHSIG, SIGUSR2);
}

static int act(const struct wanted *w, int executes)
{
	unsigned uid[3];

	become(w);
	if (executes) {
		execl(w->path, w->path, (char *)NULL);
		dprintf(REPORT, "errno %d\n", errno);
		return 1;
	}
	if (sscanf(w->path, "%u,%u,%u", &uid[0], &uid[1], &uid[2]) == 3) {
		if (syscall(SYS_setresuid, uid[0], uid[1], uid[2])) {
			dprintf(REPORT, "errno %d\n", errno);
			return 1;
		}
	} else {
		setfsuid(atoi(w->path));
	}
	return tell(REPORT);
}

static int parse(char *line, struct wanted *w)
{
	char groups[1024];
	int n = sscanf(line, "%4095s %u %u %u %u %u %u %u %u %u %lx %lx %lx %lx %lx %u %u %u %1023s", w->path, &w->uid[0],
		       &w->uid[1], &w->uid[2], &w->uid[3], &w->gid[0], &w->gid[1], &w->gid[2], &w->gid[3], &w->securebits,
		       &w->effective, &w->permitted, &w->inheritable, &w->bounding, &w->ambient, &w->no_new_privs,
		       &w->shares_fs, &w->traced, groups);

	w->n_groups = 0;
	for (char *word = strtok(groups, ","); word && *word != '-'; word = strtok(NULL, ","))
		w->groups[w->n_groups++] = (gid_t)atoi(word);
	return n == 19;
}

static int drive(int executes)
{
	static struct wanted w;
	char *line = NULL;
	size_t size = 0;

	dup2(1, REPORT);
	while (getline(&line, &size, stdin) > 0) {
		int status;
		pid_t pid;

		if (!parse(line, &w))
			return 2;
		/* With CLONE_FS it shares its root and working directory with this process. */
		pid = (pid_t)syscall(SYS_clone, (w.shares_fs ? CLONE_FS : 0) | SIGCHLD, 0, 0, 0, 0);
		if (pid == 0)
			_exit(act(&w, executes));
		while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status))
			ptrace(PTRACE_CONT, pid, 0, WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status));
		if (WIFSIGNALED(status))
			dprintf(REPORT, "signal %d\n", WTERMSIG(status));
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && !strcmp(argv[1], "drive"))
		return drive(1);
	if (argc > 1 && !strcmp(argv[1], "setuid"))
		return drive(0);
	return tell(REPORT);
}
