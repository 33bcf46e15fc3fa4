/* nsexec: run a compiled plan without Python. `nsexec FILE [ARGS]`; also the image that PID 1 runs. */
#include "nstool.h"

#include <asm/poll.h>
#include <asm/signal.h>
#include <asm/stat.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/sched.h>
#include <linux/signalfd.h>

#include "raw.h"

enum { USAGE = 2, CANNOT = 125, NOT_EXECUTABLE = 126, NOT_FOUND = 127, IMAGE_FD_SEALS = 15 };

_Noreturn static void leave(int status)
{
	for (;;)
		nst_raw1(__NR_exit_group, status);
}

static int same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static size_t length(const char *s)
{
	size_t n = 0;

	while (s[n])
		n++;
	return n;
}

static void say(const char *s)
{
	nst_raw3(__NR_write, 2, NST_P(s), (long)length(s));
}

static void say_number(long n)
{
	char digits[24], *p = digits + sizeof digits - 1;

	*p = 0;
	if (n < 0) {
		say("-");
		n = -n;
	}
	do
		*--p = (char)('0' + n % 10);
	while (n /= 10);
	say(p);
}

/* Names of the errors that a launch meets; the rest by number. */
static void say_error(int e)
{
	static const struct {
		int number;
		char name[16];
	} names[] = {{EPERM, "EPERM"},	 {ENOENT, "ENOENT"}, {EACCES, "EACCES"}, {EBUSY, "EBUSY"},
		     {EEXIST, "EEXIST"}, {EINVAL, "EINVAL"}, {EMFILE, "EMFILE"}, {ENOSPC, "ENOSPC"},
		     {ENOSYS, "ENOSYS"}, {ENOMEM, "ENOMEM"}, {EAGAIN, "EAGAIN"}, {ENOTDIR, "ENOTDIR"},
		     {ELOOP, "ELOOP"},	 {EUSERS, "EUSERS"}, {EROFS, "EROFS"},	 {ENOEXEC, "ENOEXEC"},
		     {EBADF, "EBADF"},	 {EPIPE, "EPIPE"},   {ENODEV, "ENODEV"}, {EOVERFLOW, "EOVERFLOW"}};
	size_t i;

	for (i = 0; i < sizeof names / sizeof *names; i++)
		if (names[i].number == e) {
			say(names[i].name);
			return;
		}
	say("errno ");
	say_number(e);
}

static const struct nst_step *step_of(const uint8_t *plan, int i)
{
	return (const struct nst_step *)(plan + ((const struct nst_plan *)plan)->steps_offset) + i;
}

/* Say which step of how many failed and how. Returns the exit status. */
static int explain(const uint8_t *plan, const struct nst_failure *f)
{
	const struct nst_plan *h = (const struct nst_plan *)plan;
	const char *call = f->step >= 0 ? nst_call_name(step_of(plan, f->step)->call) : "launch";
	int n = 0, i;

	for (i = 0; i < (int)h->n_steps; i++)
		n += step_of(plan, i)->who != NST_UNDO;
	say("nsexec: step ");
	say_number(f->step + 1);
	say(" of ");
	say_number(n);
	say(", ");
	say(call);
	say(": ");
	say_error(f->error);
	say("\n");
	if (same(call, "execve"))
		return f->error == ENOENT || f->error == ENOTDIR ? NOT_FOUND : NOT_EXECUTABLE;
	return CANNOT;
}

_Noreturn static void die(int status, const char *what, const char *file, long error)
{
	say("nsexec: ");
	say(file);
	say(": ");
	say(what);
	if (error) {
		say(": ");
		say_error((int)-error);
	}
	say("\n");
	leave(status);
}

/* The plan of FILE, writable and aligned; a first line "#!..." is skipped. Extra bytes for `room`. */
static uint8_t *load(const char *file, uint64_t room, uint64_t *ret_size)
{
	long fd = nst_raw4(__NR_openat, AT_FDCWD, NST_P(file), O_RDONLY | O_CLOEXEC, 0), p, n;
	struct stat st;
	uint64_t size, skip = 0, i;
	uint8_t *at;

	if (fd < 0)
		die(USAGE, "cannot open the plan", file, fd);
	n = nst_raw2(__NR_fstat, fd, NST_P(&st));
	if (n < 0 || st.st_size <= 0 || st.st_size > NST_MAX_PLAN)
		die(USAGE, "not a compiled plan; make one with nstool compile SPEC -o FILE", file, 0);
	size = (uint64_t)st.st_size;
	p = nst_raw6(__NR_mmap, 0, (long)(size + room), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p < 0 && p > -4096)
		die(CANNOT, "no memory", file, p);
	at = (uint8_t *)p;
	for (i = 0; i < size; i += (uint64_t)n) {
		n = nst_raw3(__NR_read, fd, p + (long)i, (long)(size - i));
		if (n <= 0)
			die(USAGE, "cannot read the plan", file, n);
	}
	nst_raw1(__NR_close, fd);
	if (size > 2 && at[0] == '#' && at[1] == '!') {
		while (skip < size && at[skip] != '\n')
			skip++;
		skip += skip < size;
		size -= skip;
		for (i = 0; i < size; i++)
			at[i] = at[i + skip];
	}
	*ret_size = size;
	return at;
}

/* Put ARGS behind the command's own arguments: the last step's argv grows at the end of the pool. */
static void append_args(uint8_t *plan, char *const *args)
{
	struct nst_plan *h = (struct nst_plan *)plan;
	struct nst_step *s = NULL;
	uint32_t from, len, at;
	int i;

	for (i = 0; i < (int)h->n_steps; i++)
		if (same(nst_call_name(step_of(plan, i)->call), "execve"))
			s = (struct nst_step *)step_of(plan, i);
	if (!s || !*args)
		return;
	from = h->pool_offset + (uint32_t)s->arg[1];
	len = (uint32_t)(s->arg[1] >> 32);
	at = h->size;
	for (i = 0; i < (int)len; i++)
		plan[at++] = plan[from + (uint32_t)i];
	for (; *args; args++)
		for (i = 0; i <= (int)length(*args); i++)
			plan[at++] = (uint8_t)(*args)[i];
	s->arg[1] = (uint64_t)(at - h->size) << 32 | (h->size - h->pool_offset);
	h->pool_size = at - h->pool_offset;
	h->size = at;
}

/* This very program in a sealed memfd: nothing inside can write it (CVE-2019-5736). */
static long make_image(void)
{
	long self = nst_raw4(__NR_openat, AT_FDCWD, NST_P("/proc/self/exe"), O_RDONLY | O_CLOEXEC, 0), fd, n;

	if (self < 0)
		return self;
	fd = nst_raw2(__NR_memfd_create, NST_P("nsexec"), 1 | 2 /* MFD_CLOEXEC | MFD_ALLOW_SEALING */);
	if (fd < 0)
		return fd;
	do
		n = nst_raw4(__NR_sendfile, fd, self, 0, 1 << 20);
	while (n > 0);
	nst_raw1(__NR_close, self);
	if (n == 0)
		n = nst_raw3(__NR_fcntl, fd, F_ADD_SEALS, IMAGE_FD_SEALS);
	return n < 0 ? n : fd;
}

/* Follow the sandbox to its end: forward signals to it, take its report. Returns the exit status. */
static int follow(const uint8_t *plan, struct nst_launch *l, int signals)
{
	struct pollfd p[2] = {{l->control, POLLIN, 0}, {signals, POLLIN, 0}};
	int status = 0, result = -1;
	struct nst_message m;
	long n;

	while (p[0].fd >= 0) {
		n = nst_raw5(__NR_ppoll, NST_P(p), 2, 0, 0, 8);
		if (n <= 0)
			continue;
		if (p[1].revents) {
			struct signalfd_siginfo si;

			while (nst_raw3(__NR_read, signals, NST_P(&si), sizeof si) == sizeof si)
				if (si.ssi_signo != SIGCHLD)
					nst_raw4(__NR_pidfd_send_signal, l->pidfd, (long)si.ssi_signo, 0, 0);
		}
		if (!p[0].revents)
			continue;
		n = nst_raw6(__NR_recvfrom, l->control, NST_P(&m), sizeof m, 0, 0, 0);
		if (n == (long)sizeof m && m.type == NST_MSG_FAILED) {
			struct nst_failure f = {.step = m.step, .error = m.error, .detail = m.detail};

			result = explain(plan, &f);
		} else if (n <= 0 && n != -EINTR) {
			p[0].fd = -1;
		}
	}
	/* Without init the socket closes at exec: what is left is to wait, and to forward. */
	for (;;) {
		struct pollfd q[2] = {{l->pidfd, POLLIN, 0}, {signals, POLLIN, 0}};

		nst_raw5(__NR_ppoll, NST_P(q), 2, 0, 0, 8);
		if (q[1].revents) {
			struct signalfd_siginfo si;

			while (nst_raw3(__NR_read, signals, NST_P(&si), sizeof si) == sizeof si)
				if (si.ssi_signo != SIGCHLD)
					nst_raw4(__NR_pidfd_send_signal, l->pidfd, (long)si.ssi_signo, 0, 0);
		}
		if (q[0].revents)
			break;
	}
	while (nst_raw4(__NR_wait4, l->pid, NST_P(&status), 0x40000000 /* __WALL */, 0) == -EINTR)
		;
	if (result >= 0)
		return result;
	return (status & 0x7f) ? 128 + (status & 0x7f) : status >> 8 & 0xff;
}

static int run(const char *file, char *const *args)
{
	static struct nst_launch l;
	uint64_t size, room = 8, all = ~0ull;
	struct nst_failure f;
	char *const *a;
	uint8_t *plan;
	int i, status;
	long image, signals, r;

	for (a = args; *a; a++)
		room += length(*a) + 1;
	plan = load(file, room + NST_MAX_PLAN / 2, &size);
	if (nst_plan_check(plan, size, &f) < 0) {
		say("nsexec: step ");
		say_number(f.step + 1);
		say(", reason ");
		say_number(f.detail);
		say(": ");
		die(USAGE, "not a compiled plan of this version; make it again with nstool compile SPEC -o FILE", file, 0);
	}
	for (i = 0; i < (int)((struct nst_plan *)plan)->n_steps; i++)
		if (same(nst_call_name(step_of(plan, i)->call), "external"))
			die(USAGE, "this plan needs nstool (network set-up); use nstool run", file, 0);
	if (((struct nst_plan *)plan)->n_given)
		die(USAGE, "this plan needs fds from its caller; use nstool run", file, 0);
	append_args(plan, args);
	image = make_image();
	if (image < 0)
		die(CANNOT, "cannot make the image of init", file, image);
	l.plan = plan;
	l.size = ((struct nst_plan *)plan)->size;
	l.image = (int32_t)image;
	nst_launch_begin(&l);
	nst_raw4(__NR_rt_sigprocmask, SIG_BLOCK, NST_P(&all), 0, 8);
	signals = nst_raw4(__NR_signalfd4, -1, NST_P(&all), 8, O_CLOEXEC | O_NONBLOCK);
	if (signals < 0)
		die(CANNOT, "signalfd", file, signals);
	r = nst_launch_run(&l);
	nst_launch_close(&l);
	if (r < 0) {
		nst_launch_kill(&l);
		status = explain(plan, &l.failure);
	} else {
		status = follow(plan, &l, (int)signals);
	}
	if (nst_launch_undo(&l) > 0) {
		say("nsexec: undo: ");
		explain(plan, &l.failure);
	}
	return status;
}

static int number(const char *s)
{
	int n = 0;

	for (; *s >= '0' && *s <= '9' && n < 100000000; s++)
		n = n * 10 + (*s - '0');
	return *s ? -1 : n;
}

__attribute__((used)) _Noreturn void nst_main(long *stack);

_Noreturn void nst_main(long *stack)
{
	long argc = stack[0];
	char *const *argv = (char *const *)(stack + 1);

	if (argc == 2 && same(argv[0], "nsexec:init"))
		nst_init(number(argv[1]));
	if (argc < 2 || same(argv[1], "--help") || same(argv[1], "-h")) {
		say("usage: nsexec FILE [ARGS]\n"
		    "Run the plan in FILE (made by nstool compile); ARGS are added to its command.\n"
		    "Exit status: the command's (128+n for signal n), 2 bad plan, 125 could not build the\n"
		    "sandbox, 126 not executable, 127 not found.\n");
		leave(argc < 2 ? USAGE : 0);
	}
	leave(run(argv[1], argv + 2));
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall nst_main\n");
