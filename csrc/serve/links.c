/* Connections that are relayed to the port on which a command listens in its sandbox. splice(2) */
#include "serve.h"

enum {
	NO_PLACE = -2,
	REFILL_NS = 5000000, /* of a bucket that was empty */
	TRY_NS = 1000000,    /* between two tries to connect to a command that does not listen yet */
};

/* A bucket that is full has what is relayed in an eighth of a second, at least a chunk. */
int64_t most_bytes(void)
{
	int64_t most = (int64_t)self.orders->bandwidth << 7;

	return most > CHUNK ? most : CHUNK;
}

static void close_way(struct way *w)
{
	close_fd(&w->pipe[0]);
	close_fd(&w->pipe[1]);
}

/* A place that nobody is connected to any more: what its life is then. */
void left_alone(int i)
{
	const struct nst_service *o = self.orders;
	struct place *p = &places[i];

	if (p->state != SERVING)
		return;
	if (o->life == NST_LIFE_CONNECTION || self.draining || (o->most && p->had >= o->most)) {
		p->idle = 1;
		send_signal(p, SIGKILL);
		p->state = ENDING;
		show(i);
	} else if (o->idle_ms && o->life == NST_LIFE_CLIENT) {
		idle_from(p, nst_now());
		p->idle = 1;
	}
}

static void close_link(int at)
{
	struct link *l = &self.links[at];
	int i = l->place;

	if (i < 0)
		return;
	l->place = -1;
	self.n_links--;
	close_fd(&l->inner);
	close_way(&l->up);
	close_way(&l->down);
	close_fd(&l->taken.fd);
	forget_client(&l->taken);
	if (--places[i].users == 0)
		left_alone(i);
}

void close_links_of(int i)
{
	int at;

	for (at = 0; self.n_links && at < LINKS; at++)
		if (self.links[at].place == i)
			close_link(at);
}

/* How many bytes may be relayed now. */
static int64_t fill(struct bucket *b, int64_t now)
{
	int64_t rate = (int64_t)self.orders->bandwidth << 10, since = now - b->at, gained;

	if (!rate)
		return CHUNK;
	if (since > 1000000000)
		since = 1000000000;
	gained = since * rate / 1000000000; /* both products are below 2^63: NST_BANDWIDTH */
	b->at = since < 1000000000 ? b->at + gained * 1000000000 / rate : now;
	b->bytes = b->bytes + gained < most_bytes() ? b->bytes + gained : most_bytes();
	return b->bytes;
}

/* Move what there is from one socket to the other, no more than the bucket has. Returns whether there may be more, -1 when
 * one of them is broken. */
static int move(struct way *w, int from, int to, struct bucket *b, int64_t now)
{
	int64_t room = fill(b, now);
	int moved = 0;
	long n;

	if (room > CHUNK - w->held)
		room = CHUNK - w->held;
	if (!w->ended && room > 0) {
		/* SPLICE_F_MOVE | SPLICE_F_NONBLOCK */
		n = nst_raw6(__NR_splice, from, 0, w->pipe[1], 0, room, 3);
		if (n == 0)
			w->ended = 1;
		else if (n > 0)
			w->held += (int)n, b->bytes -= n, moved = 1;
		else if (n != -EAGAIN && n != -EINTR)
			return -1;
	}
	if (w->held) {
		n = nst_raw6(__NR_splice, w->pipe[0], 0, to, 0, w->held, 3);
		if (n > 0)
			w->held -= (int)n, moved = 1;
		else if (n != -EAGAIN && n != -EINTR)
			return -1;
	}
	if (w->ended == 1 && !w->held) {
		nst_raw2(__NR_shutdown, to, 1 /* SHUT_WR */);
		w->ended = 2;
	}
	return moved;
}

void pump(int at)
{
	struct link *l = &self.links[at];
	struct place *of = &places[l->place];
	int64_t now = nst_now();
	int round, up = 1, down = 1;

	l->again = 0;
	l->waits = of->resume > now; /* for its turn, whatever comes meanwhile */
	if (l->waits)
		return;
	for (round = 0; (up > 0 || down > 0) && round < ROUNDS; round++) {
		up = move(&l->up, l->taken.fd, l->inner, &of->to, now);
		down = move(&l->down, l->inner, l->taken.fd, &of->from, now);
		if (up < 0 || down < 0 || (l->up.ended == 2 && l->down.ended == 2)) {
			close_link(at);
			return;
		}
		if (down > 0 && l->tries >= 0) { /* its first byte */
			uint32_t us = note(BYTE, l->taken.at, nst_now());

			if (!of->byte)
				of->byte = us; /* of the first connection of a life, as its other times are */
			l->tries = -1;
		}
	}
	l->waits = self.orders->bandwidth && (of->to.bytes <= 0 || of->from.bytes <= 0);
	l->again = !l->waits && (up > 0 || down > 0);
	if (l->waits)
		of->resume = now + REFILL_NS + 1000000000 / self.orders->bandwidth; /* for no less than a KiB */
}

/* Links that had their turn and were not done. */
void pump_again(void)
{
	int at;

	for (at = 0; self.n_links && at < LINKS; at++)
		if (self.links[at].place >= 0 && self.links[at].again)
			pump(at);
}

/* "/proc/PID/ns/net" of a process that the template knows by this pid. */
static long open_net(int pid)
{
	char path[32] = "/proc/", digits[12], *end = path + 6;
	const char *parts[] = {nst_put_number(digits + sizeof digits, (unsigned int)pid), "/ns/net"};
	size_t k;

	for (k = 0; k < sizeof parts / sizeof *parts; k++)
		for (const char *c = parts[k]; *c; c++)
			*end++ = *c;
	*end = 0;
	return nst_raw4(__NR_openat, AT_FDCWD, NST_P(path), O_RDONLY | O_CLOEXEC, 0);
}

/* A socket of the network namespace of place i, connected to where its command listens. Returns the fd or -errno. */
static long connect_inside(int i)
{
	struct place *p = &places[i];
	struct sockaddr_in in = {.sin_family = AF_INET_, .sin_port = (uint16_t)(p->port >> 8 | (p->port & 0xff) << 8)};
	long fd, r;

	copy_bytes(&in.sin_addr, p->address, sizeof p->address);
	if (p->net < 0)
		p->net = (int)open_net(p->pid);
	if (p->net < 0)
		return p->net;
	r = nst_raw2(__NR_setns, p->net, CLONE_NEWNET);
	if (r < 0)
		return r;
	fd = nst_raw3(__NR_socket, AF_INET_, SOCK_STREAM_ | O_CLOEXEC | NONBLOCKING, 0);
	go_home();
	if (fd < 0)
		return fd;
	r = nst_raw3(__NR_connect, fd, NST_P(&in), sizeof in);
	if (r == -EINPROGRESS) { /* over a loopback it is decided at once, but where the command's backlog is full */
		struct pollfd p = {(int)fd, POLLOUT, 0};
		struct __kernel_timespec none = {0};

		nst_raw5(__NR_ppoll, NST_P(&p), 1, NST_P(&none), 0, 8);
		r = p.revents == POLLOUT ? 0 : -ECONNREFUSED;
	}
	if (r < 0) {
		nst_raw1(__NR_close, fd);
		return r;
	}
	return fd;
}

/* Try to connect a link; once it is connected data flows. */
static void try_link(int at)
{
	struct link *l = &self.links[at];
	int i = l->place;
	int64_t now = nst_now();
	long fd = connect_inside(i);

	if (fd >= 0) {
		l->inner = (int)fd;
		watch(l->inner, LINK, at, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
		watch(l->taken.fd, LINK, at, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
		pump(at);
	} else if (now >= l->until) {
		/* Where others are connected it listens: this one it did not take. Another error is not the command's. */
		places[i].deaf = fd == -ECONNREFUSED && places[i].users == 1;
		close_link(at);
		if (places[i].state == SERVING && places[i].deaf)
			end_place(i, SIGKILL);
	} else {
		l->next = now + ((int64_t)TRY_NS << (l->tries < 5 ? l->tries : 5));
		l->tries++;
	}
}

static int free_link(void)
{
	int n;

	for (n = 0; n < LINKS; n++) {
		int at = (self.first_link + n) % LINKS;

		if (self.links[at].place < 0) {
			self.first_link = (at + 1) % LINKS;
			return at;
		}
	}
	return -1;
}

/* The place whose life this connection belongs to, -1: none has begun. */
static int find_life(const struct taken *t)
{
	const struct nst_service *o = self.orders;
	uint8_t key[NST_CLIENT];
	int i;

	if (o->life == NST_LIFE_CONNECTION || (o->life == NST_LIFE_CLIENT && !client_key(t->from, key)))
		return -1;
	for (i = 0; i < (int)o->n_places; i++) {
		const struct place *p = &places[i];

		if (p->state != SERVING || p->stopped || (o->most && p->had >= o->most))
			continue;
		if (o->life == NST_LIFE_SHARED || (p->has_key && same_key(p->key, key)))
			return i;
	}
	return -1;
}

/* A place whose command runs, for the first connection of a life; NO_PLACE, or -1: it was refused, and that was told. */
static int begin_life(struct taken *t)
{
	int i = take_parked();

	if (i < 0 && !self.n_free)
		return NO_PLACE;
	if (i < 0) {
		i = take_place();
		if (start(i, NULL, (int)self.orders->attest) < 0) {
			no_start(t, i);
			forget_client(t);
			free_place(i);
			close_fd(&t->fd);
			return -1;
		}
	}
	assigned(i, t);
	places[i].taken.client = -1; /* the link's, not the life's */
	places[i].has_key = client_key(t->from, places[i].key);
	return i;
}

/* Relay a connection to the port of a command: of a sandbox that serves already, or one of its own. */
int link_it(struct taken *t)
{
	int at = self.n_links < LINKS ? free_link() : -1, i = find_life(t);
	struct place *p;
	struct link *l;
	long flags;

	if (at < 0)
		return 0;
	if (i < 0)
		i = begin_life(t);
	if (i < 0)
		return i != NO_PLACE;
	p = &places[i];
	l = &self.links[at];
	*l = (struct link){.place = i, .inner = -1, .taken = *t, .up.pipe = {-1, -1}, .down.pipe = {-1, -1}};
	self.n_links++;
	p->users++;
	p->had++;
	if (p->idle) {
		p->idle = 0;
		p->deadline = p->wall;
	}
	flags = nst_raw3(__NR_fcntl, t->fd, F_GETFL, 0);
	nst_raw3(__NR_fcntl, t->fd, F_SETFL, flags | NONBLOCKING);
	t->fd = -1;
	if (nst_raw2(__NR_pipe2, NST_P(l->up.pipe), O_CLOEXEC | NONBLOCKING) < 0 ||
	    nst_raw2(__NR_pipe2, NST_P(l->down.pipe), O_CLOEXEC | NONBLOCKING) < 0) {
		close_link(at);
		return 1;
	}
	l->until = nst_now() + (int64_t)self.orders->start_ms * 1000000;
	try_link(at);
	return 1;
}

/* Let the links of a place go on that have waited for it, each time another of them first. */
static void resume(int i)
{
	struct place *p = &places[i];
	int n, at, left = p->users, first = p->first_link;

	p->resume = 0;
	for (n = 0; left > 0 && n < LINKS; n++) {
		at = (first + n) % LINKS;
		if (self.links[at].place != i)
			continue;
		left--;
		if (!self.links[at].waits)
			continue;
		if (p->first_link == first)
			p->first_link = (at + 1) % LINKS;
		pump(at);
	}
}

/* Go on with those that have waited long enough. Returns when the next one has; INT64_MAX: none waits. */
int64_t links_on_time(int64_t now)
{
	int64_t next = INT64_MAX;
	int i;

	for (i = 0; self.orders->bandwidth && i < (int)self.orders->n_places; i++) {
		if (places[i].resume && places[i].resume <= now)
			resume(i);
		if (places[i].resume && places[i].resume < next)
			next = places[i].resume;
	}
	for (i = 0; self.n_links && i < LINKS; i++) {
		struct link *l = &self.links[i];

		if (l->place < 0)
			continue;
		if (l->again)
			next = now;
		else if (l->inner < 0 && l->next <= now)
			try_link(i);
		if (l->place >= 0 && l->inner < 0 && l->next < next)
			next = l->next;
	}
	return next;
}
