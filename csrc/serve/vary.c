/* What varies from sandbox to sandbox, drawn and put into its plan. */
#include "serve.h"

uint64_t draw(void)
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
void stamp(int i)
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
