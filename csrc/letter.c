/* Messages with fds, between a service, its template and the zygote in it. unix(7) */
#include "nstool.h"

#include <linux/errno.h>

#include "raw.h"

/* As sendmsg(2), recvmsg(2) and cmsg(3) have it. */
struct letter {
	struct {
		uint64_t len;
		int32_t level, type;
		int32_t fds[NST_LETTER_FDS];
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

enum {
	PASSED_AT = 16,
	SCM_RIGHTS_ = 1,
	SOL_SOCKET_ = 1,
	DONTWAIT = 0x40,
	NOSIGNAL = 0x4000,
	CMSG_CLOEXEC = 0x40000000,
	CTRUNC = 8
};

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

long nst_send_fds(int fd, struct nst_message *m, const int32_t *fds, int n, int wait)
{
	struct letter l;
	long r;
	int i;

	if (n > NST_LETTER_FDS)
		return -EINVAL;
	l.passed.len = PASSED_AT + 4 * (uint64_t)n;
	l.passed.level = SOL_SOCKET_;
	l.passed.type = SCM_RIGHTS_;
	for (i = 0; i < n; i++)
		l.passed.fds[i] = fds[i];
	put_letter(&l, m, n ? l.passed.len : 0);
	do
		r = nst_raw3(__NR_sendmsg, fd, NST_P(&l.head), NOSIGNAL | (wait ? 0 : DONTWAIT));
	while (r == -EINTR);
	return r < 0 ? r : 0;
}

long nst_receive_fds(int fd, struct nst_message *ret, int32_t *ret_fds, int *ret_n, int wait)
{
	struct letter l;
	long r;

	put_letter(&l, ret, sizeof l.passed);
	do
		r = nst_raw3(__NR_recvmsg, fd, NST_P(&l.head), CMSG_CLOEXEC | (wait ? 0 : DONTWAIT));
	while (r == -EINTR && wait);
	*ret_n = 0;
	if (r > 0 && l.head.controllen > PASSED_AT && l.passed.type == SCM_RIGHTS_)
		for (; *ret_n < (int)((l.passed.len - PASSED_AT) / 4); ++*ret_n)
			ret_fds[*ret_n] = l.passed.fds[*ret_n];
	if (r > 0 && l.head.flags & CTRUNC) { /* which of them are missing is not told */
		while (*ret_n)
			nst_raw1(__NR_close, ret_fds[--*ret_n]);
		return -EMFILE;
	}
	return r;
}
