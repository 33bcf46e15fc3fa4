/* Network namespaces that are lent to one sandbox after the other. docs/serve.md */
#include "serve.h"

enum { SOCKSTAT = 4 }; /* which of the files has numbers of the whole host */

/* What a network namespace tells of its use: traffic, sockets, errors, and the labels that outlive their socket. */
static const char told[TOLD][32] = {
	"/proc/self/net/dev",	   "/proc/self/net/snmp",      "/proc/self/net/snmp6",	      "/proc/self/net/netstat",
	"/proc/self/net/sockstat", "/proc/self/net/sockstat6", "/proc/self/net/ip6_flowlabel"};

static int is_word(const char *word, long size, const char *wanted)
{
	long i;

	for (i = 0; i < size && wanted[i]; i++)
		if (word[i] != wanted[i])
			return 0;
	return i == size && !wanted[i];
}

/* Whether the number behind this word in sockstat is of the whole host. */
static int is_hosts(const char *word, long size)
{
	return is_word(word, size, "orphan") || is_word(word, size, "alloc") || is_word(word, size, "mem");
}

static uint64_t hash_words(uint64_t h, const char *text, long size)
{
	long at = 0, begin;
	int skip = 0;

	while (at < size) {
		while (at < size && (text[at] == ' ' || text[at] == '\n'))
			at++;
		begin = at;
		while (at < size && text[at] != ' ' && text[at] != '\n') {
			if (!skip)
				h = (h ^ (uint8_t)text[at]) * 0x100000001b3ull;
			at++;
		}
		h = h * 31 + 1;
		skip = is_hosts(text + begin, at - begin);
	}
	return h;
}

/* The same of text that is all of the namespace: eight bytes at a time. */
static uint64_t hash_text(uint64_t h, const char *text, long size)
{
	const uint64_t *words = (const uint64_t *)text;
	long i;

	for (i = 0; i < size / 8; i++)
		h = (h ^ words[i]) * 0x9e3779b97f4a7c15ull, h ^= h >> 29;
	return hash_words(h, text + size / 8 * 8, size % 8);
}

/* Open what tells of the network namespace that this process is in. */
static int open_told(struct place *p)
{
	int i;

	for (i = 0; i < TOLD; i++) {
		long fd = nst_raw4(__NR_openat, AT_FDCWD, NST_P(told[i]), O_RDONLY | O_CLOEXEC, 0);

		p->told[i] = (int)fd;
		if (fd < 0 && fd != -ENOENT) /* a kernel without IPv6 */
			return -1;
	}
	return 0;
}

static void drop_lease(struct place *p)
{
	int i;

	for (i = 0; i < TOLD; i++)
		close_fd(&p->told[i]);
	close_fd(&p->lease);
}

/* How the network namespace of a place has been used, as one number; 0: that cannot be told. */
static uint64_t look_of_net(const struct place *p)
{
	static char text[CHUNK] __attribute__((aligned(8)));
	uint64_t h = self.seed[0]; /* of ours: nobody uses it in two ways that look alike */
	int i;

	for (i = 0; i < TOLD; i++) {
		long n;

		if (p->told[i] < 0)
			continue;
		n = nst_raw4(__NR_pread64, p->told[i], NST_P(text), sizeof text, 0); /* each is less than that */
		if (n <= 0 || n == (long)sizeof text)
			return 0;
		h = i == SOCKSTAT ? hash_words(h, text, n) : hash_text(h, text, n);
	}
	return h ? h : 1;
}

void go_home(void)
{
	if (nst_raw2(__NR_setns, self.own_net, CLONE_NEWNET) < 0)
		nst_leave(125); /* nothing can be relied on any more */
}

static long lo_up(void)
{
	struct {
		char name[16];
		uint16_t flags;
		char rest[22];
	} request = {.name = "lo", .flags = 1 /* IFF_UP */};
	long fd = nst_raw3(__NR_socket, AF_INET_, SOCK_DGRAM_ | O_CLOEXEC, 0), r;

	if (fd < 0)
		return fd;
	r = nst_raw3(__NR_ioctl, fd, 0x8914 /* SIOCSIFFLAGS */, NST_P(&request));
	nst_raw1(__NR_close, fd);
	return r;
}

/* Make a network namespace to be lent to place i, if it has none. This process stays at home. 0 or -errno. */
long make_lease(int i)
{
	struct place *p = &places[i];
	long r;

	if (p->lease >= 0)
		return 0;
	p->clean = 0;
	r = nst_raw1(__NR_unshare, CLONE_NEWNET);
	if (r < 0)
		return r;
	r = lo_up();
	if (r >= 0)
		r = p->lease =
			(int)nst_raw4(__NR_openat, AT_FDCWD, NST_P("/proc/self/ns/net"), O_RDONLY | O_CLOEXEC, 0);
	if (r >= 0 && open_told(p) == 0)
		p->clean = look_of_net(p);
	go_home();
	if (r >= 0)
		self.board->nets++;
	return r < 0 ? r : 0;
}

/* Its sandbox is wholly gone: keep its network namespace for the next only if it is as if nobody had been there. */
void check_lease(int i)
{
	struct place *p = &places[i];

	if (p->lease < 0)
		return;
	if (!p->clean || look_of_net(p) != p->clean)
		drop_lease(p);
}
