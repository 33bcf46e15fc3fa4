/* Clients, and what each of them may have. */
#include "serve.h"

enum { PROBES = 16 };

/* Whether an address is one of its link alone. */
int is_link_local(const uint8_t *address)
{
	return address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

/* A client's address as it is kept: 16 bytes of it, port, family; one of IPv4 in IPv6 is one of IPv4. Where it is of a link
 * the link's number stands in the part that is 0 there (RFC 4291, 2.5.6). */
void keep_address(const union address *a, uint8_t *ret)
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
		if (!is_mapped && is_link_local(ret))
			copy_bytes(ret + LINK_AT, &a->in6.sin6_scope_id, 4);
	}
}

int limits_clients(void)
{
	return self.orders->client_most || self.orders->client_rate;
}

/* The address of a client without what its prefix leaves out, or its user. Returns 0 where there is none. */
int client_key(const uint8_t *from, uint8_t *ret_key)
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

int same_key(const uint8_t *a, const uint8_t *b)
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
enum nst_cause admit(struct taken *t)
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

void forget_client(struct taken *t)
{
	if (t->client >= 0 && self.clients[t->client].live)
		self.clients[t->client].live--;
	t->client = -1;
}
