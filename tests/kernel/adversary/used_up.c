/* Take of one thing of the kernel's until it is refused: "use_up WHAT". The value is how many there were. */
#include "probe.h"

#include <arpa/inet.h>
#include <linux/aio_abi.h>
#include <mqueue.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/socket.h>

enum { MOST = 20000, WATCHED = 1024, ROOM = 1 << 20 };

/* Signals that wait: blocked, and with what tells one from the other. */
static long pending(void)
{
	sigset_t one;
	long n = 0;

	sigemptyset(&one);
	sigaddset(&one, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &one, NULL);
	while (n < MOST && sigqueue(getpid(), SIGRTMIN, (union sigval){0}) == 0)
		n++;
	return n;
}

static long instances(void)
{
	long n = 0;

	while (n < MOST && inotify_init1(0) >= 0)
		n++;
	return n;
}

/* Watches of many files by each of few instances. */
static long watches(void)
{
	char path[32] = "";
	long n = 0;
	int fd, error = 0;

	for (int i = 0; i < WATCHED; i++) {
		snprintf(path, sizeof path, "/tmp/watched%d", i);
		close(open(path, O_CREAT | O_WRONLY, 0600));
	}
	while (!error && (fd = inotify_init1(0)) >= 0)
		for (int i = 0; i < WATCHED && !error; i++) {
			snprintf(path, sizeof path, "/tmp/watched%d", i);
			error = inotify_add_watch(fd, path, IN_MODIFY) < 0 ? errno : 0;
			n += !error;
		}
	error = error ? error : errno;
	for (int i = 0; i < WATCHED; i++) {
		snprintf(path, sizeof path, "/tmp/watched%d", i);
		unlink(path);
	}
	errno = error;
	return n;
}

static long terminals(void)
{
	long n = 0;

	while (n < MOST && open("/dev/ptmx", O_RDWR | O_NOCTTY) >= 0)
		n++;
	return n;
}

/* Queues of the usual size. */
static long queues(void)
{
	struct mq_attr usual = {.mq_maxmsg = 10, .mq_msgsize = 8192};
	char name[16];
	long n = 0;
	int error;

	for (; n < MOST; n++) {
		snprintf(name, sizeof name, "/used%ld", n);
		if (mq_open(name, O_CREAT | O_RDWR, 0600, &usual) < 0)
			break;
	}
	error = errno;
	for (long i = 0; i < n; i++) {
		snprintf(name, sizeof name, "/used%ld", i);
		mq_unlink(name);
	}
	errno = error;
	return n;
}

static long requests(void)
{
	aio_context_t one;
	long n = 0;

	while (n < MOST && (one = 0, syscall(SYS_io_setup, 64, &one)) == 0)
		n++;
	return n;
}

/* Bytes that wait in TCP connections, which nobody reads; no more than most. */
static long buffers(long most)
{
	static char block[64 << 10];
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof address;
	int server = socket(AF_INET, SOCK_STREAM, 0), room = ROOM;
	long n = 0, before = -(long)sizeof block;

	if (bind(server, (struct sockaddr *)&address, size) || listen(server, 64) ||
	    getsockname(server, (struct sockaddr *)&address, &size))
		return -1;
	/* Each gets a little in any case: one that takes no more than that is the last. */
	while (n < most && n >= before + (long)sizeof block) {
		int one = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		ssize_t sent;

		before = n;
		setsockopt(one, SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
		connect(one, (struct sockaddr *)&address, size);
		if (accept(server, NULL, NULL) < 0)
			break;
		while (n < most && (sent = send(one, block, sizeof block, MSG_NOSIGNAL)) > 0)
			n += sent;
	}
	return n;
}

void do_use_up(char **words, int number)
{
	static const struct {
		const char *name;
		long (*use)(void);
	} all[] = {{"pending", pending},     {"instances", instances}, {"watches", watches},
		   {"terminals", terminals}, {"queues", queues},       {"requests", requests}};
	struct rlimit limit;
	long n = -1;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	if (number > 2)
		n = buffers(strtol(words[2], NULL, 0));
	for (size_t i = 0; i < sizeof all / sizeof *all; i++)
		if (!strcmp(all[i].name, words[1]))
			n = all[i].use();
	tell(-1);
	answer->value = n;
}
