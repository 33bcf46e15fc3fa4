/* What takes more than one call, or memory of a certain shape. */
#include "probe.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <linux/sched.h>
#include <mqueue.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

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

/* Write a copy of this program to a file, executable, and execute it; "memfd" is such a file without a name. */
static void do_execute_copy(char **words, int number)
{
	int from = open("/proc/self/exe", O_RDONLY), to = open(words[1], O_CREAT | O_WRONLY | O_TRUNC, 0700);
	char buffer[64 << 10], *argv[] = {words[1], NULL};
	ssize_t n = from;

	(void)number;
	while (from >= 0 && to >= 0 && (n = read(from, buffer, sizeof buffer)) > 0)
		if (write(to, buffer, n) != n)
			n = to = -1;
	if (to < 0 || n < 0) {
		tell(-1);
		return;
	}
	close(to);
	close(0); /* if it runs after all, it has no question */
	tell(0);
	tell(execv(words[1], argv));
}

/* Every file below a directory that can be opened for writing; it is not written to. words[2]: a name to leave out. */
static void walk(const char *path, int depth)
{
	DIR *dir = depth < 12 ? opendir(path) : NULL;
	struct dirent *entry;
	char below[4096];
	struct stat st;

	while (dir && (entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		snprintf(below, sizeof below, "%s/%s", path, entry->d_name);
		if (lstat(below, &st) || S_ISLNK(st.st_mode))
			continue;
		if (S_ISDIR(st.st_mode)) {
			if (depth ||
			    strspn(entry->d_name, "0123456789") != strlen(entry->d_name)) /* no process of /proc */
				walk(below, depth + 1);
			continue;
		}
		int fd = open(below, O_WRONLY | O_NONBLOCK | O_NOCTTY);
		if (fd >= 0)
			add_text("%s ", below);
		close(fd);
	}
	if (dir)
		closedir(dir);
}

static void do_writable(char **words, int number)
{
	(void)number;
	walk(words[1], 0);
	tell(0);
}

/* What each number from words[1] up to words[2] answers to senseless arguments: "N:errno", "N:-signal". */
static void do_scan(char **words, int number)
{
	long last = strtol(words[2], NULL, 0);
	struct itimerval soon = {.it_value = {.tv_usec = 200000}};

	(void)number;
	for (long call = strtol(words[1], NULL, 0); call <= last; call++) {
		int status, *error = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		pid_t pid = fork();

		if (pid == 0) {
			pid_t self = getpid();

			close(0);
			close(1);
			setitimer(ITIMER_REAL, &soon, NULL);
			*error = syscall(call, -1, -1, -1, -1, -1, -1) < 0 ? errno : 0;
			if (getpid() != self) /* fork(2) takes no arguments */
				_exit(0);
			_exit(0);
		}
		waitpid(pid, &status, 0);
		add_text("%ld:%d ", call, WIFSIGNALED(status) ? -WTERMSIG(status) : *error);
		munmap(error, 4096);
	}
	tell(0);
}

static void note(const char *what, const char *text)
{
	char word[512];

	snprintf(word, sizeof word, "%s=%s\n", what, text);
	answer->text[answer->size] = 0;
	if (!strstr(answer->text, word))
		add_text("%s", word);
}

/* What can be had of a process in /proc while it lives: its program, root, files, environment, memory. */
static void look_at(const char *pid)
{
	static const char *const links[] = {"exe", "root", "cwd"};
	char path[300], text[256];
	struct dirent *entry;
	DIR *fds;
	ssize_t n;
	int fd;

	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof path, "/proc/%s/%s", pid, links[i]);
		if ((n = readlink(path, text, sizeof text - 1)) >= 0) {
			text[n] = 0;
			note(links[i], text);
		}
	}
	snprintf(path, sizeof path, "/proc/%s/fd", pid);
	fds = opendir(path);
	while (fds && (entry = readdir(fds))) {
		if ((n = readlinkat(dirfd(fds), entry->d_name, text, sizeof text - 1)) < 0)
			continue;
		text[n] = 0;
		text[strcspn(text, ":")] = 0; /* pipe:[1234] */
		note("fd", text);
	}
	if (fds)
		closedir(fds);
	snprintf(path, sizeof path, "/proc/%s/environ", pid);
	fd = open(path, O_RDONLY);
	if (fd >= 0 && (n = read(fd, text, sizeof text - 1)) > 0) {
		text[n] = 0;
		text[strcspn(text, "=")] = 0;
		note("environ", text);
	}
	close(fd);
}

/* Look at every process that there is, again and again, but for this one and the one that asks. words[1]: milliseconds. */
static void do_watch(char **words, int number)
{
	long until = atol(words[1]);
	struct timespec begin, now;

	(void)number;
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		DIR *dir = opendir("/proc");
		struct dirent *entry;

		while (dir && (entry = readdir(dir)))
			if (atoi(entry->d_name) > 0 && atoi(entry->d_name) != getpid() &&
			    atoi(entry->d_name) != getppid())
				look_at(entry->d_name);
		if (dir)
			closedir(dir);
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000 < until);
	tell(0);
}

/* The sockets of a family that can be made, of all families for -1, as family/type/protocol; but for EPERM. */
static void do_sockets(char **words, int number)
{
	static const int types[] = {SOCK_STREAM,    SOCK_DGRAM, SOCK_RAW,   SOCK_RDM,
				    SOCK_SEQPACKET, SOCK_DCCP,	SOCK_PACKET};
	int family = atoi(words[1]), first = family < 0 ? 0 : family, last = family < 0 ? 63 : family;

	(void)number;
	for (int f = first; f <= last; f++)
		for (size_t t = 0; t < sizeof types / sizeof *types; t++)
			for (int protocol = 0; protocol < (family < 0 ? 1 : 300); protocol++) {
				int fd = socket(f, types[t], protocol);

				if (fd >= 0 || errno != EPERM)
					add_text("%d/%d/%d ", f, types[t], protocol);
				close(fd);
			}
	tell(0);
}

/* A system call of the i386 ABI: getpid(2). */
static void do_int80(char **words, int number)
{
	long result = 20;

	(void)words, (void)number;
	__asm__ volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
	tell(result);
}

/* An ioctl of a terminal of the sandbox's own, which is its controlling one. words[1]: the request, 64 bits. */
static void do_terminal(char **words, int number)
{
	int unlock = 0, master, slave;
	char name[64], buffer[64] = "x";

	(void)number;
	setsid();
	master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY);
	if (tell(master) < 0 || ioctl(master, TIOCSPTLCK, &unlock) || ioctl(master, TIOCGPTN, &unlock))
		return;
	snprintf(name, sizeof name, "/dev/pts/%d", unlock);
	slave = open(name, O_RDWR);
	if (tell(slave) >= 0)
		tell(syscall(SYS_ioctl, slave, strtoull(words[1], NULL, 0), buffer));
}

/* An ioctl of an fd that it was given. words[2]: the request, 64 bits. */
static void do_ioctl_of(char **words, int number)
{
	char buffer[64] = "x";

	(void)number;
	tell(syscall(SYS_ioctl, atoi(words[1]), strtoull(words[2], NULL, 0), buffer));
}

/* Connect to a UNIX socket; "@" at the beginning stands for the abstract namespace. */
static void do_connect_unix(char **words, int number)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	size_t size = strlen(words[1]);

	(void)number;
	memcpy(address.sun_path, words[1], size);
	if (*words[1] == '@')
		address.sun_path[0] = 0;
	tell(connect(fd, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + size));
}

/* Fork until it is refused; the value is how many there were. */
static void do_fork_many(char **words, int number)
{
	long made = 0, most = strtol(words[1], NULL, 0);
	pid_t pid = 0;

	(void)number;
	setpgid(0, 0);
	while (made < most && (pid = fork()) >= 0) {
		if (pid == 0)
			pause();
		made++;
	}
	tell(pid);
	answer->value = made;
	kill(0, SIGKILL);
}

/* So many bytes of memory: "anonymous", "memfd", or a file that is made here. */
static void do_fill(char **words, int number)
{
	size_t size = strtoull(words[2], NULL, 0), done = 0;
	static char block[1 << 20];
	int fd = -1;

	(void)number;
	memset(block, 1, sizeof block);
	if (!strcmp(words[1], "anonymous")) {
		while (done < size) {
			char *new =
				mmap(NULL, sizeof block, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
			if (new == MAP_FAILED)
				break;
			memcpy(new, block, sizeof block);
			done += sizeof block;
		}
		tell(done == size ? 0 : -1);
		return;
	}
	fd = !strcmp(words[1], "memfd") ? memfd_create("fill", 0) : open(words[1], O_CREAT | O_EXCL | O_WRONLY, 0600);
	if (fd < 0) {
		tell(-1);
		return;
	}
	while (done < size) {
		ssize_t n = write(fd, block, sizeof block);
		if (n < 0)
			break;
		done += n;
	}
	tell(done == size ? 0 : -1);
	add_text("%zu", done);
	unlink(words[1]);
}

/* Open fds until it is refused. */
static void do_open_many(char **words, int number)
{
	struct rlimit limit;
	long made = 0;

	(void)words, (void)number;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	while (dup(0) >= 0 && made < 100000)
		made++;
	tell(-1);
	answer->value = made;
}

/* Raise a hard limit by one. */
static void do_raise(char **words, int number)
{
	int resource = (int)strtol(words[1], NULL, 0);
	struct rlimit limit;

	(void)number;
	getrlimit(resource, &limit);
	add_text("%lld", (long long)limit.rlim_max);
	limit.rlim_max++;
	tell(setrlimit(resource, &limit));
}

/* Have other limits of core dumps, up and down, by both calls; what they are then. */
static void do_core(char **words, int number)
{
	static const struct rlimit wanted[] = {{0, 0}, {0, 1}, {2, 2}, {RLIM_INFINITY, RLIM_INFINITY}};
	struct rlimit limit;

	(void)words, (void)number;
	for (unsigned i = 0; i < sizeof wanted / sizeof *wanted; i++)
		for (int high = 0; high < 2; high++) {
			long resource = RLIMIT_CORE | (long)high << 32;

			syscall(SYS_setrlimit, resource, &wanted[i]);
			syscall(SYS_prlimit64, 0, resource, &wanted[i], NULL);
		}
	tell(syscall(SYS_prlimit64, 0, RLIMIT_CORE, NULL, &limit));
	add_text("%lld %lld", (long long)limit.rlim_cur, (long long)limit.rlim_max);
}

/* A clock in seconds. */
static void do_clock(char **words, int number)
{
	struct timespec now = {0};
	long result = clock_gettime((clockid_t)strtol(words[1], NULL, 0), &now);

	(void)number;
	tell(result < 0 ? result : now.tv_sec);
}

/* Daemons: two forks and a session of their own, so that only init is their parent; and one that ends at once. */
static void do_daemon(char **words, int number)
{
	(void)words, (void)number;
	if (fork() == 0) {
		setsid();
		for (int i = 0; i < 2; i++)
			if (fork() == 0) {
				alarm(0);
				for (int fd = 0; fd < 3; fd++)
					close(fd);
				while (i)
					pause();
				_exit(0);
			}
		_exit(0);
	}
	tell(wait(NULL) < 0 ? -1 : 0);
}

/* The namespace above one of the process's own. ioctl_nsfs(2). */
static void do_ns_parent(char **words, int number)
{
	char path[64];
	int fd;

	(void)number;
	snprintf(path, sizeof path, "/proc/self/ns/%s", words[1]);
	fd = open(path, O_RDONLY);
	tell(fd < 0 ? fd : ioctl(fd, strtoul(words[2], NULL, 0)));
}

/* A real-time policy, by a struct that the call number alone does not carry. */
static void do_realtime(char **words, int number)
{
	struct sched_param parameter = {.sched_priority = 1};

	(void)number;
	tell(syscall(SYS_sched_setscheduler, 0, strtol(words[1], NULL, 0), &parameter));
}

static void do_nice(char **words, int number)
{
	(void)number;
	tell(setpriority(PRIO_PROCESS, 0, (int)strtol(words[1], NULL, 0)));
}

static void do_mq_open(char **words, int number)
{
	(void)number;
	tell(mq_open(words[1], O_RDONLY));
}

/* This process as it is known to the kernel: pid, parent, group, session. */
static void do_ids(char **words, int number)
{
	(void)words, (void)number;
	add_text("%d %d %d %d", getppid(), getpgid(getppid()), getsid(0), getpgid(0));
	tell(0);
}

/* Connect or send to an address: words[1] 4 or 6, the address, the port, and the interface's number for 6. */
static void do_reach(char **words, int number)
{
	int six = *words[1] == '6', tcp = !strcmp(words[2], "tcp");
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(atoi(words[4]))};
	struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = v4.sin_port, .sin6_scope_id = 1};
	int fd = socket(six ? AF_INET6 : AF_INET, tcp ? SOCK_STREAM : SOCK_DGRAM, 0);

	(void)number;
	inet_pton(AF_INET, words[3], &v4.sin_addr);
	inet_pton(AF_INET6, words[3], &v6.sin6_addr);
	if (tell(six ? connect(fd, (struct sockaddr *)&v6, sizeof v6)
		     : connect(fd, (struct sockaddr *)&v4, sizeof v4)) == 0)
		tell(tcp ? 0 : send(fd, "x", 1, 0));
}

/* The names of the network interfaces. */
static void do_interfaces(char **words, int number)
{
	struct if_nameindex *list = if_nameindex();

	(void)words, (void)number;
	if (tell(list ? 0 : -1) == 0)
		for (struct if_nameindex *i = list; i->if_name; i++)
			add_text("%s ", i->if_name);
}

static void do_uname(char **words, int number)
{
	struct utsname name;

	(void)words, (void)number;
	if (tell(uname(&name)) == 0)
		add_text("%s", name.nodename);
}

/* Try to write into a program that runs, by the link in /proc. */
static void do_write_exe(char **words, int number)
{
	char path[64];

	(void)number;
	snprintf(path, sizeof path, "/proc/%s/exe", words[1]);
	tell(open(path, O_WRONLY));
}

const struct action special_actions[] = {
	{"clone3", do_clone3},
	{"securebits", do_securebits},
	{"execute_copy", do_execute_copy},
	{"writable", do_writable},
	{"scan", do_scan},
	{"int80", do_int80},
	{"terminal", do_terminal},
	{"connect_unix", do_connect_unix},
	{"fork_many", do_fork_many},
	{"fill", do_fill},
	{"open_many", do_open_many},
	{"raise", do_raise},
	{"core", do_core},
	{"clock", do_clock},
	{"daemon", do_daemon},
	{"ns_parent", do_ns_parent},
	{"realtime", do_realtime},
	{"nice", do_nice},
	{"mq_open", do_mq_open},
	{"ids", do_ids},
	{"write_exe", do_write_exe},
	{"uname", do_uname},
	{"reach", do_reach},
	{"sockets", do_sockets},
	{"ioctl_of", do_ioctl_of},
	{"watch", do_watch},
	{"interfaces", do_interfaces},
	{"use_up", do_use_up},
};
const size_t special_number = sizeof special_actions / sizeof *special_actions;
