/* What a process finds itself to be, as JSON; and some things that only a process inside can do. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/keyctl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void strings(FILE *out, const char *key, char *const *list)
{
	fprintf(out, "\"%s\": [", key);
	for (int i = 0; list[i]; i++)
		fprintf(out, "%s\"%s\"", i ? ", " : "", list[i]);
	fprintf(out, "], ");
}

static void fds(FILE *out)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	char path[64], target[PATH_MAX];
	const char *comma = "";

	fprintf(out, "\"fds\": {");
	while (dir && (entry = readdir(dir))) {
		int fd = atoi(entry->d_name);
		ssize_t n;

		if (entry->d_name[0] == '.' || fd == dirfd(dir) || fd == fileno(out))
			continue;
		snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof target - 1);
		target[n < 0 ? 0 : n] = 0;
		fprintf(out, "%s\"%d\": \"%s\"", comma, fd, target);
		comma = ", ";
	}
	fprintf(out, "}, ");
}

/* The lines of /proc/self/status that tell of signals, ids, capabilities, filters. */
static void status(FILE *out)
{
	static const char *const wanted[] = {"Sig", "ShdPnd", "Cap", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups", "Umask"};
	FILE *file = fopen("/proc/self/status", "r");
	char line[512];

	fprintf(out, "\"status\": {");
	while (file && fgets(line, sizeof line, file)) {
		char *value = strchr(line, ':');

		for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
			if (!strncmp(line, wanted[i], strlen(wanted[i])) && strncmp(line, "SigQ:", 5)) {
				*value = 0;
				for (char *p = value + 1; *p; p++)
					if (*p == '\t' || *p == '\n')
						*p = ' ';
				fprintf(out, "\"%s\": \"%s\", ", line, value + 1);
				break;
			}
	}
	fprintf(out, "\"end\": \"\"}, ");
}

static void limits(FILE *out)
{
	fprintf(out, "\"limits\": [");
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit limit;

		getrlimit(i, &limit);
		fprintf(out, "%s[%lld, %lld]", i ? ", " : "", (long long)limit.rlim_cur, (long long)limit.rlim_max);
	}
	fprintf(out, "], ");
}

static void namespaces(FILE *out)
{
	static const char *const names[] = {"user", "mnt", "pid", "net", "uts", "ipc", "cgroup", "time"};
	char path[64];
	struct stat st;

	fprintf(out, "\"namespaces\": {");
	for (int i = 0; i < 8; i++) {
		snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
		fprintf(out, "%s\"%s\": %lu", i ? ", " : "", names[i], stat(path, &st) ? 0 : (unsigned long)st.st_ino);
	}
	fprintf(out, "}, ");
}

static int tell(int fd, char **argv)
{
	FILE *out = fdopen(fd, "w");
	char cwd[PATH_MAX];
	int death = -1, subreaper = -1, tty = open("/dev/tty", O_RDWR), tty_error = errno;

	prctl(PR_GET_PDEATHSIG, &death);
	prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
	fprintf(out, "{");
	strings(out, "argv", argv);
	strings(out, "environ", environ);
	if (tty >= 0)
		close(tty);
	fds(out);
	status(out);
	limits(out);
	namespaces(out);
	fprintf(out, "\"cwd\": \"%s\", \"pid\": %d, \"ppid\": %d, \"sid\": %d, \"pgrp\": %d, ", getcwd(cwd, sizeof cwd),
		getpid(), getppid(), getsid(0), getpgrp());
	fprintf(out, "\"tty\": %d, \"keyring\": %ld, \"securebits\": %d, \"dumpable\": %d, \"death\": %d, ", tty >= 0 ? 0 : tty_error,
		syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0), prctl(PR_GET_SECUREBITS),
		prctl(PR_GET_DUMPABLE), death);
	fprintf(out, "\"subreaper\": %d, \"nice\": %d}\n", subreaper, getpriority(PRIO_PROCESS, 0));
	return fclose(out) != 0;
}

static int report_fd;

static void on_signal(int number)
{
	dprintf(report_fd, "%d\n", number);
}

/* Say each signal that comes; end by the end of standard input. */
static int signals(int fd)
{
	char end;

	report_fd = fd;
	for (int i = 1; i <= 64; i++)
		signal(i, on_signal);
	dprintf(fd, "ready\n");
	while (read(0, &end, 1) < 0)
		;
	return 0;
}

/* Leave so many orphans to init. */
static int orphans(int number)
{
	for (int i = 0; i < number; i++) {
		pid_t pid = fork();

		if (pid < 0)
			return 1;
		if (pid == 0)
			_exit(fork() < 0);
		if (waitpid(pid, NULL, 0) != pid)
			return 1;
	}
	printf("done\n");
	fflush(stdout);
	return getchar() != EOF;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "tell";

	if (!strcmp(what, "signals"))
		return signals(1);
	if (!strcmp(what, "orphans"))
		return orphans(atoi(argv[2]));
	return tell(argc > 2 ? atoi(argv[2]) : 1, argv);
}
