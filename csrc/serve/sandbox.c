/* One sandbox in its place: how it begins and ends. */
#include "serve.h"

enum {
	PIPE_SIZE = 64 << 10, /* pipe(7) */
	PARKS = 2,	      /* sandboxes that are parked between two looks at what is new */
	WNOWAIT_ = 0x01000000,
	WALL_ = 0x40000000,
};

_Noreturn static void sandbox_main(void *arg)
{
	struct place *p = arg;

	p->share->first = nst_now();
	if (((const struct nst_plan *)p->plan)->flags & NST_WITH_INIT)
		nst_init_copy(&p->copy);
	nst_without_init(&p->copy);
}

/* Nothing runs in place i any more. */
static void vacate(int i, enum state state)
{
	struct place *p = &places[i];

	self.n_held += (state == HELD) - (p->state == HELD);
	p->state = state;
	p->pid = 0;
	p->deadline = state == HELD ? nst_now() + PAUSE_NS : 0;
	close_fd(&p->control);
	close_fd(&p->net);
	close_fd(&p->session);
	show(i);
}

void free_place(int i)
{
	vacate(i, EMPTY);
	self.free[(self.first_free + self.n_free++) % NST_PLACES] = i;
}

/* Leave a place to the next; one whose memory is held is looked at again after a while. */
static void leave_place(int i)
{
	if (is_pinned(&places[i]))
		vacate(i, HELD);
	else
		free_place(i);
}

/* The place that was left longest ago, so that what it had of its own is used again as late as can be; with a network
 * namespace that is lent, the one that was left last, so that few are lent. */
static int next_place(void)
{
	return self.free[(self.first_free + (self.orders->lease ? self.n_free - 1 : 0)) % NST_PLACES];
}

int take_place(void)
{
	int i = next_place();

	if (!self.orders->lease)
		self.first_free = (self.first_free + 1) % NST_PLACES;
	self.n_free--;
	return i;
}

/* The launcher's steps of place i, whose process there is: those behind clone3. */
int launcher_steps(struct place *p)
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

/* Send a signal to the process of a place, which may be on its way. */
void send_signal(struct place *p, int number)
{
	if (p->pid > 0)
		nst_raw2(__NR_kill, p->pid, number);
	else if (p->killed != SIGKILL)
		p->killed = number;
}

/* Whether a command begins without a connection, and knows of none of ours. */
static int begins_alone(void)
{
	return self.orders->shape == NST_PORT || self.orders->shape == NST_LISTENER;
}

/* The pipe of a place is one for all its lives: what a command has set of it is not handed down. fcntl(2) */
static void reset_log(const struct place *p)
{
	nst_raw3(__NR_fcntl, p->log, F_SETFL, NONBLOCKING);
	if (nst_raw3(__NR_fcntl, p->log, F_GETPIPE_SZ, 0) != PIPE_SIZE)
		nst_raw3(__NR_fcntl, p->log, F_SETPIPE_SZ, PIPE_SIZE);
}

/* Make the sandbox of place i. t: its connection, NULL for one that is parked. 0 or -errno. */
long start(int i, struct taken *t, int attest)
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
	p->resume = 0;
	p->stopped = p->overran = p->users = p->had = p->idle = p->deaf = p->ready = p->has_key = p->killed = p->spare =
		0;
	stamp(i);
	reset_log(p);
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
void idle_from(struct place *p, int64_t now)
{
	int64_t idle = self.orders->idle_ms ? now + (int64_t)self.orders->idle_ms * 1000000 : 0;

	p->deadline = idle && p->wall ? (idle < p->wall ? idle : p->wall) : idle + p->wall;
}

/* From here on the connection is the sandbox's: times count from it. */
void assigned(int i, const struct taken *t)
{
	struct place *p = &places[i];

	p->taken = *t;
	p->taken.fd = -1;
	p->state = SERVING;
	p->spare = 0;
	p->wall = self.orders->wall_ms ? nst_now() + (int64_t)self.orders->wall_ms * 1000000 : 0;
	p->deadline = p->wall;
	p->waited = t->listener >= 0 ? note(WAITED, t->at, nst_now()) : 0;
	p->byte = 0;
	show(i);
}

void no_start(const struct taken *t, int i)
{
	struct nst_failure f = places[i].share->failure;
	struct nst_message m = {.type = NST_MSG_FAILED, .step = f.step, .error = f.error, .detail = f.detail, .pid = i};

	remember(t, places[i].life, i, NST_NO_START, 0, NULL);
	tell_reporter(&m);
}

/* Whether a process has ended and is not reaped yet. waitid(2) */
static int has_ended(int pid)
{
	int32_t info[32] = {0}; /* a siginfo, whose first word is a signal's number where there is one */

	nst_raw5(__NR_waitid, 1 /* P_PID */, pid, NST_P(info), WNOWAIT_ | WALL_ | 5 /* WEXITED | WNOHANG */, 0);
	return info[0] != 0;
}

/* A sandbox that waits for a connection, -1: none does. */
int take_parked(void)
{
	while (self.n_parked) {
		int i = self.parked[self.first_parked];

		self.first_parked = (self.first_parked + 1) % NST_PLACES;
		self.n_parked--;
		if (places[i].pid == ASKED || !has_ended(places[i].pid))
			return i;
		places[i].state = ENDING;
		show(i);
	}
	return -1;
}

/* Whether one more sandbox is to be made that has no connection yet. */
int wants_more(void)
{
	uint32_t n = (uint32_t)self.n_parked;
	int i;

	if (!self.listening || !self.n_free || self.pause || zygote_is_busy())
		return 0;
	for (i = 0; self.orders->shape == NST_LISTENER && i < (int)self.orders->n_places; i++)
		n += places[i].state == SERVING;
	return n < self.orders->ready;
}

static struct taken no_client(void)
{
	return (struct taken){.fd = -1, .client = -1, .listener = -1, .at = nst_now(), .wall = real_now()};
}

void park(void)
{
	int n;

	for (n = 0; n < PARKS && wants_more(); n++) {
		struct taken nobody = no_client();
		int i = take_place();

		if (start(i, NULL, (int)self.orders->attest) < 0) {
			no_start(&nobody, i);
			free_place(i);
			self.pause = nst_now() + PAUSE_NS;
			return;
		}
		if (self.orders->shape == NST_LISTENER) {
			assigned(i, &nobody);
		} else {
			places[i].taken = nobody;
			places[i].spare = 1;
			self.parked[(self.first_parked + self.n_parked++) % NST_PLACES] = i;
		}
		show(i);
	}
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

/* Make a sandbox that nobody is connected to, for the service to look at. */
long try(void)
{
	struct taken nobody;
	long r;
	int i;

	if (!self.orders || !self.n_free)
		return -EBUSY;
	i = take_place();
	r = start(i, NULL, 1);
	nobody = no_client();
	if (r < 0) {
		no_start(&nobody, i); /* which tells why */
		free_place(i);
		return 0;
	}
	assigned(i, &nobody);
	places[i].wall = places[i].deadline = 0; /* it is ended when it has been looked at, however short a life is */
	if (!begins_alone())
		give(i, self.null);
	return 0;
}

/* Give a connection to a sandbox: one that is parked, or one of its own. 0: there is no place. ret_place, if not NULL:
 * which it is of one that serves this connection alone. */
int place_it(struct taken *t, int *ret_place)
{
	int i;

	if (self.orders->shape == NST_PORT)
		return link_it(t);
	i = take_parked();
	if (i >= 0) {
		if (ret_place)
			*ret_place = i;
		assigned(i, t);
		give(i, t->fd);
		close_fd(&t->fd);
		return 1;
	}
	if (!self.n_free || zygote_is_busy())
		return 0;
	i = take_place();
	if (ret_place)
		*ret_place = i;
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

/* End a sandbox: SIGTERM first gets a deadline for SIGKILL. */
void end_place(int i, int number)
{
	struct place *p = &places[i];

	if (p->state == EMPTY || p->state == HELD)
		return;
	p->stopped = 1;
	if (p->state == PARKED) {
		number = SIGKILL; /* it has no command yet */
		unpark(i);	  /* nobody is given to it while it ends */
	}
	p->state = ENDING;
	send_signal(p, number);
	if (number != SIGKILL)
		p->deadline = nst_now() + (int64_t)self.orders->grace_ms * 1000000;
	show(i);
}

/* The next one that nobody waits for is made after a pause, a longer one each time that one has failed at once. */
static void pause_after(const struct place *p, int status, int64_t now)
{
	const int64_t most = PAUSE_NS * 64ll;
	int failed = !p->stopped && (p->spare || status);

	if (!failed || (p->share->first && now - p->share->first > 1000000000))
		self.backoff = PAUSE_NS;
	self.pause = now + self.backoff;
	if (failed && self.backoff < most)
		self.backoff *= 2;
}

void ended(int i, int wait_status)
{
	struct place *p = &places[i];
	int status = p->share->status >= 0 ? p->share->status : wait_status;
	uint32_t us[NST_STAGES - 1] = {0};
	int64_t now = nst_now();
	enum nst_cause cause;

	if (p->state == PARKED)
		unpark(i);
	p->state = ENDING; /* its links do not end it by going */
	close_links_of(i);
	if (p->spare || self.orders->shape == NST_LISTENER)
		pause_after(p, status, now);
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
		if (p->taken.listener >= 0) { /* there was a connection */
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
	leave_place(i);
}

void reap(void)
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

/* End those whose time is over. Returns when the next one's is; INT64_MAX: none. */
int64_t places_on_time(int64_t now)
{
	int64_t next = INT64_MAX;
	int i;

	for (i = 0; i < (int)self.orders->n_places; i++) {
		struct place *p = &places[i];

		if (p->state == EMPTY || !p->deadline)
			continue;
		if (p->state == HELD && p->deadline <= now) {
			leave_place(i);
		} else if (p->deadline <= now) {
			int overran = p->wall && p->wall <= now, alone = !overran && (p->idle || p->session >= 0);
			int last = p->state == ENDING || alone;

			send_signal(p, last ? SIGKILL : (int)self.orders->stop);
			p->idle = p->state == ENDING ? p->idle : alone;
			p->overran |= !p->stopped && !p->idle;
			p->state = ENDING;
			p->deadline = now + (last ? 1000000000 : (int64_t)self.orders->grace_ms * 1000000);
			show(i);
		}
		if (p->deadline && p->deadline < next)
			next = p->deadline;
	}
	return next;
}
