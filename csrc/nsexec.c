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

static const char NOT_A_PLAN[] = "not a compiled plan; make one with nstool compile SPEC -o FILE";

static void say(const char *s)
{
	nst_raw3(__NR_write, 2, NST_P(s), (long)nst_length(s));
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
	} names[] = {{EPERM, "EPERM"},	 {ENOENT, "ENOENT"},
		     {EACCES, "EACCES"}, {EBUSY, "EBUSY"},
		     {EEXIST, "EEXIST"}, {EINVAL, "EINVAL"},
		     {EMFILE, "EMFILE"}, {ENOSPC, "ENOSPC"},
		     {ENOSYS, "ENOSYS"}, {ENOMEM, "ENOMEM"},
		     {EAGAIN, "EAGAIN"}, {ENOTDIR, "ENOTDIR"},
		     {ELOOP, "ELOOP"},	 {EUSERS, "EUSERS"},
		     {EROFS, "EROFS"},	 {ENOEXEC, "ENOEXEC"},
		     {EBADF, "EBADF"},	 {EPIPE, "EPIPE"},
		     {ENODEV, "ENODEV"}, {EOVERFLOW, "EOVERFLOW"},
		     {EISDIR, "EISDIR"}, {E2BIG, "E2BIG"},
		     {ENFILE, "ENFILE"}, {EFBIG, "EFBIG"},
		     {EIO, "EIO"},	 {ENAMETOOLONG, "ENAMETOOLONG"}};
	size_t i;

	for (i = 0; i < sizeof names / sizeof *names; i++)
		if (names[i].number == e) {
			say(names[i].name);
			return;
		}
	say("errno ");
	say_number(e);
}

/* What a call is about: the command that it executes, or else its last string that is not empty, a path mostly.
 * NULL if there is none. */
static const char *subject(const uint8_t *plan, const struct nst_step *s)
{
	const char *kinds = nst_call_kinds(s->call);
	uint64_t found = 0;
	int i;

	if (kinds[0] == 'v') /* execve: files, argv, environment; spawn: argv */
		found = s->arg[kinds[1] == 'v'];
	else
		for (i = 0; kinds[i]; i++)
			if (kinds[i] == 's' && s->arg[i] >> 32) /* its length */
				found = s->arg[i];
	if (!(found >> 32))
		return NULL;
	return (const char *)plan + ((const struct nst_plan *)plan)->pool_offset + (uint32_t)found;
}

/* Say which step of how many failed and how. Returns the exit status. */
static int explain(const uint8_t *plan, const struct nst_failure *f)
{
	const struct nst_plan *h = (const struct nst_plan *)plan;
	const struct nst_step *s = NULL;
	const char *about = NULL;
	int n = 0, i;

	for (i = 0; i < (int)h->n_steps; i++)
		n += nst_step_at(plan, i)->who != NST_UNDO;
	say("nsexec: ");
	if (f->step >= 0 && f->step < (int)h->n_steps) {
		s = nst_step_at(plan, f->step);
		about = subject(plan, s);
		if (f->step < n) {
			say("step ");
			say_number(f->step + 1);
			say(" of ");
			say_number(n);
			say(", ");
		} else {
			say("undo, ");
		}
	}
	say(s ? nst_call_name(s->call) : "launch");
	if (about) {
		say(" of ");
		say(about);
	}
	say(": ");
	say_error(f->error);
	if (s && nst_call_is(s, "execve")) {
		say("\n");
		return f->error == ENOENT || f->error == ENOTDIR ? NOT_FOUND : NOT_EXECUTABLE;
	}
	say(s ? "; nstool plan FILE shows the step\n" : "\n");
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
	nst_leave(status);
}

/* The plan of FILE, writable and aligned, with `room` more bytes behind it; a first line "#!..." is skipped. */
static uint8_t *load(const char *file, uint64_t room, uint64_t *ret_size)
{
	/* O_NONBLOCK: or a FIFO without a writer would hold us here. */
	long fd = nst_raw4(__NR_openat, AT_FDCWD, NST_P(file), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0), p, n;
	struct stat st;
	uint64_t size, skip = 0, i;
	uint8_t *at;

	if (fd < 0)
		die(USAGE, "cannot open the plan", file, fd);
	n = nst_raw2(__NR_fstat, fd, NST_P(&st));
	if (n < 0 || st.st_size <= 0 || st.st_size > NST_MAX_PLAN)
		die(USAGE, NOT_A_PLAN, file, 0);
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

/* The first step that makes this call, or NULL. */
static struct nst_step *find(uint8_t *plan, const char *call)
{
	int i;

	for (i = 0; i < (int)((struct nst_plan *)plan)->n_steps; i++)
		if (nst_call_is(nst_step_at(plan, i), call))
			return (struct nst_step *)nst_step_at(plan, i);
	return NULL;
}

/* Put ARGS behind the command's own arguments: its argv moves to the end of the pool and grows there. The
 * caller has room there for as much as the plan itself and ARGS. 0, or -E2BIG. */
static long append_args(uint8_t *plan, char *const *args)
{
	struct nst_plan *h = (struct nst_plan *)plan;
	struct nst_step *s = find(plan, "execve");
	uint64_t from, len, at = h->size, i;

	if (!s || !*args)
		return 0;
	from = h->pool_offset + (uint32_t)s->arg[1];
	len = s->arg[1] >> 32;
	for (i = 0; i < len; i++)
		plan[at++] = plan[from + i];
	for (; *args; args++) {
		const char *a = *args;

		do
			plan[at++] = (uint8_t)*a;
		while (*a++);
	}
	if (at > NST_MAX_PLAN)
		return -E2BIG;
	s->arg[1] = (at - h->size) << 32 | (h->size - h->pool_offset);
	h->pool_size = (uint32_t)at - h->pool_offset;
	h->size = (uint32_t)at;
	return 0;
}

/* The plan of FILE, checked, with ARGS added. */
static uint8_t *prepare(const char *file, char *const *args)
{
	uint64_t size, room = NST_MAX_PLAN;
	struct nst_failure f;
	char *const *a;
	uint8_t *plan;

	for (a = args; *a; a++)
		room += nst_length(*a) + 1;
	plan = load(file, room, &size);
	if (nst_plan_check(plan, size, &f) < 0) {
		if (((struct nst_plan *)plan)->magic != NST_MAGIC)
			die(USAGE, NOT_A_PLAN, file, 0);
		say("nsexec: ");
		say(file);
		say(": not a compiled plan of this version, or a damaged one (step ");
		say_number(f.step + 1);
		say(", reason ");
		say_number(f.detail);
		say("); make it again with nstool compile SPEC -o FILE\n");
		nst_leave(USAGE);
	}
	if (find(plan, "external"))
		die(USAGE, "this plan needs nstool (network set-up); use nstool run", file, 0);
	if (find(plan, "send_fd"))
		die(USAGE, "this plan needs nstool (a terminal of its own); use nstool run, or terminal = never", file,
		    0);
	if (find(plan, "attest"))
		die(USAGE, "this plan needs nstool (attestation); use nstool run, or attest = false", file, 0);
	if (((struct nst_plan *)plan)->n_given > 3)
		die(USAGE, "this plan needs more fds from its caller than the standard streams; use nstool run", file,
		    0);
	if (append_args(plan, args) < 0 || nst_plan_check(plan, ((struct nst_plan *)plan)->size, &f) < 0)
		die(USAGE, "too many ARGS for a plan", file, -E2BIG);
	return plan;
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

/* Hand our signals down; not SIGPIPE, which is our own, of a message that nobody reads. */
static void forward(const struct nst_launch *l, int signals)
{
	struct signalfd_siginfo si;

	while (nst_raw3(__NR_read, signals, NST_P(&si), sizeof si) == sizeof si)
		if (si.ssi_signo != SIGCHLD && si.ssi_signo != SIGPIPE)
			nst_raw4(__NR_pidfd_send_signal, l->pidfd, (long)si.ssi_signo, 0, 0);
}

/* Read what init has told so far. A failure is explained, and *ret_status says what it is worth. Returns
 * whether more may come. */
static int listen(const struct nst_launch *l, int *ret_status)
{
	struct nst_message m;
	long n;

	for (;;) {
		n = nst_raw6(__NR_recvfrom, l->control, NST_P(&m), sizeof m, 0x40 /* MSG_DONTWAIT */, 0, 0);
		if (n == (long)sizeof m && m.type == NST_MSG_FAILED) {
			struct nst_failure f = {.step = m.step, .error = m.error, .detail = m.detail};

			*ret_status = explain(l->plan, &f);
		} else if (n == -EAGAIN) {
			return 1;
		} else if (n <= 0 && n != -EINTR && n != -ECONNRESET) { /* a reset comes before what init told */
			return 0;
		}
	}
}

/* Follow the sandbox to its end: forward signals to it, take its report. Returns the exit status. */
static int follow(struct nst_launch *l, int signals)
{
	/* Without init the socket closes at exec: what is left then is the end of the process. */
	struct pollfd p[3] = {{l->pidfd, POLLIN, 0}, {signals, POLLIN, 0}, {l->control, POLLIN, 0}};
	int status = 0, told = -1;
	long n;

	do {
		n = nst_raw5(__NR_ppoll, NST_P(p), 3, 0, 0, 8);
		if (n < 0 && n != -EINTR)
			break;
		if (n <= 0)
			continue;
		if (p[1].revents)
			forward(l, signals);
		if (p[2].fd >= 0 && p[2].revents && !listen(l, &told))
			p[2].fd = -1;
	} while (!p[0].revents);
	while ((n = nst_raw4(__NR_wait4, l->pid, NST_P(&status), 0x40000000 /* __WALL */, 0)) == -EINTR)
		;
	if (told >= 0)
		return told;
	if (n < 0)
		return CANNOT;
	return (status & 0x7f) ? 128 + (status & 0x7f) : status >> 8 & 0xff;
}

/* A closed standard stream becomes /dev/null: or the next file that is opened would take its place. */
static void open_streams(const char *file)
{
	struct stat st;
	long fd, r;

	for (fd = 0; fd < 3; fd++) {
		r = nst_raw2(__NR_fstat, fd, NST_P(&st));
		if (r == 0 && (st.st_mode & 0170000) == 0040000)
			die(USAGE,
			    "a standard stream is a directory, by which the command would reach what is round it", file,
			    0);
		if (r < 0 && r != -EBADF)
			die(CANNOT, "fstat of a standard stream", file, r);
		if (r == 0)
			continue;
		r = nst_raw4(__NR_openat, AT_FDCWD, NST_P("/dev/null"), O_RDWR, 0);
		if (r != fd)
			die(CANNOT, "a standard stream is closed and /dev/null cannot take its place", file,
			    r < 0 ? r : -EBADF);
	}
}

/* Put our pid where the plan says @nsexec-pid@: what two runs of one plan make has different names. */
static void stamp(uint8_t *plan)
{
	static const char token[] = "@nsexec-pid@";
	struct nst_plan *h = (struct nst_plan *)plan;
	uint8_t *p = plan + h->pool_offset, *end = p + h->pool_size;
	const long width = sizeof token - 1;
	long pid = nst_raw0(__NR_getpid), i, n;

	for (; end - p >= width; p++) {
		for (i = 0; i < width && p[i] == (uint8_t)token[i]; i++)
			;
		if (i < width)
			continue;
		for (n = pid, i = width; i--; n /= 10)
			p[i] = (uint8_t)('0' + n % 10);
	}
}

static int run(const char *file, char *const *args)
{
	static uint8_t stack[NST_STACK];
	static struct nst_launch l = {.stack = stack, .slots = {0, 1, 2}};
	uint64_t all = ~0ull, dfl[4] = {0}; /* struct kernel_sigaction: SIG_DFL, no flags */
	int status;
	uint8_t *plan;
	long image, signals, r;

	/* First of all: no signal ends us with a cgroup left behind, and no write to a closed pipe either. */
	nst_raw4(__NR_rt_sigprocmask, SIG_BLOCK, NST_P(&all), 0, 8);
	/* A caller that ignores SIGCHLD hands this down, and then there would be no status to wait for. */
	nst_raw4(__NR_rt_sigaction, SIGCHLD, NST_P(&dfl), 0, 8);
	open_streams(file);
	plan = prepare(file, args);
	stamp(plan);
	l.plan = plan;
	l.size = ((const struct nst_plan *)l.plan)->size;
	image = make_image();
	if (image < 0)
		die(CANNOT, "cannot make the image of init (is /proc mounted?)", file, image);
	l.image = (int32_t)image;
	signals = nst_raw4(__NR_signalfd4, -1, NST_P(&all), 8, O_CLOEXEC | O_NONBLOCK);
	if (signals < 0)
		die(CANNOT, "signalfd", file, signals);
	nst_launch_begin(&l);
	r = nst_launch_run(&l);
	nst_launch_close(&l);
	if (r < 0) {
		status = -1;
		if (l.control >= 0)
			listen(&l,
			       &status); /* when init has failed first, its report says more than our broken socket */
		nst_launch_kill(&l);
		if (status < 0)
			status = explain(l.plan, &l.failure);
	} else {
		status = follow(&l, (int)signals);
	}
	if (nst_launch_undo(&l) > 0)
		explain(l.plan, &l.failure);
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

	if (argc == 2 && nst_same(argv[0], "nsexec:init"))
		nst_init(number(argv[1]));
	if (argc == 3 && nst_same(argv[0], "nsexec:supervise"))
		nst_supervise(number(argv[1]));
	if (argc < 2 || nst_same(argv[1], "--help") || nst_same(argv[1], "-h")) {
		say("usage: nsexec FILE [ARGS]\n"
		    "Run the plan in FILE (made by nstool compile); ARGS are added to its command.\n"
		    "Exit status: the command's (128+n for signal n), 2 bad plan, 125 could not build the\n"
		    "sandbox, 126 not executable, 127 not found.\n");
		nst_leave(argc < 2 ? USAGE : 0);
	}
	if (argv[1][0] == '-')
		die(USAGE, "no option but --help; a file of this name is written with ./", argv[1], 0);
	nst_leave(run(argv[1], argv + 2));
}

#ifndef NST_FUZZ
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall nst_main\n");
#endif
