/* Who is refused, and told why. */
#include "serve.h"

enum { LINGER_NS = 1000000000, LINGER_BYTES = 1 << 20 };

static void let_go(int i)
{
	close_fd(&self.lingering[i].fd);
}

/* Say why, if there is something to say, and close: a close with something unread would take the words back. */
void refuse(struct taken *t, enum nst_cause cause)
{
	const struct nst_service *o = self.orders;
	int i;

	remember(t, 0, -1, cause, 0, NULL);
	forget_client(t);
	if (o->busy_size) {
		nst_raw6(__NR_sendto, t->fd, NST_P((const char *)o + o->busy), o->busy_size, 0x4040, 0, 0);
		nst_raw2(__NR_shutdown, t->fd, 1 /* SHUT_WR */);
		for (i = 0; i < LINGERING; i++)
			if (self.lingering[i].fd < 0) {
				self.lingering[i].fd = t->fd;
				self.lingering[i].until = nst_now() + LINGER_NS;
				self.lingering[i].left = LINGER_BYTES;
				watch(t->fd, LINGER, i, EPOLLIN | EPOLLRDHUP);
				return;
			}
	}
	close_fd(&t->fd);
}

/* Read some of what a refused client says: not so much at once, or in all, that others wait for it. */
void drain(int i)
{
	static char buffer[CHUNK];
	long n = nst_raw6(__NR_recvfrom, self.lingering[i].fd, NST_P(buffer), sizeof buffer, 0x40, 0, 0);

	if (n == -EAGAIN || n == -EINTR)
		return;
	self.lingering[i].left -= (int)n;
	if (n <= 0 || self.lingering[i].left <= 0)
		let_go(i);
}

/* Refuse all who were taken and have no sandbox yet. */
void refuse_all(void)
{
	int at;

	for (; self.n_waiting; self.n_waiting--) {
		refuse(&self.waiting[self.first_waiting], NST_BUSY);
		self.first_waiting = (self.first_waiting + 1) % WAITING;
	}
	for (at = 0; self.n_asking && at < ASKING; at++)
		if (self.asking[at].fd >= 0) {
			refuse(&self.asking[at], NST_BUSY);
			self.asking[at].fd = -1;
			self.n_asking--;
		}
	for (at = 0; self.n_headers && at < HEADERS; at++)
		if (self.headers[at].fd >= 0) {
			struct taken t = self.headers[at];

			drop_header(at);
			refuse(&t, NST_BUSY);
		}
}

/* Let those go that have had their time. Returns when the next one has; INT64_MAX: there is none. */
int64_t lingering_on_time(int64_t now)
{
	int64_t next = INT64_MAX;
	int i;

	for (i = 0; i < LINGERING; i++) {
		if (self.lingering[i].fd < 0)
			continue;
		if (self.lingering[i].until <= now)
			let_go(i);
		else if (self.lingering[i].until < next)
			next = self.lingering[i].until;
	}
	return next;
}
