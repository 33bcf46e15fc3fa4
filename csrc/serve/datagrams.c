/* Datagrams: each client of them has a sandbox, for as long as it is not idle. udp(7) */
#include "serve.h"

static char datagram[CHUNK];

/* What a sandbox says goes to its client. */
void from_session(int i)
{
	struct place *p = &places[i];
	struct epoll_event e = {0};
	union {
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
	} to = {.in = {.sin_family = p->taken.from[18]}};
	int is6 = p->taken.from[18] == AF_INET6_, n;
	long r;

	copy_bytes(is6 ? (void *)&to.in6.sin6_addr : (void *)&to.in.sin_addr, p->taken.from, is6 ? 16 : 4);
	copy_bytes(&to.in.sin_port, p->taken.from + 16, 2);
	if (is6 && is_link_local(p->taken.from)) {
		copy_bytes(&to.in6.sin6_scope_id, p->taken.from + LINK_AT, 4);
		copy_bytes((uint8_t *)&to.in6.sin6_addr + LINK_AT, "\0\0\0", 4);
	}
	for (n = 0; n < ROUNDS; n++) {
		r = nst_raw6(__NR_recvfrom, p->session, NST_P(datagram), sizeof datagram, 0x40, 0, 0);
		if (r == -EAGAIN || r == -EINTR)
			return;
		if (r < 0) {
			nst_raw4(__NR_epoll_ctl, self.poll, EPOLL_CTL_DEL, p->session, NST_P(&e));
			return;
		}
		if (!p->had++)
			p->byte = note(BYTE, p->taken.at, nst_now());
		nst_raw6(__NR_sendto, self.listeners[p->taken.listener], NST_P(datagram), r, 0x4040, NST_P(&to),
			 is6 ? sizeof to.in6 : sizeof to.in);
		if (p->state == SERVING)
			idle_from(p, nst_now());
	}
}

/* What a client has sent goes to the sandbox that is for it; a client of which nothing is known yet gets one. */
void take_datagram(int listener)
{
	struct taken t = {.client = -1, .listener = listener, .fd = -1};
	union address from = {0};
	uint32_t size = sizeof from;
	enum nst_cause why;
	int pair[2];
	long n = nst_raw6(__NR_recvfrom, self.listeners[listener], NST_P(datagram), sizeof datagram, 0x40, NST_P(&from),
			  NST_P(&size));
	int i;

	if (n < 0)
		return;
	t.at = nst_now();
	t.wall = real_now();
	keep_address(&from, t.from);
	for (i = 0; i < (int)self.orders->n_places; i++) {
		struct place *p = &places[i];

		if (p->state == SERVING && p->session >= 0 && p->taken.listener == listener &&
		    same_key(p->taken.from, t.from)) {
			nst_raw6(__NR_sendto, p->session, NST_P(datagram), n, 0x4040, 0, 0);
			idle_from(p, t.at);
			return;
		}
	}
	self.board->accepted++;
	why = admit(&t);
	if (why == NST_CAUSES && !self.n_free && !self.n_parked)
		why = NST_BUSY;
	if (why == NST_CAUSES && nst_raw4(__NR_socketpair, AF_UNIX_, SOCK_DGRAM_ | O_CLOEXEC, 0, NST_P(pair)) < 0)
		why = NST_BUSY;
	if (why == NST_CAUSES) {
		t.fd = pair[1];
		nst_raw6(__NR_sendto, pair[0], NST_P(datagram), n, 0x4040, 0, 0);
		if (!place_it(&t, &i)) {
			close_fd(&pair[0]);
			close_fd(&t.fd);
			why = NST_BUSY;
		}
	}
	if (why != NST_CAUSES) { /* there is no connection to close: who is refused hears nothing */
		remember(&t, 0, -1, why, 0, NULL);
		forget_client(&t);
		return;
	}
	if (places[i].state != SERVING) { /* it could not be made */
		close_fd(&pair[0]);
		return;
	}
	places[i].session = pair[0];
	idle_from(&places[i], t.at);
	watch(pair[0], SESSION, i, EPOLLIN);
}
