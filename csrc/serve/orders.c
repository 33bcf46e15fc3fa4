/* The orders of a template: what they may be, and the memory for its places. */
#include "serve.h"

static void *map(uint64_t size, int fd, int flags)
{
	long p =
		nst_raw6(__NR_mmap, 0, (long)size, PROT_READ | PROT_WRITE, flags | (fd < 0 ? MAP_ANONYMOUS : 0), fd, 0);

	return p < 0 && p > -4096 ? NULL : (void *)p;
}

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

/* Whether the plan is one that can be made here: one clone3 of the launcher, as who this is; before it nothing of the
 * launcher. */
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
		if (self.clone_at < 0 || (self.clone_at == i && s->arg[3]))
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
		places[i].log = places[i].log_end = places[i].usage = places[i].stat = places[i].lease = -1;
		places[i].control = places[i].net = places[i].session = -1;
	}
	for (i = 0; i < LINKS; i++)
		self.links[i].place = -1;
	return 0;
}

long configure(const struct nst_message *m, int *fds, int n)
{
	uint64_t size = (uint32_t)m->status;
	void *orders; /* fds: these, the board, the door, /dev/null, where the log is read, and written */

	if (self.orders || n != 6)
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
	self.log = fds[5];
	watch(self.door, DOOR, 0, EPOLLIN);
	fds[1] = fds[2] = fds[3] = fds[4] = fds[5] = -1;
	return make_places();
}

long add_place(const struct nst_message *m, int *fds, int n)
{
	struct place *p;
	int i;

	if (!self.orders || m->detail < 0 || m->detail >= (int)self.orders->n_places ||
	    n != (int)self.orders->n_fds + 2 + (self.orders->pinned ? 2 : 0))
		return -EINVAL;
	p = &places[m->detail];
	if (p->has_fds)
		return -EEXIST;
	p->log = fds[0]; /* a pipe of its own: what a command does to it is no other place's */
	p->log_end = fds[1];
	fds[0] = fds[1] = -1;
	for (i = 2; i < (int)self.orders->n_fds + 2; i++) {
		p->fds[i - 2] = fds[i];
		fds[i] = -1;
	}
	if (self.orders->pinned) {
		p->usage = fds[i];
		p->stat = fds[i + 1];
		fds[i] = fds[i + 1] = -1;
	}
	p->has_fds = 1;
	free_place(m->detail);
	if (self.orders->shape == NST_ZYGOTE && self.zygote < 0 && m->detail == 0)
		return start_zygote(self.plans);
	return 0;
}

long add_listener(const struct nst_message *m, int *fds, int n)
{
	long flags, wanted;

	if (!self.orders || n != 1 || m->detail < 0 || m->detail >= NST_LISTENERS || self.listeners[m->detail] >= 0)
		return -EINVAL;
	flags = nst_raw3(__NR_fcntl, fds[0], F_GETFL, 0);
	/* Commands that have it themselves expect one that waits, as sd_listen_fds(3) gives it. */
	wanted = self.orders->shape == NST_LISTENER ? flags & ~(long)NONBLOCKING : flags | NONBLOCKING;
	if (flags < 0 || nst_raw3(__NR_fcntl, fds[0], F_SETFL, wanted) < 0)
		return -EINVAL;
	self.listeners[m->detail] = fds[0];
	self.types[m->detail] = m->pid;
	fds[0] = -1;
	if (self.orders->shape != NST_LISTENER) /* else it is for the commands alone */
		watch(self.listeners[m->detail], LISTENER, m->detail,
		      self.listening && (self.has_room || m->pid == SOCK_DGRAM_) ? EPOLLIN : 0);
	return 0;
}
