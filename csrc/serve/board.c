/* The board: what a service reads of its template at any time, in shared memory. */
#include "serve.h"

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

uint32_t note(enum stage stage, int64_t from, int64_t to)
{
	uint64_t us = to > from ? (uint64_t)(to - from) / 1000 : 0;

	if (!to)
		return 0; /* it ended before that */
	self.board->sums[stage] += us;
	self.board->buckets[stage][bucket(us)]++;
	return us > UINT32_MAX ? UINT32_MAX : (uint32_t)us;
}

void show(int i)
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

/* A connection is listened for, then queued, then live. What it becomes is stored before what it was, and who looks reads
 * in the other order: so it is always seen, and nobody ends a template because there seems to be nothing left. */
void show_counts(void)
{
	struct nst_board *b = self.board;

	b->parked = (uint32_t)self.n_parked;
	__atomic_store_n(&b->live, self.orders->n_places - (uint32_t)(self.n_free + self.n_parked + self.n_held),
			 __ATOMIC_RELEASE);
	__atomic_store_n(&b->queued, (uint32_t)(self.n_waiting + self.n_asking + self.n_headers), __ATOMIC_RELEASE);
	__atomic_store_n(&b->accepting, (uint32_t)self.listening, __ATOMIC_RELEASE);
}

void remember(const struct taken *t, uint64_t life, int place, enum nst_cause cause, int status,
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
