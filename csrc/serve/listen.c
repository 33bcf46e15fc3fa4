/* Listeners, who is let in, and who waits. */
#include "serve.h"

/* Datagrams are taken where there is no room, too: they may be for a sandbox that there is. */
void listen_to(int on, int room)
{
	int i;

	if (on == self.listening && room == self.has_room)
		return;
	self.listening = on;
	self.has_room = room;
	for (i = 0; i < NST_LISTENERS; i++) {
		struct epoll_event e = {.data = (uint64_t)LISTENER << 32 | (uint32_t)i};

		if (on && (room || self.types[i] == SOCK_DGRAM_))
			e.events = EPOLLIN;
		if (self.listeners[i] >= 0)
			nst_raw4(__NR_epoll_ctl, self.poll, EPOLL_CTL_MOD, self.listeners[i], NST_P(&e));
	}
}

/* Whether another connection may be taken: else it waits in the kernel's backlog. */
int has_room(void)
{
	if (self.n_asking == ASKING || zygote_is_busy())
		return 0;
	return self.n_free + self.n_parked > self.n_waiting || self.orders->queue ||
	       (self.orders->life != NST_LIFE_CONNECTION && self.n_links < LINKS);
}

/* How many may wait here, when this one comes. Without a queue it is those who were taken when there was a place, and had to
 * say first, or the service had to, whose they are. */
static uint32_t most_waiting(const struct taken *t)
{
	if (self.orders->queue)
		return self.orders->queue;
	return self.orders->life == NST_LIFE_CONNECTION && (self.orders->proxy || t->asked) ? WAITING : 0;
}

/* For how long, 0: as long as it takes. */
static int64_t patience(void)
{
	return self.orders->queue ? (int64_t)self.orders->queue_ms * 1000000 : 0;
}

/* Whether sandboxes can be made for who was taken: who is attested waits for who does that. */
static int may_place(void)
{
	return self.reporter >= 0 || !self.orders->attest;
}

/* Let a connection in that was taken, or refuse it. */
void let_in(struct taken *t)
{
	enum nst_cause why = admit(t);

	if (why != NST_CAUSES)
		refuse(t, why);
	else if (self.n_waiting || !may_place() || !place_it(t, NULL)) {
		if ((uint32_t)self.n_waiting >= most_waiting(t))
			refuse(t, NST_BUSY);
		else
			self.waiting[(self.first_waiting + self.n_waiting++) % WAITING] = *t;
	}
}

void take(int listener)
{
	struct taken t = {.client = -1, .listener = listener};
	union address from = {0};
	uint32_t size = sizeof from;
	long fd = nst_raw4(__NR_accept4, self.listeners[listener], NST_P(&from), NST_P(&size), O_CLOEXEC);

	if (fd < 0) {
		/* No file is left: it stays in the backlog, and is not looked at for a while. */
		if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -ENOBUFS) {
			self.pausing = 1;
			self.pause = nst_now() + PAUSE_NS;
		}
		return;
	}
	t.fd = (int)fd;
	t.at = nst_now();
	t.wall = real_now();
	keep_address(&from, t.from);
	self.board->accepted++;
	if (self.orders->proxy)
		read_header(&t);
	else if (from.family == AF_UNIX_ && asks_for_users())
		ask_first(&t);
	else
		let_in(&t);
}

/* Who waits gets a sandbox, or is told that it takes too long, also while none may be made. */
void from_queue(void)
{
	int may = !self.pausing && may_place();
	int64_t now = nst_now();

	while (self.n_waiting) {
		struct taken *t = &self.waiting[self.first_waiting];

		if (patience() && now - t->at > patience())
			refuse(t, NST_WAITED);
		else if (!may || !place_it(t, NULL))
			return;
		self.first_waiting = (self.first_waiting + 1) % WAITING;
		self.n_waiting--;
	}
}

/* When the first of the queue has waited for too long; INT64_MAX: nobody waits, or for as long as it takes. */
int64_t queue_on_time(void)
{
	if (!self.n_waiting || !patience())
		return INT64_MAX;
	return self.waiting[self.first_waiting].at + patience() + 1000000;
}
