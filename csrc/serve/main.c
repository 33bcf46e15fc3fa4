/* A template: PID 1 of a sandbox that is all made but for a command. It takes connections and makes a sandbox in itself
 * for each: a copy or a thread of this process, cloned into namespaces of its own, runs the steps that are left. Raw
 * system calls only. docs/adr/0017 */
#include "serve.h"

enum { EVENTS = 64, FILES = 65536 };

struct template self;
struct place *places;

static int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Do what is due. Returns the milliseconds to what comes next, -1: nothing does. */
static int on_time(void)
{
	int64_t now = nst_now(), next = places_on_time(now), left;

	next = earlier(next, links_on_time(now));
	next = earlier(next, lingering_on_time(now));
	next = earlier(next, headers_on_time(now));
	next = earlier(next, queue_on_time());
	if (self.pause && self.pause <= now)
		self.pausing = 0, self.pause = 0;
	if (self.pause)
		next = earlier(next, self.pause);
	if (next == INT64_MAX)
		return -1;
	left = (next - nst_now()) / 1000000 + 1;
	return left < 0 ? 0 : left > 60000 ? 60000 : (int)left;
}

static void dispatch(const struct epoll_event *e)
{
	struct epoll_event nothing = {0};
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
		/* Somebody has shut it, or it never listened: that would be said without a pause. */
		if (self.types[i] != SOCK_DGRAM_ && e->events & EPOLLHUP)
			nst_raw4(__NR_epoll_ctl, self.poll, EPOLL_CTL_DEL, self.listeners[i], NST_P(&nothing));
		else if (!self.listening || self.owner < 0)
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
	self.owner = self.reporter = self.door = self.null = self.log = self.log_end = self.board_fd = self.zygote = -1;
	self.backoff = PAUSE_NS;
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
