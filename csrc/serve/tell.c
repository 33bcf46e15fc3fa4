/* What a template tells its service. */
#include "serve.h"

/* Who does not read misses something, and holds nobody up. */
long send_message(int fd, struct nst_message *m, int passed)
{
	return nst_send_fds(fd, m, &passed, passed >= 0, 0);
}

/* 0 or -errno: nobody reads, or not fast enough. */
long tell_reporter(struct nst_message *m)
{
	return self.reporter >= 0 ? send_message(self.reporter, m, -1) : -EPIPE;
}
