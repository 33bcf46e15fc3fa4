/* What services say to their template. */
#include "serve.h"

/* which: a place, or all. pid: whom it is for, not who has the place after him; 0: anybody. */
static void end_places(int which, int pid, int number)
{
	int i, asked = 0;

	if (number < 1 || number > 64 || !self.orders)
		return;
	for (i = 0; i < (int)self.orders->n_places; i++)
		if ((which < 0 || which == i) && (!pid || pid == places[i].pid)) {
			end_place(i, number);
			asked |= places[i].pid == ASKED;
		}
	if (which < 0)
		refuse_all();
	/* A zygote that was stopped makes none of those it was asked for; with it all of the template ends. */
	if (which < 0 && number == SIGKILL && asked)
		nst_raw2(__NR_kill, self.zygote_pid, SIGKILL);
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

static void send_logs(int peer, int first)
{
	struct nst_message m = {.type = NST_MSG_HELD, .detail = first};
	int32_t fds[NST_LETTER_FDS];
	int n = 0;

	while (self.orders && first >= 0 && n < NST_LETTER_FDS && n < (int)self.orders->n_places - first &&
	       places[first + n].has_fds) {
		fds[n] = places[first + n].log_end;
		n++;
	}
	nst_send_fds(peer, &m, fds, n, 0);
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

/* Tell that a sandbox waits to be attested; where nobody can be told it waits for the next service. */
static void tell_ready(int i)
{
	struct nst_message m = {.type = NST_MSG_READY, .detail = i, .pid = places[i].pid};

	if (self.reporter >= 0 && tell_reporter(&m) < 0)
		end_place(i, SIGKILL); /* it would wait for ever */
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
	case NST_MSG_LOGS:
		send_logs(peer, m->detail);
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

/* Whether nobody can say anything any more: there is no peer, and the door comes with the orders. */
static int is_alone(void)
{
	int i;

	for (i = 0; i < PEERS; i++)
		if (self.peers[i] >= 0)
			return 0;
	return !self.orders;
}

static void drop_peer(int i)
{
	if (self.owner == self.peers[i])
		self.owner = -1;
	if (self.reporter == self.peers[i])
		self.reporter = -1;
	close_fd(&self.peers[i]);
	if (is_alone())
		nst_leave(125);
}

void from_peer(int i)
{
	struct nst_message m;
	int32_t fds[NST_LETTER_FDS];
	int n, k;
	long r = nst_receive_fds(self.peers[i], &m, fds, &n, 0);

	if (r == -EAGAIN || r == -EINTR)
		return;
	if (r == (long)sizeof m)
		obey(self.peers[i], &m, fds, n);
	else
		drop_peer(i);
	for (k = 0; k < n; k++)
		close_fd(&fds[k]);
}

void open_door(void)
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

/* What a sandbox that is to be attested says: it is ready for that. */
void from_place(int i)
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
