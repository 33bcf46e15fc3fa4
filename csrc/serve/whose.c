/* Whose a connection is, where its address does not tell: of a Unix socket, which the service is asked for, and of a load
 * balancer or TLS terminator, whose header says it. */
#include "serve.h"

enum { HEADER_MS = 5000 }; /* for a header to come */

int asks_for_users(void)
{
	return limits_clients() || self.orders->life == NST_LIFE_CLIENT;
}

/* Ask the service whose connection this is: here, in a user namespace, every user of the host is nobody. */
static void ask_whose(int at)
{
	struct nst_message m = {.type = NST_MSG_WHOSE, .detail = at, .step = self.asking[at].asked};

	if (self.reporter < 0 || send_message(self.reporter, &m, self.asking[at].fd) >= 0)
		return; /* without a service they wait for the next */
	refuse(&self.asking[at], NST_BUSY);
	self.asking[at].fd = -1;
	self.n_asking--;
}

/* A service that has come later has not been asked yet. */
void ask_again(void)
{
	int at;

	for (at = 0; self.n_asking && at < ASKING; at++)
		if (self.asking[at].fd >= 0)
			ask_whose(at);
}

/* Keep a connection until it is told whose it is. Where there is no room the one goes that has waited longest: who is
 * silent keeps nobody out. Its index. */
static int keep(struct taken *room, int size, int *n, struct taken *t)
{
	struct epoll_event e = {0};
	struct taken silent;
	int at, oldest = 0;

	for (at = 0; at < size && room[at].fd >= 0; at++)
		if (room[at].at < room[oldest].at)
			oldest = at;
	if (at < size) {
		++*n;
	} else {
		silent = room[at = oldest];
		nst_raw4(__NR_epoll_ctl, self.poll, EPOLL_CTL_DEL, silent.fd, NST_P(&e));
		refuse(&silent, NST_UNTOLD);
	}
	room[at] = *t;
	return at;
}

/* There is room: has_room(). */
void ask_first(struct taken *t)
{
	t->asked = (int32_t)(++self.asked & INT32_MAX);
	ask_whose(keep(self.asking, ASKING, &self.n_asking, t));
}

/* The answer. */
void is_whose(int at, const struct nst_message *m)
{
	uint32_t uid = (uint32_t)m->status;
	struct taken t;

	if (at < 0 || at >= ASKING || self.asking[at].fd < 0 || self.asking[at].asked != m->step)
		return; /* of one that has gone, by a service that has gone */
	t = self.asking[at];
	self.asking[at].fd = -1;
	self.n_asking--;
	if (m->pid < 0) {
		refuse(&t, NST_BUSY);
		return;
	}
	copy_bytes(t.from, &uid, sizeof uid);
	t.from[NST_HAS_UID] = 1;
	let_in(&t);
}

void drop_header(int at)
{
	struct epoll_event e = {0};

	nst_raw4(__NR_epoll_ctl, self.poll, EPOLL_CTL_DEL, self.headers[at].fd, NST_P(&e)); /* the socket lives on */
	self.headers[at].fd = -1;
	self.n_headers--;
}

/* Whose it is, as the header says. Returns 0 where that is not told. */
static int told_client(const struct nst_proxy *header, uint8_t *ret_from)
{
	union address from = {0};
	uint64_t name[2];

	if (!header->family)
		return 1; /* the balancer's own */
	if (header->family == AF_INET_) {
		from.in.sin_family = AF_INET_;
		copy_bytes(&from.in.sin_addr, header->address, 4);
		copy_bytes(&from.in.sin_port, header->port, 2);
	} else {
		from.in6.sin6_family = AF_INET6_;
		copy_bytes(&from.in6.sin6_addr, header->address, 16);
		copy_bytes(&from.in6.sin6_port, header->port, 2);
	}
	keep_address(&from, ret_from);
	if (self.orders->proxy != NST_PROXIED_NAMES)
		return 1;
	if (!header->name_size)
		return 0;
	name[0] = nst_siphash(self.seed[0], self.seed[1], header->begin + header->name, header->name_size);
	name[1] = nst_siphash(self.seed[1], self.seed[0], header->begin + header->name, header->name_size);
	copy_bytes(ret_from, name, 16);
	ret_from[18] = NST_NAMED;
	return 1;
}

/* Look at the begin of a connection; once its header is whole that is taken out, and the rest is the sandbox's. */
void from_header(int at, int gone)
{
	static uint8_t data[NST_PROXY_MOST];
	struct nst_proxy header;
	struct taken t = self.headers[at];
	long n = nst_raw6(__NR_recvfrom, t.fd, NST_P(data), sizeof data, 0x42 /* MSG_PEEK | MSG_DONTWAIT */, 0, 0);
	int length;

	if (n == -EAGAIN || n == -EINTR)
		return;
	length = n > 0 ? nst_proxy_header(data, (uint32_t)n, &header) : -1;
	if (!length && !gone)
		return;
	drop_header(at);
	if (length > 0)
		n = nst_raw6(__NR_recvfrom, t.fd, NST_P(data), length, 0x40 /* MSG_DONTWAIT */, 0, 0);
	if (length > 0 && n == length && told_client(&header, t.from))
		let_in(&t);
	else
		refuse(&t, NST_UNTOLD);
}

void read_header(struct taken *t)
{
	int at = keep(self.headers, HEADERS, &self.n_headers, t);

	watch(t->fd, HEADER, at, EPOLLIN | EPOLLRDHUP | EPOLLET);
	from_header(at, 0);
}

/* Refuse those whose header has not come. Returns when the next is late; INT64_MAX: none is waited for. */
int64_t headers_on_time(int64_t now)
{
	int64_t next = INT64_MAX;
	int i;

	for (i = 0; self.n_headers && i < HEADERS; i++) {
		struct taken late = self.headers[i];
		int64_t until = late.at + HEADER_MS * 1000000ll;

		if (late.fd < 0)
			continue;
		if (until <= now) {
			drop_header(i);
			refuse(&late, NST_UNTOLD);
		} else if (until < next) {
			next = until;
		}
	}
	return next;
}
