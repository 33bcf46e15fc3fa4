/* floor_hardening - what two parts of the default hardening cost in bare C: the kernel's share of them.
 *
 *   floor_hardening [-n N] [-l LIVE] [-g DIRECTORY]... ROOTFS [NAME...]
 *
 * A launch is seven namespaces, a root, /proc, no capabilities, and an exit without an exec. In each round there is one
 * with nothing else, one that binds a file over each NAME of /proc (and LIVE more binds), and one in a cgroup of its own
 * below each DIRECTORY, made before and removed after it. One line: N, then the minima in us of the three. */
#include "floor.h"

enum { BARE, COVERS, CGROUPS, KINDS };

struct hardened {
	struct launch launch;
	int kind, live;
	char **names, **groups;
};

static char name[32];

static void cover(char **names, int live) {
	char p[PATH_MAX];
	if (mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=64k"))
		die("tmpfs");
	int fd = open("/tmp/cover", O_CREAT | O_WRONLY | O_CLOEXEC, 0444);
	if (fd < 0)
		die("cover");
	close(fd);
	for (; *names; names++) {
		struct stat s;
		snprintf(p, sizeof p, "/proc/%s", *names);
		if (stat(p, &s))
			die("%s", p);
		if (mount(S_ISDIR(s.st_mode) ? "/tmp" : "/tmp/cover", p, NULL, MS_BIND, NULL))
			die("bind over %s", p);
	}
	while (live--)
		if (mount("/tmp/cover", "/tmp/cover", NULL, MS_BIND, NULL))
			die("bind");
}

static int hardened_main(void *arg) {
	struct hardened *h = arg;
	run_steps(&h->launch);
	if (h->kind == COVERS)
		cover(h->names, h->live);
	caps_drop(1);
	_exit(0);
}

static void in_groups(struct hardened *h, int begin) {
	char p[PATH_MAX];
	for (char **at = h->groups; h->kind == CGROUPS && *at; at++) {
		snprintf(p, sizeof p, "%s/%s", *at, name);
		if (begin ? mkdir(p, 0755) : rmdir(p))
			die(begin ? "mkdir %s" : "rmdir %s", p);
	}
}

/* Enter them as nstool's init does: by the file that moves the writer alone. */
static void enter(struct hardened *h) {
	char p[PATH_MAX + 8];
	for (char **at = h->groups; h->kind == CGROUPS && *at; at++) {
		snprintf(p, sizeof p, "%s/%s/tasks", *at, name);
		if (access(p, F_OK))
			snprintf(p, sizeof p, "%s/%s/cgroup.procs", *at, name);
		put_file(p, "0");
	}
}

static int entering_main(void *arg) {
	enter(arg);
	return hardened_main(arg);
}

int main(int argc, char **argv) {
	char *groups[16] = {NULL};
	int n = 200, live = 0, n_groups = 0, o;
	uint64_t best[KINDS];
	while ((o = getopt(argc, argv, "n:l:g:")) != -1)
		switch (o) {
		case 'n': n = atoi(optarg); break;
		case 'l': live = atoi(optarg); break;
		case 'g':
			if (n_groups < 15)
				groups[n_groups++] = optarg;
			break;
		default: return 2;
		}
	if (optind >= argc)
		return 2;
	snprintf(name, sizeof name, "floor%d", (int)getpid());
	char root[PATH_MAX], *stack = stack_new(STACK);
	if (!realpath(argv[optind], root))
		die("%s", argv[optind]);
	memset(best, 0xff, sizeof best);
	for (int i = 0; i < n; i++)
		for (int kind = 0; kind < KINDS; kind++) {
			struct hardened h = {.launch = {.flags = ALL7, .steps = "upbmv", .root = root, .conn_fd = -1},
					     .kind = kind, .live = live, .names = argv + optind + 1, .groups = groups};
			uint64_t begin = now_ns(), took;
			int status;
			in_groups(&h, 1);
			pid_t pid = clone(entering_main, stack + STACK, (int)(ALL7 | CLONE_VM | CLONE_VFORK | SIGCHLD), &h);
			if (pid < 0 || waitpid(pid, &status, 0) != pid)
				die("clone");
			in_groups(&h, 0);
			took = now_ns() - begin;
			if (status)
				return 1;
			if (took < best[kind])
				best[kind] = took;
		}
	printf("%d %.1f %.1f %.1f\n", n, (double)best[BARE] / 1e3, (double)best[COVERS] / 1e3, (double)best[CGROUPS] / 1e3);
	return 0;
}
