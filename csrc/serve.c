/* A template: PID 1 of a sandbox that is all made but for a command. It takes connections and makes a sandbox in itself
 * for each: a copy or a thread of this process, cloned into namespaces of its own, runs the steps that are left. Raw
 * system calls only. docs/adr/0017 */
#include "nstool.h"

#include <asm/poll.h>
#include <asm/signal.h>
#include <linux/errno.h>
#include <linux/eventpoll.h>
#include <linux/fcntl.h>
#include <linux/in6.h>
#include <linux/in.h>
#include <linux/mman.h>
#include <linux/sched.h>
#include <linux/signalfd.h>
#include <linux/time_types.h>
#include <linux/un.h>

#include "raw.h"

enum {
	PEERS = 8,	/* services that have the door open at once */
	WAITING = 4096, /* longest queue */
	LINGERING = 64, /* refused connections that are told why */
	LINGER_NS = 1000000000,
	REFILL_NS = 5000000,  /* of a bucket that was empty */
	PAUSE_NS = 100000000, /* after what was refused, or has ended at once */
	CLIENTS = 4096,	      /* that are known at once; a power of two */
	PROBES = 16,
	EVENTS = 64,
	FDS = 16,  /* that come with one message */
	PARKS = 2, /* sandboxes that are parked between two looks at what is new */
	AF_UNIX_ = 1,
	AF_INET_ = 2,
	AF_INET6_ = 10,
	SOCK_STREAM_ = 1,
	SOCK_DGRAM_ = 2,
	SOCK_SEQPACKET_ = 5,
	LINKS = 4096,	  /* relayed connections at once */
	CHUNK = 64 << 10, /* bytes that one way of a link holds, pipe(7) */
	ROUNDS = 16,	  /* of a link before others have their turn */
	TRY_NS = 1000000, /* between two tries to connect to a command that does not listen yet */
	FILES = 65536,
	LOST = 256,
	ASKING = 256,	     /* connections whose user the service is asked for, at once */
	HEADERS = 256,	     /* whose PROXY header has not come yet */
	HEADER_MS = 5000,    /* for that */
	NONBLOCKING = 04000, /* SOCK_NONBLOCK */
	SOL_SOCKET_ = 1,
	WALL_ = 0x40000000,
};

enum { TOLD = 7, SOCKSTAT = 4 }; /* files that tell how a network namespace was used */
enum { ASKED = -1 };		 /* pid of a place whose process the zygote is to make */
enum state { EMPTY, PARKED, SERVING, ENDING };
enum stage { WAITED, FIRST, EXECUTED, BYTE, GONE };
/* What an fd is, in the upper half of what epoll gives back. */
enum kind { SIGNALS, DOOR, PEER, LISTENER, PLACE, LINGER, LINK, SESSION, ZYGOTE, HEADER };

struct client {
	uint8_t key[NST_CLIENT];
	uint32_t live;
	int64_t at;	/* when tokens were counted */
	int64_t tokens; /* of a thousandth each */
	int used;
};

/* A connection that was taken. */
struct taken {
	int fd;
	int listener;
	int64_t at;	/* CLOCK_MONOTONIC */
	int64_t wall;	/* CLOCK_REALTIME */
	int32_t client; /* index, or -1 */
	uint8_t from[NST_CLIENT];
};

/* One direction of a relayed connection: what was read and is not written yet is in the pipe. */
struct way {
	int pipe[2];
	int held;  /* bytes */
	int ended; /* nothing more comes; 2: and that was told */
};

/* What may be relayed one way, to or from a sandbox. */
struct bucket {
	int64_t bytes; /* at once */
	int64_t at;
};

/* A connection that is relayed to the port of a command. */
struct link {
	int place;	     /* -1: not in use */
	int inner;	     /* -1: not connected yet */
	int tries;	     /* -1: its first byte has come */
	int again;	     /* it had its turn and was not done */
	int64_t resume;	     /* when its sandbox may have more again; 0: now */
	int64_t next, until; /* of the tries */
	struct way up, down;
	struct taken taken;
};

struct place {
	enum state state;
	int pid;
	int control; /* -1: none */
	int has_fds;
	int log;     /* where standard error goes */
	int stopped; /* it was told to end */
	int overran;
	int64_t deadline; /* of what comes next: SIGTERM, SIGKILL; 0: none */
	int64_t wall;	  /* when its life has been long enough, whatever else is; 0: never */
	int32_t fds[NST_PLACE_FDS];
	uint64_t life;
	uint32_t turn;
	uint8_t *plan;
	uint8_t *stack;
	struct nst_share *share;
	void *scratch;
	struct taken taken;
	int lease;	/* a network namespace that is lent to its sandboxes, one after the other; -1: none */
	int told[TOLD]; /* its files that tell how it was used, -1: not there */
	uint64_t clean; /* how that looks when nobody has used it */
	int net;	/* its network namespace, -1: not opened */
	int killed;	/* the signal for one that is on its way; 0: none */
	int session;	/* our end of the socket of a datagram client, -1: none */
	int users;	/* connections that are relayed to it */
	uint32_t had;	/* so many it has had */
	int idle;	/* it ends for lack of users */
	int deaf;	/* it ends because it does not listen */
	int ready;	/* it waits to be attested */
	int has_key;
	struct bucket to, from; /* its command */
	uint8_t key[NST_CLIENT];
	uint32_t waited, byte; /* microseconds of its connection, to here and to its first byte */
	struct nst_copy copy;
	int32_t slots[NST_MAX_SLOTS];
	/* Where its command listens, and what each source gave its last life, and 1; 0: nothing. */
	uint8_t address[4];
	uint16_t port;
	uint64_t last[NST_SOURCES];
};

/* The one state of this process. */
static struct {
	int poll, signals, door, null, log_end, board_fd; /* log_end: that nobody who writes there is alone */
	int peers[PEERS];
	int owner;    /* the peer that has said to accept, or -1 */
	int reporter; /* the peer that is told of what happens: the last that has asked for more than an end */
	const struct nst_service *orders;
	struct nst_board *board;
	uint64_t scratch_size;
	int listeners[NST_LISTENERS];
	int listening;				  /* they are being looked at: those of datagrams, */
	int has_room;				  /* and those of connections */
	int free[NST_PLACES], n_free, first_free; /* a ring: the place that was left longest ago comes first */
	int parked[NST_PLACES], n_parked, first_parked;
	int clone_at;	       /* the step */
	struct taken *waiting; /* a ring */
	int n_waiting, first_waiting;
	struct {
		int fd;
		int64_t until;
	} lingering[LINGERING];
	struct client *clients;
	uint64_t seed[2];
	int zygote, zygote_pid; /* its socket; -1: there is none */
	struct {
		int pid, status;
	} lost[LOST]; /* children that have ended and are of no place yet */
	uint32_t n_lost;
	struct link *links;
	uint32_t first_pumped;
	int first_link, n_links; /* where to look for one that is not in use; those that are */
	int own_net;
	int plans; /* the memory that is shared with the sandboxes */
	int types[NST_LISTENERS];
	struct taken asking[ASKING]; /* fd -1: not in use */
	int n_asking;
	struct taken headers[HEADERS]; /* the same */
	int n_headers;
	int draining; /* it was told to take no more */
	int pausing;  /* a clone was refused: until then no other is tried */
	int64_t pause;
	/* Sandboxes enter a time namespace; what each source has given the last of all of them, as in struct place. */
	int own_clock;
	uint64_t last[NST_SOURCES];
} self;

static struct place *places;

static void *map(uint64_t size, int fd, int flags)
{
	long p =
		nst_raw6(__NR_mmap, 0, (long)size, PROT_READ | PROT_WRITE, flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	return p < 0 && p > -4096 ? NULL : (void *)p;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		nst_raw1(__NR_close, *fd);
	*fd = -1;
}

static int64_t real_now(void)
{
	struct __kernel_timespec t = {0};

	nst_raw2(__NR_clock_gettime, 0 /* CLOCK_REALTIME */, NST_P(&t));
	return t.tv_sec * 1000000000 + t.tv_nsec;
}

static void copy_bytes(void *to, const void *from, uint64_t n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static void watch(int fd, enum kind kind, int index, uint32_t events)
{
	struct epoll_event e = {.events = events, .data = (uint64_t)kind << 32 | (uint32_t)index};

	nst_raw4(__NR_epoll_ctl, self.poll, EPOLL_CTL_ADD, fd, NST_P(&e));
}

/* ---- telling the service ---- */

/* A message with fds, as sendmsg(2), recvmsg(2) and cmsg(3) have it. */
struct letter {
	struct {
		uint64_t len;
		int32_t level, type;
		int32_t fds[FDS];
	} passed;
	struct {
		void *base;
		uint64_t len;
	} bytes;
	struct {
		void *name;
		uint32_t namelen;
		void *iov;
		uint64_t iovlen;
		void *control;
		uint64_t controllen;
		uint32_t flags;
	} head;
};

enum { PASSED_AT = 16, SCM_RIGHTS_ = 1 };

static void put_letter(struct letter *l, struct nst_message *m, uint64_t passed)
{
	l->bytes.base = m;
	l->bytes.len = sizeof *m;
	l->head.name = NULL;
	l->head.namelen = 0;
	l->head.iov = &l->bytes;
	l->head.iovlen = 1;
	l->head.control = passed ? &l->passed : NULL;
	l->head.controllen = passed;
	l->head.flags = 0;
}

/* Send a message with n fds. Who does not read misses something, and holds nobody up. 0 or -errno. */
static long send_fds(int fd, struct nst_message *m, const int32_t *fds, int n)
{
	struct letter l;
	long r;
	int i;

	if (n > FDS)
		return -EINVAL;
	l.passed.len = PASSED_AT + 4 * (uint64_t)n;
	l.passed.level = SOL_SOCKET_;
	l.passed.type = SCM_RIGHTS_;
	for (i = 0; i < n; i++)
		l.passed.fds[i] = fds[i];
	put_letter(&l, m, n ? l.passed.len : 0);
	do
		r = nst_raw3(__NR_sendmsg, fd, NST_P(&l.head), 0x4040 /* MSG_NOSIGNAL | MSG_DONTWAIT */);
	while (r == -EINTR);
	return r < 0 ? r : 0;
}

/* Receive a message, with its fds in ret_fds. Returns its bytes, 0 at the end, or -errno. */
static long receive_fds(int fd, struct nst_message *ret, int32_t *ret_fds, int *ret_n)
{
	struct letter l;
	long r;

	put_letter(&l, ret, sizeof l.passed);
	/* MSG_CMSG_CLOEXEC | MSG_DONTWAIT */
	r = nst_raw3(__NR_recvmsg, fd, NST_P(&l.head), 0x40000040);
	*ret_n = 0;
	if (r > 0 && l.head.controllen > PASSED_AT && l.passed.type == SCM_RIGHTS_)
		for (; *ret_n < (int)((l.passed.len - PASSED_AT) / 4); ++*ret_n)
			ret_fds[*ret_n] = l.passed.fds[*ret_n];
	return r;
}

static long send_message(int fd, struct nst_message *m, int passed)
{
	return send_fds(fd, m, &passed, passed >= 0);
}

/* 0 or -errno: nobody reads, or not fast enough. */
static long tell_reporter(struct nst_message *m)
{
	return self.reporter >= 0 ? send_message(self.reporter, m, -1) : -EPIPE;
}

/* ---- the board ---- */

/* Microseconds to a bucket: 0 to 7 one each, then four to a doubling. */
static unsigned int bucket(uint64_t us)
{
	unsigned int log, b;

	if (us < 8)
		return (unsigned int)us;
	log = 63u - (unsigned int)__builtin_clzll(us);
	b = (log - 1) * 4 + (unsigned int)(us >> (log - 2) & 3);
	return b < NST_BUCKETS ? b : NST_BUCKETS - 1;
}

static uint32_t note(enum stage stage, int64_t from, int64_t to)
{
	uint64_t us = to > from ? (uint64_t)(to - from) / 1000 : 0;

	if (!to)
		return 0; /* it ended before that */
	self.board->sums[stage] += us;
	self.board->buckets[stage][bucket(us)]++;
	return us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

static void show(int i)
{
	struct place *p = &places[i];
	struct nst_place_view *v = &self.board->places[i];

	v->state = (uint32_t)p->state;
	v->pid = p->pid;
	v->life = p->life;
	v->turn = p->turn;
	v->since = p->state == SERVING || p->state == ENDING ? p->taken.wall : 0;
	copy_bytes(v->client, p->taken.from, NST_CLIENT);
}

static void show_counts(void)
{
	struct nst_board *b = self.board;

	b->accepting = (uint32_t)self.listening;
	b->queued = (uint32_t)(self.n_waiting + self.n_asking + self.n_headers);
	b->parked = (uint32_t)self.n_parked;
	b->live = self.orders->n_places - (uint32_t)self.n_free - (uint32_t)self.n_parked;
}

static void remember(const struct taken *t, uint64_t life, int place, enum nst_cause cause, int status,
		     const uint32_t *microseconds)
{
	struct nst_board *b = self.board;
	struct nst_end *e = &b->ends[b->n_ends % NST_ENDS];
	int i;

	b->causes[cause]++;
	e->life = life;
	e->begin = t->wall;
	e->end = real_now();
	e->place = (uint32_t)place;
	e->cause = cause;
	e->status = status;
	e->listener = (uint32_t)t->listener;
	copy_bytes(e->client, t->from, NST_CLIENT);
	for (i = 0; i < NST_STAGES - 1; i++)
		e->microseconds[i] = microseconds ? microseconds[i] : 0;
	__atomic_store_n(&b->n_ends, b->n_ends + 1, __ATOMIC_RELEASE);
}

/* ---- clients ---- */

static int limits_clients(void)
{
	return self.orders->client_most || self.orders->client_rate;
}

/* The address of a client without what its prefix leaves out, or its user. Returns 0 where there is none. */
static int client_key(const uint8_t *from, uint8_t *ret_key)
{
	unsigned int bits = from[18] == AF_INET_ ? self.orders->prefix4 : self.orders->prefix6, i;

	if (from[18] == NST_NAMED || (from[18] == AF_UNIX_ && from[NST_HAS_UID]))
		bits = 128;
	else if (from[18] != AF_INET_ && from[18] != AF_INET6_)
		return 0;
	for (i = 0; i < NST_CLIENT; i++)
		ret_key[i] = 0;
	for (i = 0; i < 16; i++) {
		unsigned int left = bits > 8 * i ? bits - 8 * i : 0;

		ret_key[i] = (uint8_t)(from[i] & (left >= 8 ? 0xff : 0xff00 >> left));
	}
	ret_key[18] = from[18];
	return 1;
}

static uint32_t hash(const uint8_t *key)
{
	uint64_t h = self.seed[0]; /* of ours: nobody chooses addresses that meet */
	int i;

	for (i = 0; i < NST_CLIENT; i++)
		h = (h ^ key[i]) * 0x100000001b3ull + self.seed[1];
	return (uint32_t)(h ^ h >> 32);
}

static int same_key(const uint8_t *a, const uint8_t *b)
{
	int i;

	for (i = 0; i < NST_CLIENT; i++)
		if (a[i] != b[i])
			return 0;
	return 1;
}

/* The client of this address; one that has nothing live gives its place away. -1: none, all those met are live. */
static int find_client(const uint8_t *key, int64_t now)
{
	uint32_t h = hash(key);
	int best = -1, i;

	for (i = 0; i < PROBES; i++) {
		int at = (int)((h + (uint32_t)i) & (CLIENTS - 1));
		struct client *c = &self.clients[at];

		if (c->used && same_key(c->key, key))
			return at;
		if (!c->live && (best < 0 || !c->used || (self.clients[best].used && c->at < self.clients[best].at)))
			best = at;
	}
	if (best < 0)
		return -1;
	copy_bytes(self.clients[best].key, key, NST_CLIENT);
	self.clients[best].used = 1;
	self.clients[best].live = 0;
	self.clients[best].at = now;
	self.clients[best].tokens = (int64_t)self.orders->client_burst * 1000;
	return best;
}

/* Whether this client may have one more: NST_CAUSES, or why not. */
static enum nst_cause admit(struct taken *t)
{
	uint8_t key[NST_CLIENT];
	struct client *c;
	int64_t most = (int64_t)self.orders->client_burst * 1000, since, gained;

	t->client = -1;
	if (!limits_clients() || !client_key(t->from, key))
		return NST_CAUSES;
	t->client = find_client(key, t->at);
	if (t->client < 0)
		return NST_MANY;
	c = &self.clients[t->client];
	if (self.orders->client_rate) {
		since = (t->at - c->at) / 1000000; /* ms; a rate is of 1000 s: a thousandth of a token each ms */
		gained = since > 1000000 ? most : since * (int64_t)self.orders->client_rate / 1000;
		if (gained > 0) { /* else who comes often would lose what is less than a thousandth, each time */
			c->tokens += gained;
			c->at = t->at;
		}
		if (c->tokens > most)
			c->tokens = most;
		if (c->tokens < 1000) {
			t->client = -1;
			return NST_FAST;
		}
		c->tokens -= 1000;
	}
	if (self.orders->client_most && c->live >= self.orders->client_most) {
		t->client = -1;
		return NST_MANY;
	}
	c->live++;
	return NST_CAUSES;
}

static void forget_client(struct taken *t)
{
	if (t->client >= 0 && self.clients[t->client].live)
		self.clients[t->client].live--;
	t->client = -1;
}

/* ---- connections ---- */

static void let_go(int i)
{
	close_fd(&self.lingering[i].fd);
}

/* Say why, if there is something to say, and close: a close with something unread would take the words back. */
static void refuse(struct taken *t, enum nst_cause cause)
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
				watch(t->fd, LINGER, i, EPOLLIN | EPOLLRDHUP);
				return;
			}
	}
	close_fd(&t->fd);
}

static void drain(int i)
{
	char buffer[4096];
	long n = 1;

	while (self.lingering[i].fd >= 0 && n > 0) {
		n = nst_raw6(__NR_recvfrom, self.lingering[i].fd, NST_P(buffer), sizeof buffer, 0x40, 0, 0);
		if (n == 0 || (n < 0 && n != -EAGAIN && n != -EINTR))
			let_go(i);
	}
}

/* A bucket that is full has what is relayed in an eighth of a second, at least a chunk. */
static int64_t most_bytes(void)
{
	int64_t most = (int64_t)self.orders->bandwidth << 7;

	return most > CHUNK ? most : CHUNK;
}

/* ---- a sandbox ---- */

static uint64_t draw(void)
{
	uint64_t r;

	if (nst_raw3(__NR_getrandom, NST_P(&r), sizeof r, 0) != sizeof r)
		nst_leave(125); /* what varies would be what somebody can guess */
	return r;
}

/* Draw a number below count that is neither what this place had last nor what the last sandbox of all had. */
static uint64_t draw_another(uint64_t count, uint64_t *last, uint64_t *last_of_all)
{
	uint64_t n;

	do
		n = draw() % count;
	while (count > 2 && (n + 1 == *last || n + 1 == *last_of_all));
	*last = *last_of_all = n + 1;
	return n;
}

/* What the template itself has to know of what varies. */
static void learn(struct place *p, uint32_t use, int64_t number)
{
	if (use == NST_USE_PORT)
		p->port = (uint16_t)number;
	else if (use >= NST_USE_OCTET && use <= NST_USE_OCTET_4)
		p->address[1 + use - NST_USE_OCTET] = (uint8_t)number;
}

/* Put what varies into the plan of place i. */
static void stamp(int i)
{
	const struct nst_service *o = self.orders;
	const struct nst_vary *v = (const struct nst_vary *)((const char *)o + o->vary);
	struct place *p = &places[i];
	uint64_t random[NST_SOURCES][2];
	char drawn[NST_SOURCES] = {0};
	uint32_t k, n;

	p->port = (uint16_t)o->port;
	copy_bytes(p->address, "\x7f\0\0\1", sizeof p->address);
	for (k = 0; k < o->n_vary; k++, v++) {
		uint64_t from, left;
		uint8_t *at = p->plan + v->offset;
		int64_t number;

		if (v->source >= NST_RANDOM && !drawn[v->source]) {
			random[v->source][0] = v->format == NST_HEX ? draw()
								    : draw_another(v->count, &p->last[v->source],
										   &self.last[v->source]);
			random[v->source][1] = draw();
			drawn[v->source] = 1;
		}
		from = v->source == NST_BY_PLACE  ? (uint64_t)i * v->count + p->turn % v->count
		       : v->source == NST_BY_LIFE ? self.board->lives % v->count
						  : random[v->source][0] % v->count;
		number = v->first + v->step * (int64_t)from;
		learn(p, v->use, number);
		if (v->format == NST_HEX) {
			for (n = 0; n < v->width; n++)
				at[n] = (uint8_t)("0123456789abcdef"[random[v->source][n / 16 & 1] >> (n % 16 * 4) &
								     15]);
		} else if (v->format == NST_DECIMAL) {
			left = number < 0 ? (uint64_t)-number : (uint64_t)number;
			for (n = v->width; n--; left /= 10)
				at[n] = (uint8_t)('0' + left % 10);
			if (number < 0)
				at[0] = '-';
		} else {
			copy_bytes(at, &number, 8);
		}
	}
}

/* ---- network namespaces that are lent ---- */

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

static void go_home(void)
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
static long make_lease(int i)
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
static void check_lease(int i)
{
	struct place *p = &places[i];

	if (p->lease < 0)
		return;
	if (!p->clean || look_of_net(p) != p->clean)
		drop_lease(p);
}

_Noreturn static void sandbox_main(void *arg)
{
	struct place *p = arg;

	p->share->first = nst_now();
	if (((const struct nst_plan *)p->plan)->flags & NST_WITH_INIT)
		nst_init_copy(&p->copy);
	nst_without_init(&p->copy);
}

static void ended(int i, int wait_status);

static void free_place(int i)
{
	places[i].state = EMPTY;
	places[i].pid = 0;
	close_fd(&places[i].control);
	close_fd(&places[i].net);
	close_fd(&places[i].session);
	self.free[(self.first_free + self.n_free++) % NST_PLACES] = i;
	show(i);
}

/* The place that was left longest ago, so that what it had of its own is used again as late as can be; with a network
 * namespace that is lent, the one that was left last, so that few are lent. */
static int next_place(void)
{
	return self.free[(self.first_free + (self.orders->lease ? self.n_free - 1 : 0)) % NST_PLACES];
}

static int take_place(void)
{
	int i = next_place();

	if (!self.orders->lease)
		self.first_free = (self.first_free + 1) % NST_PLACES;
	self.n_free--;
	return i;
}

/* The launcher's steps of place i, whose process there is: those behind clone3. */
static int launcher_steps(struct place *p)
{
	struct nst_run run = {.plan = p->plan,
			      .slots = p->slots,
			      .who = NST_LAUNCHER,
			      .control = -1,
			      .share = p->share,
			      .child_pid = p->pid,
			      .failure = {.step = -1}};
	int i, n = (int)((const struct nst_plan *)p->plan)->n_steps;

	for (i = self.clone_at + 1; i < n; i++)
		if (nst_step_at(p->plan, i)->who == NST_LAUNCHER && nst_step_run(&run, i) < 0) {
			if (p->share->failure.step < 0)
				p->share->failure = run.failure;
			return -1;
		}
	return 0;
}

/* Hand over the connection that place i waits for. Where it is attested too the socket stays open for that. */
static void give(int i, int fd)
{
	struct nst_message m = {.type = NST_MSG_RELEASE};
	struct place *p = &places[i];

	send_message(p->control, &m, fd);
	if (p->share->attest)
		watch(p->control, PLACE, i, EPOLLIN);
	else
		close_fd(&p->control);
}

/* ---- the zygote ---- */

/* Have the zygote clone itself for place i; it answers with the pid. control: where that is attested, else -1. With its
 * own fds go the network namespace to be in and control, or /dev/null in their stead. 0 or -errno. */
static long ask_zygote(int i, int n_slots, int control)
{
	struct place *p = &places[i];
	struct nst_message m = {.type = NST_MSG_COPY, .detail = i};

	m.status = (control >= 0 ? NST_COPY_CONTROL : 0) | (p->lease >= 0 ? NST_COPY_NET : 0);
	p->slots[n_slots] = p->lease >= 0 ? p->lease : self.null;
	p->slots[n_slots + 1] = control >= 0 ? control : self.null;
	return send_fds(self.zygote, &m, p->slots, n_slots + 2);
}

/* What the zygote answers: a process there is, or not. */
static void from_zygote(void)
{
	struct nst_message m;
	long n = nst_raw6(__NR_recvfrom, self.zygote, NST_P(&m), sizeof m, 0x40, 0, 0);
	struct place *p;

	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n != (long)sizeof m || m.detail < 0 || m.detail >= (int)self.orders->n_places)
		nst_leave(125); /* without it there is nothing to serve with */
	p = &places[m.detail];
	if (p->state == EMPTY || p->pid != ASKED)
		return;
	p->pid = m.pid;
	for (n = 0; m.pid > 0 && n < LOST; n++)
		if (self.lost[n].pid == m.pid) { /* it has ended before we knew it */
			self.lost[n].pid = 0;
			ended(m.detail, self.lost[n].status);
			return;
		}
	if (m.pid <= 0) {
		p->share->failure = (struct nst_failure){.step = self.clone_at, .error = m.error};
		ended(m.detail, 125 << 8);
	} else {
		show(m.detail);
		if (launcher_steps(p) < 0)
			nst_raw2(__NR_kill, p->pid, SIGKILL);
		else if (p->killed)
			nst_raw2(__NR_kill, p->pid, p->killed);
	}
}

/* Send a signal to the process of a place, which may be on its way. */
static void send_signal(struct place *p, int number)
{
	if (p->pid > 0)
		nst_raw2(__NR_kill, p->pid, number);
	else if (p->killed != SIGKILL)
		p->killed = number;
}

struct starting {
	const char *const *argv;
	const char *const *envp;
	int socket, plans;
};

_Noreturn static void zygote_main(void *arg)
{
	const struct starting *s = arg;
	uint64_t none = 0;

	/* Behind the places that they get, so that no copy overwrites another. */
	long socket = nst_raw3(__NR_fcntl, s->socket, F_DUPFD, 20), plans = nst_raw3(__NR_fcntl, s->plans, F_DUPFD, 20);

	nst_raw3(__NR_dup3, self.null, 0, 0);
	nst_raw3(__NR_dup3, self.null, 1, 0);
	nst_raw3(__NR_dup3, places[0].log, 2, 0);
	nst_raw3(__NR_dup3, socket, 3, 0);
	nst_raw3(__NR_dup3, plans, 4, 0);
	nst_raw3(__NR_close_range, 5, ~0u, 0);
	nst_raw4(__NR_rt_sigprocmask, SIG_SETMASK, NST_P(&none), 0, 8);
	nst_raw3(__NR_execve, NST_P(s->argv[0]), NST_P(s->argv), NST_P(s->envp));
	for (;;)
		nst_raw1(__NR_exit_group, 127);
}

/* A list of strings that an empty one ends, as a vector. Returns what comes behind it, NULL if it does not end. */
static const char *vector(const char *at, const char *end, const char **ret, int most)
{
	int n = 0;

	while (at < end && *at && n < most - 1) {
		ret[n++] = at;
		while (at < end && *at)
			at++;
		at++;
	}
	ret[n] = NULL;
	return at < end && !*at ? at + 1 : NULL;
}

/* Start the zygote, when the first place has told where its log is. plans: fd of the memory that is shared. */
static long start_zygote(int plans)
{
	const char *at = (const char *)self.orders + self.orders->zygote;
	const char *end = (const char *)self.orders + self.orders->size;
	const char *argv[32], *envp[64];
	struct clone_args args = {.flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD, .stack_size = NST_STACK};
	int32_t pair[2];
	struct starting s = {.argv = argv, .envp = envp, .plans = plans};
	long r;

	at = vector(at, end, argv, 32);
	if (!at || !argv[0] || !vector(at, end, envp, 64))
		return -EINVAL;
	r = nst_raw4(__NR_socketpair, AF_UNIX_, SOCK_SEQPACKET_ | O_CLOEXEC, 0, NST_P(pair));
	if (r < 0)
		return r;
	s.socket = pair[1];
	args.stack = (uint64_t)(uintptr_t)places[0].stack;
	r = nst_clone3_on_stack(&args, sizeof args, zygote_main, &s);
	nst_raw1(__NR_close, pair[1]);
	if (r < 0) {
		nst_raw1(__NR_close, pair[0]);
		return r;
	}
	self.zygote_pid = (int)r;
	self.zygote = pair[0];
	watch(self.zygote, ZYGOTE, 0, EPOLLIN);
	return 0;
}

/* Whether a command begins without a connection, and knows of none of ours. */
static int begins_alone(void)
{
	return self.orders->shape == NST_PORT || self.orders->shape == NST_LISTENER;
}

/* Make the sandbox of place i. t: its connection, NULL for one that is parked. 0 or -errno. */
static long start(int i, struct taken *t, int attest)
{
	const struct nst_service *o = self.orders;
	struct place *p = &places[i];
	const struct nst_step *s;
	struct clone_args args = {.exit_signal = SIGCHLD, .stack_size = NST_STACK};
	int32_t pair[2] = {-1, -1};
	int n, slot;
	long r;

	p->life = ++self.board->lives;
	p->deadline = 0;
	p->to = p->from = (struct bucket){most_bytes(), nst_now()};
	p->stopped = p->overran = p->users = p->had = p->idle = p->deaf = p->ready = p->has_key = p->killed = 0;
	stamp(i);
	if (attest || (!t && !begins_alone())) {
		r = nst_raw4(__NR_socketpair, AF_UNIX_, SOCK_SEQPACKET_ | O_CLOEXEC, 0, NST_P(pair));
		if (r < 0)
			goto failed;
	}
	for (n = 0; n < NST_MAX_SLOTS; n++)
		p->slots[n] = NST_NONE;
	for (n = 0; n < 3; n++)
		p->slots[n] = t && o->streams >> n & 1 ? t->fd : n == 2 ? p->log : self.null;
	slot = 3;
	for (n = 0; n < (int)o->n_passed; n++) {
		int fd = o->shape == NST_LISTENER ? self.listeners[n] : t ? t->fd : -1;

		p->slots[slot++] = fd >= 0 ? fd : self.null;
	}
	for (n = 0; n < (int)o->n_fds; n++)
		p->slots[slot++] = p->fds[n];
	*p->share = (struct nst_share){.status = -1, .attest = attest, .failure = {.step = -1}};
	p->copy = (struct nst_copy){.plan = p->plan,
				    .slots = p->slots,
				    .scratch = p->scratch,
				    .scratch_size = self.scratch_size,
				    .control = pair[1],
				    .share = p->share};
	r = o->lease ? make_lease(i) : 0;
	if (r < 0)
		goto failed;
	if (o->shape == NST_ZYGOTE) {
		r = ask_zygote(i, slot, pair[1]);
		close_fd(&pair[1]);
		if (r < 0)
			goto failed;
		p->pid = ASKED;
		p->control = pair[0];
		p->state = t ? SERVING : PARKED;
		if (t && p->control >= 0)
			give(i, t->fd);
		return 0;
	}
	s = nst_step_at(p->plan, self.clone_at);
	args.flags = s->arg[0];
	if (!self.own_clock && !(((const struct nst_plan *)p->plan)->flags & NST_WITH_INIT))
		args.flags |= CLONE_VM;
	if (s->arg[1] >> 32 && p->slots[(uint32_t)s->arg[1]] >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)p->slots[(uint32_t)s->arg[1]];
	}
	args.stack = (uint64_t)(uintptr_t)p->stack;
	if (o->lease) {
		r = nst_raw2(__NR_setns, p->lease, CLONE_NEWNET);
		if (r < 0)
			goto failed;
	}
	r = nst_clone3_on_stack(&args, sizeof args, sandbox_main, p);
	if (o->lease)
		go_home();
	close_fd(&pair[1]);
	if (r < 0)
		goto failed;
	p->pid = (int)r;
	p->control = pair[0];
	p->state = t ? SERVING : PARKED;
	if (launcher_steps(p) < 0) /* a process that has ended by itself says why; what is left of it must not go on */
		nst_raw2(__NR_kill, p->pid, SIGKILL);
	if (p->control >= 0 && begins_alone())
		watch(p->control, PLACE, i, EPOLLIN);
	else if (p->control >= 0 && t)
		give(i, t->fd);
	return 0;
failed:
	p->share->failure = (struct nst_failure){.step = self.clone_at, .error = (int32_t)-r};
	close_fd(&pair[0]);
	close_fd(&pair[1]);
	return r;
}

/* A place ends when it has been idle from this moment on, or at its wall. */
static void idle_from(struct place *p, int64_t now)
{
	int64_t idle = self.orders->idle_ms ? now + (int64_t)self.orders->idle_ms * 1000000 : 0;

	p->deadline = idle && p->wall ? (idle < p->wall ? idle : p->wall) : idle + p->wall;
}

/* From here on the connection is the sandbox's: times count from it. */
static void assigned(int i, const struct taken *t)
{
	struct place *p = &places[i];

	p->taken = *t;
	p->taken.fd = -1;
	p->state = SERVING;
	p->wall = self.orders->wall_ms ? nst_now() + (int64_t)self.orders->wall_ms * 1000000 : 0;
	p->deadline = p->wall;
	p->waited = note(WAITED, t->at, nst_now());
	p->byte = 0;
	show(i);
}

static void no_start(const struct taken *t, int i)
{
	struct nst_failure f = places[i].share->failure;
	struct nst_message m = {.type = NST_MSG_FAILED, .step = f.step, .error = f.error, .detail = f.detail, .pid = i};

	remember(t, places[i].life, i, NST_NO_START, 0, NULL);
	tell_reporter(&m);
}

static int take_parked(void)
{
	int i = self.parked[self.first_parked];

	self.first_parked = (self.first_parked + 1) % NST_PLACES;
	self.n_parked--;
	return i;
}

/* ---- relayed connections ---- */

static void end_place(int i, int number);
static void tell_ready(int i);

static void close_way(struct way *w)
{
	close_fd(&w->pipe[0]);
	close_fd(&w->pipe[1]);
}

/* A place that nobody is connected to any more: what its life is then. */
static void left_alone(int i)
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

static void close_links_of(int i)
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

static void pump(int at)
{
	struct link *l = &self.links[at];
	struct place *of = &places[l->place];
	int64_t now = nst_now();
	int round, up = 1, down = 1;

	l->again = 0;
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
	l->again = up > 0 || down > 0;
	if (self.orders->bandwidth && (of->to.bytes <= 0 || of->from.bytes <= 0))
		l->resume = now + REFILL_NS + 1000000000 / self.orders->bandwidth; /* for no less than a KiB */
	else
		l->resume = 0;
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
		/* Where others are connected it listens: this one it did not take. */
		places[i].deaf = places[i].users == 1;
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

/* A place whose command runs, for the first connection of a life; -1: there was none, and that was told. */
static int begin_life(struct taken *t)
{
	int i;

	if (self.n_parked) {
		i = take_parked();
	} else {
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
static int link_it(struct taken *t)
{
	int at = self.n_links < LINKS ? free_link() : -1, i = find_life(t);
	struct place *p;
	struct link *l;
	long flags;

	if (at < 0 || (i < 0 && !self.n_parked && !self.n_free))
		return 0;
	if (i < 0)
		i = begin_life(t);
	if (i < 0)
		return 1;
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

/* ---- datagrams ---- */

static char datagram[CHUNK];

/* What a sandbox says goes to its client. */
static void from_session(int i)
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

/* Give a connection to a sandbox: one that is parked, or one of its own. 0: there is no place. */
static int place_it(struct taken *t)
{
	int i;

	if (self.orders->shape == NST_PORT)
		return link_it(t);
	if (self.n_parked) {
		i = take_parked();
		assigned(i, t);
		give(i, t->fd);
		close_fd(&t->fd);
		return 1;
	}
	if (!self.n_free)
		return 0;
	i = take_place();
	if (start(i, t, (int)self.orders->attest) < 0) {
		no_start(t, i);
		forget_client(t);
		free_place(i);
	} else {
		assigned(i, t);
	}
	close_fd(&t->fd);
	return 1;
}

/* Whether one more sandbox is to be made that has no connection yet. */
static int wants_more(void)
{
	uint32_t n = (uint32_t)self.n_parked;
	int i;

	if (!self.listening || !self.n_free || self.pause)
		return 0;
	for (i = 0; self.orders->shape == NST_LISTENER && i < (int)self.orders->n_places; i++)
		n += places[i].state == SERVING;
	return n < self.orders->ready;
}

static void park(void)
{
	int n;

	for (n = 0; n < PARKS && wants_more(); n++) {
		struct taken nobody = {.fd = -1, .client = -1, .listener = -1, .at = nst_now(), .wall = real_now()};
		int i = take_place();

		if (start(i, NULL, (int)self.orders->attest) < 0) {
			no_start(&nobody, i);
			free_place(i);
			self.pause = nst_now() + PAUSE_NS;
			return;
		}
		if (self.orders->shape == NST_LISTENER)
			assigned(i, &nobody);
		else
			self.parked[(self.first_parked + self.n_parked++) % NST_PLACES] = i;
		show(i);
	}
}

/* Make a sandbox that nobody is connected to, for the service to look at. */
static long try(void)
{
	static struct taken nobody = {.fd = -1, .client = -1, .listener = -1};
	long r;
	int i;

	if (!self.orders || !self.n_free)
		return -EBUSY;
	i = take_place();
	r = start(i, NULL, 1);
	nobody.at = nst_now();
	nobody.wall = real_now();
	if (r < 0) {
		no_start(&nobody, i); /* which tells why */
		free_place(i);
		return 0;
	}
	assigned(i, &nobody);
	if (!begins_alone())
		give(i, self.null);
	return 0;
}

static void unpark(int i)
{
	int n, kept = 0;

	for (n = 0; n < self.n_parked; n++) {
		int other = self.parked[(self.first_parked + n) % NST_PLACES];

		if (other != i)
			self.parked[(self.first_parked + kept++) % NST_PLACES] = other;
	}
	self.n_parked = kept;
}

static void ended(int i, int wait_status)
{
	struct place *p = &places[i];
	int status = p->share->status >= 0 ? p->share->status : wait_status;
	uint32_t us[NST_STAGES - 1] = {0};
	int64_t now = nst_now();
	enum nst_cause cause;

	close_links_of(i);
	if (p->state == PARKED) {
		unpark(i);
		p->taken = (struct taken){.fd = -1, .client = -1, .listener = -1, .wall = real_now(), .at = now};
	}
	if (p->state == PARKED || self.orders->shape == NST_LISTENER)
		self.pause = now + PAUSE_NS; /* or it would be tried without a pause */
	if (p->share->failure.step >= 0 && !p->stopped) {
		no_start(&p->taken, i);
	} else {
		cause = p->deaf		? NST_DEAF
			: p->stopped	? NST_STOPPED
			: p->idle	? NST_IDLE
			: p->overran	? NST_OVERRAN
			: status & 0x7f ? NST_SIGNALLED
			: status >> 8	? NST_STATUS
					: NST_EXITED;
		if (p->state != PARKED) {
			int64_t begun = p->taken.at;

			us[WAITED] = p->waited;
			us[BYTE] = p->byte;
			us[FIRST] = note(FIRST, begun, p->share->first);
			us[EXECUTED] = note(EXECUTED, begun, p->share->executed);
			note(GONE, begun, now);
		}
		remember(&p->taken, p->life, i, cause, status, us);
	}
	forget_client(&p->taken);
	p->turn++;
	check_lease(i);
	free_place(i);
}

static void reap(void)
{
	struct signalfd_siginfo si;
	int status = 0, i;
	long pid;

	/* Only the service ends this process: a signal for all processes of the service is for that. */
	while (nst_raw3(__NR_read, self.signals, NST_P(&si), sizeof si) == sizeof si)
		;
	while ((pid = nst_raw4(__NR_wait4, -1, NST_P(&status), 1 /* WNOHANG */ | WALL_, 0)) > 0) {
		if (pid == self.zygote_pid)
			nst_leave(125); /* without it there is nothing to serve with */
		for (i = 0; self.orders && i < (int)self.orders->n_places; i++)
			if (places[i].state != EMPTY && places[i].pid == pid)
				break;
		if (self.orders && i < (int)self.orders->n_places) {
			ended(i, status);
		} else if (self.zygote >= 0) {
			self.lost[self.n_lost % LOST].pid = (int)pid;
			self.lost[self.n_lost++ % LOST].status = status;
		}
	}
}

/* ---- listening ---- */

/* Datagrams are taken where there is no room, too: they may be for a sandbox that there is. */
static void listen_to(int on, int room)
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
static int has_room(void)
{
	return self.n_free || self.n_parked || self.orders->queue ||
	       (self.orders->life != NST_LIFE_CONNECTION && self.n_links < LINKS);
}

union address {
	uint16_t family;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
};

/* A client's address as it is kept: 16 bytes of it, port, family; one of IPv4 in IPv6 is one of IPv4. */
static void keep_address(const union address *a, uint8_t *ret)
{
	static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	int i, is_mapped = a->family == AF_INET6_;

	for (i = 0; i < NST_CLIENT; i++)
		ret[i] = 0;
	ret[18] = (uint8_t)a->family;
	if (a->family == AF_INET_) {
		copy_bytes(ret, &a->in.sin_addr, 4);
		copy_bytes(ret + 16, &a->in.sin_port, 2);
	} else if (a->family == AF_INET6_) {
		for (i = 0; i < 12; i++)
			is_mapped &= a->in6.sin6_addr.s6_addr[i] == mapped[i];
		copy_bytes(ret, a->in6.sin6_addr.s6_addr + (is_mapped ? 12 : 0), is_mapped ? 4 : 16);
		copy_bytes(ret + 16, &a->in6.sin6_port, 2);
		ret[18] = is_mapped ? AF_INET_ : AF_INET6_;
	}
}

/* Whether sandboxes can be made for who was taken: who is attested waits for who does that. */
static int may_place(void)
{
	return self.reporter >= 0 || !self.orders->attest;
}

/* Let a connection in that was taken, or refuse it. */
static void let_in(struct taken *t)
{
	enum nst_cause why = admit(t);

	if (why != NST_CAUSES)
		refuse(t, why);
	else if (self.n_waiting || !may_place() || !place_it(t)) {
		if ((uint32_t)self.n_waiting >= self.orders->queue)
			refuse(t, NST_BUSY);
		else
			self.waiting[(self.first_waiting + self.n_waiting++) % WAITING] = *t;
	}
}

/* ---- clients of Unix sockets ---- */

static int asks_for_users(void)
{
	return limits_clients() || self.orders->life == NST_LIFE_CLIENT;
}

/* Ask the service whose connection this is: here, in a user namespace, every user of the host is nobody. */
static void ask_whose(int at)
{
	struct nst_message m = {.type = NST_MSG_WHOSE, .detail = at};

	if (self.reporter < 0 || send_message(self.reporter, &m, self.asking[at].fd) >= 0)
		return; /* without a service they wait for the next */
	refuse(&self.asking[at], NST_BUSY);
	self.asking[at].fd = -1;
	self.n_asking--;
}

/* A service that has come later has not been asked yet. */
static void ask_again(void)
{
	int at;

	for (at = 0; self.n_asking && at < ASKING; at++)
		if (self.asking[at].fd >= 0)
			ask_whose(at);
}

/* Keep a connection where there is room: whose it is has to be told. Its index; -1: it was refused. */
static int keep(struct taken *room, int size, int *n, struct taken *t)
{
	int at;

	for (at = 0; at < size; at++)
		if (room[at].fd < 0) {
			room[at] = *t;
			++*n;
			return at;
		}
	refuse(t, NST_BUSY);
	return -1;
}

static void ask_first(struct taken *t)
{
	int at = keep(self.asking, ASKING, &self.n_asking, t);

	if (at >= 0)
		ask_whose(at);
}

/* The answer. */
static void is_whose(int at, const struct nst_message *m)
{
	uint32_t uid = (uint32_t)m->status;
	struct taken t;

	if (at < 0 || at >= ASKING || self.asking[at].fd < 0)
		return;
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

/* ---- connections of a balancer, or a TLS terminator ---- */

static void drop_header(int at)
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
static void from_header(int at, int gone)
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

static void read_header(struct taken *t)
{
	int at = keep(self.headers, HEADERS, &self.n_headers, t);

	if (at >= 0) {
		watch(t->fd, HEADER, at, EPOLLIN | EPOLLRDHUP | EPOLLET);
		from_header(at, 0);
	}
}

static void take(int listener)
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

/* What a client has sent goes to the sandbox that is for it; a client of which nothing is known yet gets one. */
static void take_datagram(int listener)
{
	struct taken t = {.client = -1, .listener = listener, .fd = -1};
	union address from = {0};
	uint32_t size = sizeof from;
	enum nst_cause why;
	int32_t pair[2];
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
	if (why != NST_CAUSES) { /* there is no connection to close: who is refused hears nothing */
		remember(&t, 0, -1, why, 0, NULL);
		forget_client(&t);
		return;
	}
	t.fd = pair[1];
	nst_raw6(__NR_sendto, pair[0], NST_P(datagram), n, 0x4040, 0, 0);
	i = self.n_parked ? self.parked[self.first_parked] : next_place();
	place_it(&t);
	if (places[i].state != SERVING) {
		nst_raw1(__NR_close, pair[0]);
		return;
	}
	places[i].session = pair[0];
	idle_from(&places[i], t.at);
	watch(pair[0], SESSION, i, EPOLLIN);
}

/* Who waits gets a sandbox, or is told that it takes too long, also while none may be made. */
static void from_queue(void)
{
	int may = !self.pausing && may_place();
	int64_t now = nst_now();

	while (self.n_waiting) {
		struct taken *t = &self.waiting[self.first_waiting];

		if (self.orders->queue_ms && now - t->at > (int64_t)self.orders->queue_ms * 1000000)
			refuse(t, NST_WAITED);
		else if (!may || !place_it(t))
			return;
		self.first_waiting = (self.first_waiting + 1) % WAITING;
		self.n_waiting--;
	}
}

/* ---- orders ---- */

static int inside(const struct nst_service *o, uint32_t offset, uint64_t size)
{
	return offset <= o->size && size <= o->size - offset;
}

/* Whether a number that the template uses may be more than it can be. */
static int use_bad(const struct nst_vary *v, uint32_t shape)
{
	int64_t most = v->use == NST_USE_PORT ? 65535 : 255;

	if (v->use == NST_USE_NOTHING)
		return 0;
	return v->use >= NST_USES || shape != NST_PORT || v->first < 0 || v->first > most || v->step < 0 ||
	       v->step > most || v->count > 65536 || v->first + v->step * (int64_t)(v->count - 1) > most;
}

/* Whether the orders fit together; the plan is checked by itself. */
static int orders_bad(const struct nst_service *o, uint64_t size)
{
	const struct nst_vary *v;
	uint32_t i;

	if (size < sizeof *o || o->magic != NST_MAGIC || o->size != size || o->plan % 8 || o->vary % 8 ||
	    !inside(o, o->plan, o->plan_size) || !inside(o, o->busy, o->busy_size) ||
	    !inside(o, o->vary, (uint64_t)o->n_vary * sizeof *v) || !o->n_places || o->n_places > NST_PLACES ||
	    o->n_fds > NST_PLACE_FDS || o->n_passed > (o->shape == NST_LISTENER ? NST_LISTENERS : 1) ||
	    o->streams > 7 || o->queue > WAITING || o->prefix4 > 32 || o->prefix6 > 128 || o->shape > NST_LISTENER ||
	    o->zygote > o->size || o->life > NST_LIFE_SHARED || o->port > 65535 || o->bandwidth > NST_BANDWIDTH ||
	    o->proxy > NST_PROXIED_NAMES || !o->stop || o->stop > 64 ||
	    (o->shape != NST_PORT && o->life != NST_LIFE_CONNECTION))
		return 1;
	v = (const struct nst_vary *)((const char *)o + o->vary);
	for (i = 0; i < o->n_vary; i++)
		if (v[i].source >= NST_SOURCES || !v[i].count || v[i].format < NST_HEX || v[i].format > NST_BINARY ||
		    (v[i].format == NST_HEX && v[i].source < NST_RANDOM) ||
		    (v[i].format == NST_BINARY && v[i].width != 8) || v[i].offset > o->plan_size ||
		    v[i].width > o->plan_size - v[i].offset || use_bad(&v[i], o->shape))
			return 1;
	return 0;
}

/* Whether the plan is one that can be made here: one clone3 of the launcher, before it nothing of the launcher. */
static int plan_bad(const uint8_t *plan, uint64_t size, uint32_t given)
{
	const struct nst_plan *h = (const struct nst_plan *)plan;
	struct nst_failure f;
	int i;

	if (nst_plan_check(plan, size, &f) < 0 || h->n_given != given)
		return 1;
	self.clone_at = -1;
	self.own_clock = 0;
	for (i = 0; i < (int)h->n_steps; i++) {
		const struct nst_step *s = nst_step_at(plan, i);

		if (nst_call_is(s, "serve") || s->who == NST_UNDO || nst_call_is(s, "external"))
			return 1;
		self.own_clock |= s->who == NST_INIT && nst_call_is(s, "setns") && s->arg[1] == CLONE_NEWTIME;
		if (s->who != NST_LAUNCHER)
			continue;
		if (nst_call_is(s, "clone3"))
			self.clone_at = i;
		else if (self.clone_at < 0)
			return 1;
	}
	return 0;
}

/* Memory for the places: plans and what they share with their sandboxes is shared, so that a copy of this process takes
 * no copy of it; the board is not in the copies at all. */
static long make_places(void)
{
	const struct nst_service *o = self.orders;
	uint64_t plan_size = (o->plan_size + 7) & ~7ull, n = o->n_places, i, k;
	uint64_t shared_size = n * (plan_size + sizeof(struct nst_share));
	int memory = (int)nst_raw2(__NR_memfd_create, NST_P("plans"), 1 /* MFD_CLOEXEC */);
	uint8_t *shared = NULL;
	uint8_t *stacks = map(n * NST_STACK, -1, MAP_PRIVATE | MAP_NORESERVE);
	uint8_t *scratch;

	if (memory >= 0 && nst_raw2(__NR_ftruncate, memory, (long)shared_size) == 0)
		shared = map(shared_size, memory, MAP_SHARED);
	self.plans = memory;
	self.scratch_size = 2 * sizeof(char *) * (o->plan_size + 1ull);
	scratch = map(n * self.scratch_size, -1, MAP_PRIVATE | MAP_NORESERVE);
	places = map(n * sizeof *places, -1, MAP_PRIVATE);
	self.waiting = map(WAITING * sizeof *self.waiting, -1, MAP_PRIVATE | MAP_NORESERVE);
	self.clients = map(CLIENTS * sizeof *self.clients, -1, MAP_PRIVATE | MAP_NORESERVE);
	self.links = map(LINKS * sizeof *self.links, -1, MAP_PRIVATE);
	if (!shared || !stacks || !scratch || !places || !self.waiting || !self.clients || !self.links)
		return -ENOMEM;
	nst_raw3(__NR_madvise, NST_P(self.links), LINKS * sizeof *self.links, 10);
	nst_raw3(__NR_madvise, NST_P(self.clients), CLIENTS * sizeof *self.clients, 10 /* MADV_DONTFORK */);
	nst_raw3(__NR_madvise, NST_P(self.waiting), WAITING * sizeof *self.waiting, 10);
	for (i = 0; i < n; i++) {
		places[i].plan = shared + i * plan_size;
		copy_bytes(places[i].plan, (const char *)o + o->plan, o->plan_size);
		places[i].share = (struct nst_share *)(shared + n * plan_size) + i;
		places[i].stack = stacks + i * NST_STACK;
		places[i].scratch = scratch + i * self.scratch_size;
		for (k = 0; k < TOLD; k++)
			places[i].told[k] = -1;
		places[i].lease = places[i].control = places[i].net = places[i].session = -1;
	}
	for (i = 0; i < LINKS; i++)
		self.links[i].place = -1;
	return 0;
}

static long configure(const struct nst_message *m, int *fds, int n)
{
	uint64_t size = (uint32_t)m->status;
	void *orders; /* fds: these, the board, the door, /dev/null, and where the log is read */

	if (self.orders || n != 5)
		return -EINVAL;
	orders = map(size, fds[0], MAP_PRIVATE);
	self.board = map(sizeof *self.board, fds[1], MAP_SHARED);
	if (!orders || !self.board)
		return -ENOMEM;
	if (orders_bad(orders, size))
		return -EINVAL;
	self.orders = orders;
	if (plan_bad((const uint8_t *)orders + self.orders->plan, self.orders->plan_size,
		     3 + self.orders->n_passed + self.orders->n_fds)) {
		self.orders = NULL;
		return -EINVAL;
	}
	nst_raw3(__NR_madvise, NST_P(self.board), sizeof *self.board, 10 /* MADV_DONTFORK */);
	self.board->magic = NST_MAGIC;
	self.board->n_places = self.orders->n_places;
	self.board_fd = fds[1];
	self.door = fds[2];
	self.null = fds[3];
	self.log_end = fds[4];
	watch(self.door, DOOR, 0, EPOLLIN);
	fds[1] = fds[2] = fds[3] = fds[4] = -1;
	return make_places();
}

static long add_place(const struct nst_message *m, int *fds, int n)
{
	struct place *p;
	int i;

	if (!self.orders || m->detail < 0 || m->detail >= (int)self.orders->n_places ||
	    n != (int)self.orders->n_fds + 1)
		return -EINVAL;
	p = &places[m->detail];
	if (p->has_fds)
		return -EEXIST;
	p->log = fds[0]; /* an open file of its own: no flag that a command sets there is another's */
	fds[0] = -1;
	for (i = 1; i < n; i++) {
		p->fds[i - 1] = fds[i];
		fds[i] = -1;
	}
	p->has_fds = 1;
	free_place(m->detail);
	if (self.orders->shape == NST_ZYGOTE && self.zygote < 0 && m->detail == 0)
		return start_zygote(self.plans);
	return 0;
}

static long add_listener(const struct nst_message *m, int *fds, int n)
{
	long flags;

	if (!self.orders || n != 1 || m->detail < 0 || m->detail >= NST_LISTENERS || self.listeners[m->detail] >= 0)
		return -EINVAL;
	flags = nst_raw3(__NR_fcntl, fds[0], F_GETFL, 0);
	if (flags < 0 || nst_raw3(__NR_fcntl, fds[0], F_SETFL, flags | NONBLOCKING) < 0)
		return -EINVAL;
	self.listeners[m->detail] = fds[0];
	self.types[m->detail] = m->pid;
	fds[0] = -1;
	if (self.orders->shape != NST_LISTENER) /* else it is for the commands alone */
		watch(self.listeners[m->detail], LISTENER, m->detail,
		      self.listening && (self.has_room || m->pid == SOCK_DGRAM_) ? EPOLLIN : 0);
	return 0;
}

/* End a sandbox: SIGTERM first gets a deadline for SIGKILL. */
static void end_place(int i, int number)
{
	struct place *p = &places[i];

	if (p->state == EMPTY)
		return;
	p->stopped = 1;
	if (p->state == PARKED)
		number = SIGKILL; /* it has no command yet */
	if (p->state == SERVING)
		p->state = ENDING;
	send_signal(p, number);
	if (number != SIGKILL)
		p->deadline = nst_now() + (int64_t)self.orders->grace_ms * 1000000;
	show(i);
}

/* Refuse all who were taken and have no sandbox yet. */
static void refuse_all(void)
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

/* which: a place, or all. pid: whom it is for, not who has the place after him; 0: anybody. */
static void end_places(int which, int pid, int number)
{
	int i;

	if (number < 1 || number > 64 || !self.orders)
		return;
	for (i = 0; i < (int)self.orders->n_places; i++)
		if ((which < 0 || which == i) && (!pid || pid == places[i].pid))
			end_place(i, number);
	if (which < 0)
		refuse_all();
}

static void send_what_is_held(int peer)
{
	struct nst_message m = {.type = NST_MSG_HELD};
	int i;

	if (self.board_fd >= 0) {
		m.detail = -1;
		send_message(peer, &m, self.board_fd);
		m.detail = -2;
		send_message(peer, &m, self.log_end);
	}
	for (i = 0; i < NST_LISTENERS; i++)
		if (self.listeners[i] >= 0) {
			m.detail = i;
			send_message(peer, &m, self.listeners[i]);
		}
}

/* Take no more: who waits for a connection that does not come ends at once. */
static void begin_to_drain(void)
{
	int i;

	self.draining = 1;
	for (i = 0; i < (int)self.orders->n_places; i++)
		if (places[i].state == PARKED)
			end_place(i, SIGKILL);
		else if (self.orders->shape == NST_LISTENER)
			end_place(i, (int)self.orders->stop);
		else if (self.orders->shape == NST_PORT && !places[i].users)
			left_alone(i);
}

static void obey(int peer, const struct nst_message *m, int *fds, int n)
{
	struct nst_message answer = {.type = NST_MSG_DONE, .detail = m->detail};
	long r = 0;
	int i;

	switch (m->type) {
	case NST_MSG_CONFIGURE:
		r = configure(m, fds, n);
		break;
	case NST_MSG_PLACE:
		r = add_place(m, fds, n);
		break;
	case NST_MSG_LISTEN:
		r = add_listener(m, fds, n);
		break;
	case NST_MSG_ACCEPT:
		if (!self.orders)
			r = -EINVAL;
		else
			self.owner = m->detail ? peer : self.owner == peer ? -1 : self.owner;
		self.reporter = peer;
		self.draining = 0;
		if (self.orders && !m->detail)
			begin_to_drain();
		break;
	case NST_MSG_TRY:
		self.reporter = peer;
		r = try();
		break;
	case NST_MSG_END:
		end_places(m->detail, m->pid, m->status);
		break;
	case NST_MSG_RELEASE: /* attested */
		if (self.orders && m->detail >= 0 && m->detail < (int)self.orders->n_places &&
		    places[m->detail].ready && places[m->detail].pid == m->pid && places[m->detail].control >= 0) {
			struct nst_message go = {.type = NST_MSG_RELEASE};

			send_message(places[m->detail].control, &go, -1);
			places[m->detail].ready = 0;
			close_fd(&places[m->detail].control);
		}
		return;
	case NST_MSG_FETCH: /* the next service */
		send_what_is_held(peer);
		send_message(peer, &answer, -1);
		self.reporter = peer;
		ask_again();
		for (i = 0; self.orders && i < (int)self.orders->n_places; i++)
			if (places[i].state != EMPTY && places[i].ready)
				tell_ready(i);
		return;
	case NST_MSG_WHOSE:
		if (self.orders)
			is_whose(m->detail, m);
		return;
	default:
		r = -EINVAL;
	}
	if (r < 0) {
		answer.type = NST_MSG_FAILED;
		answer.step = -1;
		answer.error = (int32_t)-r;
	}
	send_message(peer, &answer, -1);
}

static void drop_peer(int i)
{
	if (self.owner == self.peers[i])
		self.owner = -1;
	if (self.reporter == self.peers[i])
		self.reporter = -1;
	close_fd(&self.peers[i]);
}

static void from_peer(int i)
{
	struct nst_message m;
	int32_t fds[FDS];
	int n, k;
	long r = receive_fds(self.peers[i], &m, fds, &n);

	if (r == -EAGAIN || r == -EINTR)
		return;
	if (r == (long)sizeof m)
		obey(self.peers[i], &m, fds, n);
	else
		drop_peer(i);
	for (k = 0; k < n; k++)
		close_fd(&fds[k]);
}

static void open_door(void)
{
	long fd = nst_raw4(__NR_accept4, self.door, 0, 0, O_CLOEXEC);
	int i;

	for (i = 0; fd >= 0 && i < PEERS; i++)
		if (self.peers[i] < 0) {
			self.peers[i] = (int)fd;
			watch(self.peers[i], PEER, i, EPOLLIN);
			return;
		}
	if (fd >= 0)
		nst_raw1(__NR_close, fd);
}

/* Tell that a sandbox waits to be attested; where nobody can be told it waits for the next service. */
static void tell_ready(int i)
{
	struct nst_message m = {.type = NST_MSG_READY, .detail = i, .pid = places[i].pid};

	if (self.reporter >= 0 && tell_reporter(&m) < 0)
		end_place(i, SIGKILL); /* it would wait for ever */
}

/* What a sandbox that is to be attested says: it is ready for that. */
static void from_place(int i)
{
	struct nst_message m;
	struct place *p = &places[i];
	long n = nst_raw6(__NR_recvfrom, p->control, NST_P(&m), sizeof m, 0x40 /* MSG_DONTWAIT */, 0, 0);
	struct epoll_event e = {0};

	if (n == (long)sizeof m && m.type == NST_MSG_READY) {
		p->ready = 1;
		tell_ready(i);
	} else if (n != -EAGAIN && n != -EINTR) {
		nst_raw4(__NR_epoll_ctl, self.poll, EPOLL_CTL_DEL, p->control, NST_P(&e));
	}
}

/* ---- time ---- */

/* Do what is due. Returns the milliseconds to what comes next, -1: nothing does. */
static int on_time(void)
{
	int64_t now = nst_now(), next = INT64_MAX, left;
	int i, n, first = -1;

	for (i = 0; self.orders && i < (int)self.orders->n_places; i++) {
		struct place *p = &places[i];

		if (p->state == EMPTY || !p->deadline)
			continue;
		if (p->deadline <= now) {
			int overran = p->wall && p->wall <= now, alone = !overran && (p->idle || p->session >= 0);
			int last = p->state == ENDING || alone;

			send_signal(p, last ? SIGKILL : (int)self.orders->stop);
			p->idle = p->state == ENDING ? p->idle : alone;
			p->overran |= !p->stopped && !p->idle;
			p->state = ENDING;
			p->deadline = now + (last ? 1000000000 : (int64_t)self.orders->grace_ms * 1000000);
			show(i);
		}
		if (p->deadline < next)
			next = p->deadline;
	}
	for (n = 0; self.n_links && n < LINKS; n++) {
		struct link *l = &self.links[i = (int)((self.first_pumped + (uint32_t)n) % LINKS)];

		if (l->place >= 0 && l->resume && l->resume <= now) {
			/* Of those who share what a sandbox may have, the next comes first the next time. */
			first = first < 0 ? i : first;
			pump(i);
		}
		if (l->place < 0)
			continue;
		if (l->resume && l->resume < next)
			next = l->resume;
		if (l->again)
			next = now;
		else if (l->inner >= 0)
			continue;
		else if (l->next <= now)
			try_link(i);
		if (l->place >= 0 && l->inner < 0 && l->next < next)
			next = l->next;
	}
	for (i = 0; i < LINGERING; i++) {
		if (self.lingering[i].fd < 0)
			continue;
		if (self.lingering[i].until <= now)
			let_go(i);
		else if (self.lingering[i].until < next)
			next = self.lingering[i].until;
	}
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
	if (first >= 0)
		self.first_pumped = (uint32_t)first + 1;
	if (self.n_waiting && self.orders->queue_ms) {
		int64_t due = self.waiting[self.first_waiting].at + (int64_t)self.orders->queue_ms * 1000000 + 1000000;

		if (due < next)
			next = due;
	}
	if (self.pause && self.pause <= now)
		self.pausing = 0, self.pause = 0;
	if (self.pause && self.pause < next)
		next = self.pause;
	if (next == INT64_MAX)
		return -1;
	left = (next - nst_now()) / 1000000 + 1;
	return left < 0 ? 0 : left > 60000 ? 60000 : (int)left;
}

static void dispatch(const struct epoll_event *e)
{
	int i = (int)(uint32_t)e->data;

	switch ((enum kind)(e->data >> 32)) {
	case SIGNALS:
		reap();
		break;
	case DOOR:
		open_door();
		break;
	case PEER:
		if (self.peers[i] >= 0)
			from_peer(i);
		break;
	case LISTENER:
		if (!self.listening || self.owner < 0)
			break;
		if (self.types[i] == SOCK_DGRAM_)
			take_datagram(i);
		else if (has_room())
			take(i);
		break;
	case LINK:
		if (self.links[i].place >= 0 && self.links[i].inner >= 0)
			pump(i);
		break;
	case ZYGOTE:
		from_zygote();
		break;
	case SESSION:
		if (places[i].session >= 0)
			from_session(i);
		break;
	case PLACE:
		if (places[i].control >= 0)
			from_place(i);
		break;
	case HEADER:
		if (self.headers[i].fd >= 0)
			from_header(i, (e->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0);
		break;
	case LINGER:
		if (self.lingering[i].fd >= 0)
			drain(i);
	}
}

/* Links that had their turn and were not done. */
static void pump_again(void)
{
	int at;

	for (at = 0; self.n_links && at < LINKS; at++)
		if (self.links[at].place >= 0 && self.links[at].again)
			pump(at);
}

/* A relayed connection needs six files; what the command may open is the spec's to say. */
static void raise_files(void)
{
	struct {
		uint64_t soft, hard;
	} limit = {0, 0};

	nst_raw4(__NR_prlimit64, 0, 7 /* RLIMIT_NOFILE */, 0, NST_P(&limit));
	if (limit.soft >= FILES)
		return;
	limit.soft = limit.hard < FILES ? limit.hard : FILES;
	nst_raw4(__NR_prlimit64, 0, 7, NST_P(&limit), 0);
}

_Noreturn void nst_serve(int control)
{
	struct nst_message started = {.type = NST_MSG_STARTED};
	struct epoll_event events[EVENTS];
	uint64_t all = ~0ull;
	int i, timeout;
	long n;

	for (i = 0; i < PEERS; i++)
		self.peers[i] = -1;
	for (i = 0; i < NST_LISTENERS; i++)
		self.listeners[i] = -1;
	for (i = 0; i < LINGERING; i++)
		self.lingering[i].fd = -1;
	for (i = 0; i < ASKING; i++)
		self.asking[i].fd = -1;
	for (i = 0; i < HEADERS; i++)
		self.headers[i].fd = -1;
	self.owner = self.reporter = self.door = self.null = self.log_end = self.board_fd = self.zygote = -1;
	self.seed[0] = draw();
	self.seed[1] = draw();
	nst_default_signals();
	raise_files();
	self.own_net = (int)nst_raw4(__NR_openat, AT_FDCWD, NST_P("/proc/self/ns/net"), O_RDONLY | O_CLOEXEC, 0);
	self.poll = (int)nst_raw1(__NR_epoll_create1, O_CLOEXEC);
	self.signals = (int)nst_raw4(__NR_signalfd4, -1, NST_P(&all), 8, O_CLOEXEC | O_NONBLOCK);
	if (self.poll < 0 || self.signals < 0)
		nst_leave(125);
	watch(self.signals, SIGNALS, 0, EPOLLIN);
	self.peers[0] = control;
	watch(control, PEER, 0, EPOLLIN);
	send_message(control, &started, -1);
	for (;;) {
		if (self.orders) {
			pump_again();
			from_queue(); /* those were taken, whoever says now to take more */
			if (self.owner >= 0)
				park();
			timeout = on_time();
			listen_to(self.owner >= 0 && !self.pausing, has_room());
			show_counts();
		} else {
			timeout = -1;
		}
		if (self.orders && self.owner >= 0 && wants_more())
			timeout = 0;
		n = nst_raw6(__NR_epoll_pwait, self.poll, NST_P(events), EVENTS, timeout, 0, 8);
		/* Connections come last: nobody is let in who came after the service had gone. */
		for (i = 0; i < n; i++)
			if (events[i].data >> 32 != LISTENER)
				dispatch(&events[i]);
		for (i = 0; i < n; i++)
			if (events[i].data >> 32 == LISTENER)
				dispatch(&events[i]);
	}
}
