/* Memory that outlives its sandbox: a file of memory that somebody else has. It counts where it was made, and the next
 * sandbox there would be short of it. Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst */
#include "serve.h"

static long read_text(int fd, char *ret, long size)
{
	long n = nst_raw4(__NR_pread64, fd, NST_P(ret), size - 1, 0);

	ret[n > 0 ? n : 0] = 0;
	return n;
}

static uint64_t number(const char *text)
{
	uint64_t n = 0;

	for (; *text >= '0' && *text <= '9'; text++)
		n = n * 10 + (uint64_t)(*text - '0');
	return n;
}

/* The number behind this word, at the begin of a line; 0: there is none. */
static uint64_t field(const char *text, const char *word)
{
	while (*text) {
		const char *w = word;

		for (; *w && *text == *w; text++)
			w++;
		if (!*w && *text == ' ')
			return number(text + 1);
		while (*text && *text++ != '\n')
			;
	}
	return 0;
}

/* Whether more than may be of a place's memory is held that the kernel cannot take back: not the copies of files. What is
 * charged in all is exact and soon read; what it is of takes longer, and is asked for only where that is much. */
int is_pinned(const struct place *p)
{
	static char text[8192];
	uint64_t most = (uint64_t)self.orders->pinned << 10;

	if (!most || read_text(p->usage, text, sizeof text) <= 0 || number(text) <= most)
		return 0;
	if (read_text(p->stat, text, sizeof text) <= 0)
		return 0;
	/* Version 1 says rss where version 2 says anon. */
	return field(text, "anon") + field(text, "rss") + field(text, "shmem") > most;
}
