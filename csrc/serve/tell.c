/* What a template tells its service, by messages with fds. unix(7) */
#include "serve.h"

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

enum { PASSED_AT = 16, SCM_RIGHTS_ = 1, SOL_SOCKET_ = 1 };

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
long send_fds(int fd, struct nst_message *m, const int32_t *fds, int n)
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
long receive_fds(int fd, struct nst_message *ret, int32_t *ret_fds, int *ret_n)
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

long send_message(int fd, struct nst_message *m, int passed)
{
	return send_fds(fd, m, &passed, passed >= 0);
}

/* 0 or -errno: nobody reads, or not fast enough. */
long tell_reporter(struct nst_message *m)
{
	return self.reporter >= 0 ? send_message(self.reporter, m, -1) : -EPIPE;
}
