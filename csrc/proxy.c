/* The header, version 2, by which a load balancer or a TLS terminator says whose a connection is:
 * https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt. Raw memory only; what comes in is anybody's. */
#include "nstool.h"

enum {
	FIXED = 16, /* bytes before the addresses */
	LOCAL = 0x20,
	PROXY = 0x21,
	TCP4 = 0x11,
	TCP6 = 0x21,
	TLV = 3, /* type, size */
	TLS = 0x20,
	COMMON_NAME = 0x22,
	GIVEN = 6, /* a certificate in this connection, or in this session */
};

static uint32_t big16(const uint8_t *at)
{
	return (uint32_t)at[0] << 8 | at[1];
}

/* The value of the first field of this type; NULL: there is none, or it does not end. */
static const uint8_t *field(const uint8_t *at, const uint8_t *end, uint8_t type, uint32_t *ret_size)
{
	while (end - at >= TLV) {
		uint32_t size = big16(at + 1);

		if (size > (uint32_t)(end - at - TLV))
			return NULL;
		if (at[0] == type) {
			*ret_size = size;
			return at + TLV;
		}
		at += TLV + size;
	}
	return NULL;
}

/* What the terminator says of a certificate, if it has found it to be good. */
static void find_name(const uint8_t *at, const uint8_t *end, struct nst_proxy *ret)
{
	uint32_t size = 0, name = 0;
	const uint8_t *tls = field(at, end, TLS, &size), *found;

	if (!tls || size < 5 || !(tls[0] & GIVEN) || tls[1] | tls[2] | tls[3] | tls[4])
		return;
	found = field(tls + 5, tls + size, COMMON_NAME, &name);
	if (found && name) {
		ret->name = (uint32_t)(found - ret->begin);
		ret->name_size = name;
	}
}

int nst_proxy_header(const uint8_t *data, uint32_t size, struct nst_proxy *ret)
{
	static const uint8_t signature[12] = {'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n'};
	uint32_t i, length, addresses;

	*ret = (struct nst_proxy){.begin = data};
	for (i = 0; i < sizeof signature && i < size; i++)
		if (data[i] != signature[i])
			return -1;
	if (size < FIXED)
		return 0;
	length = FIXED + big16(data + 14);
	if ((data[12] != LOCAL && data[12] != PROXY) || length > NST_PROXY_MOST)
		return -1;
	if (size < length)
		return 0;
	if (data[12] == LOCAL) /* of the balancer itself: whose it is says the connection */
		return (int)length;
	addresses = data[13] == TCP4 ? 12 : data[13] == TCP6 ? 36 : 0;
	if (!addresses || length < FIXED + addresses)
		return -1;
	ret->family = data[13] == TCP4 ? 2 : 10; /* AF_INET, AF_INET6 */
	for (i = 0; i < (addresses - 4) / 2; i++)
		ret->address[i] = data[FIXED + i];
	ret->port[0] = data[FIXED + addresses - 4];
	ret->port[1] = data[FIXED + addresses - 3];
	find_name(data + FIXED + addresses, data + length, ret);
	return (int)length;
}

static uint64_t rotated(uint64_t x, int by)
{
	return x << by | x >> (64 - by);
}

static void mix(uint64_t *v)
{
	v[0] += v[1], v[1] = rotated(v[1], 13) ^ v[0], v[0] = rotated(v[0], 32);
	v[2] += v[3], v[3] = rotated(v[3], 16) ^ v[2];
	v[0] += v[3], v[3] = rotated(v[3], 21) ^ v[0];
	v[2] += v[1], v[1] = rotated(v[1], 17) ^ v[2], v[2] = rotated(v[2], 32);
}

/* SipHash-2-4, https://www.aumasson.jp/siphash/siphash.pdf: who does not know the key finds no two names that are alike. */
uint64_t nst_siphash(uint64_t key0, uint64_t key1, const uint8_t *data, uint64_t size)
{
	uint64_t v[4] = {key0 ^ 0x736f6d6570736575ull, key1 ^ 0x646f72616e646f6dull, key0 ^ 0x6c7967656e657261ull,
			 key1 ^ 0x7465646279746573ull};
	uint64_t at, word;
	int i;

	for (at = 0; at <= size / 8 * 8; at += 8) {
		word = at + 8 > size ? size << 56 : 0;
		for (i = 0; i < 8 && at + (uint64_t)i < size; i++)
			word |= (uint64_t)data[at + (uint64_t)i] << (8 * i);
		v[3] ^= word;
		mix(v), mix(v);
		v[0] ^= word;
	}
	v[2] ^= 0xff;
	for (i = 0; i < 4; i++)
		mix(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}
