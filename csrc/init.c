/* PID 1 inside (or the monitor of a process that joins): runs the init steps, clones the payload,
 * reaps, forwards signals, reports how the payload ended. Raw system calls only. */
#include "nstool.h"

#include <asm/poll.h>
#include <asm/signal.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/futex.h>
#include <linux/mman.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/signalfd.h>
#include <linux/time.h>

#include "raw.h"

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4
#endif

enum {
	STACK_SIZE = 32 << 10,
	FAILED_STATUS = 125,
	OWN_FDS_FROM = 100, /* above the fds that are passed to the payload */
	WNOHANG_ = 1,
	WEXITED_ = 4,
	WNOWAIT_ = 0x01000000,
	WALL_ = 0x40000000,
	P_PID_ = 1,
	SUBREAPER = 36,	      /* PR_SET_CHILD_SUBREAPER, prctl(2) */
	PATIENCE = 10,	      /* seconds, with children that do not die or are always new */
	PAUSE_NS = 10000000,  /* without a SIGCHLD */
	CHILDREN_READ = 4096, /* bytes of the list of children at a time */
};

/* The one state of this process: it is a program of its own, so this is no global of a library. */
static struct {
	struct nst_run run;
	const struct nst_plan *header;
	int32_t slots[NST_MAX_SLOTS];
	int32_t keep[4]; /* copies of the next two, of children and of listener, for close_range */
	int control;
	int lifeline;
	int listener; /* where sysinfo(2) is asked, with these bytes of memory and swap for an answer; or -1 */
	uint64_t memory, swap;
	int payload;  /* pid as this process sees it; 0 when it has been reaped */
	int children; /* of a subreaper: the list of its children, proc_tid_children(5); else -1 */
	/* Both live in one memory until the payload execs: */
	int32_t gate;	/* 1: the payload may go on */
	int32_t in_use; /* 0: the payload has left this memory, by exec or by its end. CLONE_CHILD_CLEARTID of clone(2) */
	struct nst_failure payload_failure;
} self;

static void tell(struct nst_message *m)
{
	if (self.run.share) {
		if (m->type == NST_MSG_FAILED)
			self.run.share->failure =
				(struct nst_failure){.step = m->step, .error = m->error, .detail = m->detail};
		else if (m->type == NST_MSG_EXITED)
			self.run.share->status = m->status;
		else
			self.run.share->pid = m->pid;
		return;
	}
	/* Nobody may be listening any more; then there is nobody to tell. Nor is it waited for room: only a command that
	 * has got at this socket fills it, and then the status of our own end tells. MSG_NOSIGNAL | MSG_DONTWAIT. */
	while (nst_raw6(__NR_sendto, self.control, NST_P(m), sizeof *m, 0x4040, 0, 0) == -EINTR)
		;
}

/* Whether pid is a child that we have not waited for: then it cannot be another process's meanwhile. */
static int is_child(long pid)
{
	return nst_raw5(__NR_waitid, P_PID_, pid, 0, WEXITED_ | WNOHANG_ | WNOWAIT_ | WALL_, 0) == 0;
}

/* Kill the children that we have at this moment. Once it is killed none of them can fork any more. */
static void kill_children(void)
{
	char list[CHILDREN_READ];
	long n = nst_raw4(__NR_pread64, self.children, NST_P(list), sizeof list, 0), i, pid = 0;

	for (i = 0; i < n; i++) { /* each number with a space behind it; the last may be cut off */
		if (list[i] >= '0' && list[i] <= '9') {
			pid = pid * 10 + (list[i] - '0');
			continue;
		}
		if (pid && is_child(pid))
			nst_raw2(__NR_kill, pid, SIGKILL);
		pid = 0;
	}
}

/* Kill and reap all children, and theirs that come to us, until none is left, or patience is at its end:
 * one in uninterruptible sleep, or that we may not kill, is left to whoever comes then. */
static void end_descendants(void)
{
	const struct timespec pause = {0, PAUSE_NS};
	const uint64_t chld = 1ull << (SIGCHLD - 1);
	struct timespec now = {0}, start = {0};
	long pid;

	nst_raw2(__NR_clock_gettime, CLOCK_MONOTONIC, NST_P(&start));
	do {
		int reaped = 0;

		kill_children();
		while ((pid = nst_raw4(__NR_wait4, -1, 0, WNOHANG_ | WALL_, 0)) > 0)
			reaped = 1;
		if (!reaped)
			nst_raw4(__NR_rt_sigtimedwait, NST_P(&chld), 0, NST_P(&pause), 8);
		nst_raw2(__NR_clock_gettime, CLOCK_MONOTONIC, NST_P(&now));
	} while (pid != -ECHILD && now.tv_sec - start.tv_sec < PATIENCE);
}

/* Kill the payload and reap it: a monitor is not PID 1, so its end alone kills nobody, and leaves a zombie. */
static void end_payload(void)
{
	if (self.payload > 0) {
		nst_raw2(__NR_kill, self.payload, SIGKILL);
		while (nst_raw4(__NR_wait4, self.payload, 0, 0, 0) == -EINTR)
			;
		self.payload = 0;
	}
	if (self.children >= 0)
		end_descendants();
}

_Noreturn static void report_failure(const struct nst_failure *f)
{
	struct nst_message m = {.type = NST_MSG_FAILED, .step = f->step, .error = f->error, .detail = f->detail};

	end_payload();
	tell(&m);
	nst_leave(FAILED_STATUS);
}

static void *map(uint64_t size, int fd)
{
	long p = nst_raw6(__NR_mmap, 0, (long)size, PROT_READ | PROT_WRITE,
			  fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_PRIVATE, fd, 0);

	return p < 0 && p > -4096 ? NULL : (void *)p;
}

/* Run the payload's steps: in init's memory until exec, on a stack of its own, or in this process itself when
 * there is no init. Returns only when a step has failed. */
static void payload_steps(void)
{
	struct nst_run run = self.run;
	int i;

	run.who = NST_PAYLOAD;
	run.n_keep = 1; /* the control socket, by which a payload that is no init's child says why it has failed */
	for (i = 0; i < (int)self.header->n_steps; i++)
		if (nst_step_at(self.run.plan, i)->who == NST_PAYLOAD && nst_step_run(&run, i) < 0)
			break;
	self.payload_failure = run.failure;
}

static void payload_main(void *arg)
{
	(void)arg;
	payload_steps();
	for (;;)
		nst_raw1(__NR_exit, FAILED_STATUS);
}

static long clone_payload(const struct nst_step *s)
{
	struct clone_args args = {.flags = s->arg[0] | CLONE_VM | CLONE_CHILD_CLEARTID,
				  .child_tid = (uint64_t)(uintptr_t)&self.in_use,
				  .exit_signal = SIGCHLD};
	void *stack = map(STACK_SIZE, -1);
	int tid = (int)s->arg[2];

	if (!stack)
		return -ENOMEM;
	args.stack = (uint64_t)(uintptr_t)stack;
	args.stack_size = STACK_SIZE;
	if (tid) {
		args.set_tid = (uint64_t)(uintptr_t)&tid;
		args.set_tid_size = 1;
	}
	self.in_use = 1;
	return nst_clone3_on_stack(&args, sizeof args, payload_main, NULL);
}

/* Wait until the payload that step i has made has left this memory: it has exec'ed, or ended. */
static void await_exec(int i)
{
	while (__atomic_load_n(&self.in_use, __ATOMIC_ACQUIRE)) {
		long r = nst_raw4(__NR_futex, NST_P(&self.in_use), FUTEX_WAIT, 1, 0);
		struct nst_failure f = {.step = i, .error = (int32_t)-r};

		if (r < 0 && r != -EAGAIN && r != -EINTR)
			report_failure(&f);
	}
	if (self.payload_failure.step >= 0)
		report_failure(&self.payload_failure);
}

/* fd moved above those of the payload, closing at exec; left where it is if the limit of fds forbids. */
static int move_high(int fd)
{
	long r;

	if (fd < 0)
		return fd;
	r = nst_raw3(__NR_fcntl, fd, F_DUPFD_CLOEXEC, OWN_FDS_FROM);
	if (r < 0)
		return fd;
	nst_raw1(__NR_close, fd);
	return (int)r;
}

/* Keep what an answer_sysinfo step is about for supervise(). */
static void keep_listener(const struct nst_step *s)
{
	int32_t *slot = &self.slots[(uint32_t)s->arg[0]];

	*slot = self.listener = self.keep[3] = move_high(*slot);
	self.memory = s->arg[1];
	self.swap = s->arg[2];
}

static void run_init_steps(void)
{
	int i, cloned = -1;

	for (i = 0; i < (int)self.header->n_steps; i++) {
		const struct nst_step *s = nst_step_at(self.run.plan, i);

		if (s->who != NST_INIT)
			continue;
		if (nst_call_is(s, "clone3")) {
			long pid = clone_payload(s);

			cloned = i;
			if (pid < 0)
				self.run.failure = (struct nst_failure){.step = i, .error = (int32_t)-pid};
			else
				self.payload = (int)pid;
		} else if (nst_call_is(s, "answer_sysinfo")) {
			keep_listener(s);
		} else if (nst_call_is(s, "serve")) {
			nst_serve(self.control);
		} else if (nst_step_run(&self.run, i) == 0 && nst_call_is(s, "prctl") && s->arg[0] == SUBREAPER) {
			/* Now, while the old /proc is there; pids are those of its pid namespace, see is_child(). */
			self.children = move_high((int)nst_raw4(
				__NR_openat, AT_FDCWD, NST_P("/proc/thread-self/children"), O_RDONLY | O_CLOEXEC, 0));
			self.keep[2] = self.children;
			if (self.children < 0) /* else what the command leaves would outlive it, without a word */
				self.run.failure = (struct nst_failure){.step = i, .error = -self.children};
		}
		if (self.run.failure.step >= 0)
			report_failure(&self.run.failure);
	}
	if (cloned >= 0)
		await_exec(cloned);
}

static int64_t microseconds(const struct __kernel_old_timeval *t)
{
	return (int64_t)((uint64_t)t->tv_sec * 1000000 + (uint64_t)t->tv_usec); /* as it comes: no overflow to trap */
}

/* Reap whoever has ended. When it was the payload, end what it has left, report and leave, which ends the namespace. */
static void reap(void)
{
	struct nst_message m = {.type = NST_MSG_EXITED};
	struct rusage ru;
	int status = 0;
	long pid;

	while ((pid = nst_raw4(__NR_wait4, -1, NST_P(&status), WNOHANG_, NST_P(&ru))) > 0) {
		if (pid != self.payload)
			continue;
		m.pid = (int32_t)pid;
		m.status = status;
		m.utime_us = microseconds(&ru.ru_utime);
		m.stime_us = microseconds(&ru.ru_stime);
		m.maxrss_kb = ru.ru_maxrss;
		self.payload = 0;
		end_payload();
		tell(&m);
		nst_leave((status & 0x7f) ? 128 + (status & 0x7f) : status >> 8 & 0xff);
	}
}

/* The launcher has gone, and the sandbox goes with it. */
_Noreturn static void end_with_launcher(void)
{
	end_payload();
	nst_leave(128 + SIGKILL);
}

static void on_signal(int fd)
{
	struct signalfd_siginfo si;

	while (nst_raw3(__NR_read, fd, NST_P(&si), sizeof si) == sizeof si) {
		if (si.ssi_signo == SIGCHLD)
			reap();
		else
			nst_raw2(__NR_kill, self.payload, (long)si.ssi_signo);
	}
}

/* One message, or -1 for end of file. */
static int on_control(int fd)
{
	struct nst_message m;
	long n = nst_raw6(__NR_recvfrom, fd, NST_P(&m), sizeof m, 0x40 /* MSG_DONTWAIT */, 0, 0);

	if (n == -EAGAIN || n == -EINTR)
		return 0;
	if (n <= 0)
		return -1;
	if (n == sizeof m && m.type == NST_MSG_SIGNAL && m.detail > 0 && m.detail <= 64)
		nst_raw2(__NR_kill, self.payload, m.detail);
	return 0;
}

/* Put an fd where supervise() looks for it: on what is not there poll(2) never waits. */
static void place(long fd, int at)
{
	struct nst_failure f = {.step = -1};
	long r = fd == at ? 0 : nst_raw3(__NR_dup3, fd, at, O_CLOEXEC);

	if (r < 0) {
		f.error = (int32_t)-r;
		report_failure(&f);
	}
}

/* Wait for signals, the launcher's messages and the launcher's end, for as long as the payload lives. */
_Noreturn static void supervise(void)
{
	enum { CONTROL, LIFELINE, SIGNALS, LISTENER, COUNT, CHILDREN = COUNT };
	struct pollfd p[COUNT] = {
		{CONTROL, POLLIN, 0}, {LIFELINE, POLLIN, 0}, {SIGNALS, POLLIN, 0}, {LISTENER, POLLIN, 0}};
	struct nst_failure f = {.step = -1};
	uint64_t all = ~0ull;
	long fd = nst_raw4(__NR_signalfd4, -1, NST_P(&all), 8, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		f.error = (int32_t)-fd;
		report_failure(&f);
	}
	/* Nothing but these stays open: not the payload's pipes, whose readers wait for the last writer. */
	place(fd, SIGNALS);
	if (self.control >= 0) {
		place(self.control, CONTROL);
		self.control = CONTROL;
	} else { /* a sandbox of serve/: it dies with its template, the init of the pid namespace above */
		nst_raw1(__NR_close, CONTROL);
		p[CONTROL].fd = -1;
	}
	if (self.lifeline >= 0) {
		place(self.lifeline, LIFELINE);
	} else {
		nst_raw1(__NR_close, LIFELINE);
		p[LIFELINE].fd = -1;
	}
	if (self.listener >= 0) {
		place(self.listener, LISTENER);
	} else {
		nst_raw1(__NR_close, LISTENER);
		p[LISTENER].fd = -1;
	}
	if (self.children >= 0) {
		place(self.children, CHILDREN);
		self.children = CHILDREN;
	}
	nst_raw3(__NR_close_range, self.children >= 0 ? CHILDREN + 1 : COUNT, ~0u, 0);
	reap(); /* it may have ended before the signalfd was there: SIGCHLD is blocked, but be plain about it */
	for (;;) {
		long n = nst_raw5(__NR_ppoll, NST_P(p), COUNT, 0, 0, 8);

		if (n < 0 && n != -EINTR)
			nst_leave(FAILED_STATUS);
		if (n <= 0)
			continue;
		if (p[SIGNALS].revents)
			on_signal(SIGNALS);
		if (p[LISTENER].revents)
			nst_answer_sysinfo(LISTENER, self.memory, self.swap);
		if (p[LIFELINE].revents)
			end_with_launcher();
		if (p[CONTROL].revents && on_control(CONTROL) < 0) {
			if (self.header->flags & NST_DIE_WITH_PARENT)
				end_with_launcher();
			p[CONTROL].fd = -1;
		}
	}
}

/* What is the same for every init before its steps. */
static void begin(const uint8_t *plan, const int32_t *slots, void *scratch, uint64_t scratch_size)
{
	struct nst_failure none = {.step = -1};
	int i;

	self.header = (const struct nst_plan *)plan;
	for (i = 0; i < NST_MAX_SLOTS; i++)
		self.slots[i] = slots[i];
	self.run.plan = plan;
	self.run.slots = self.slots;
	self.run.who = NST_INIT;
	self.run.control = self.control;
	self.run.gate = &self.gate;
	self.run.scratch = scratch;
	self.run.scratch_size = scratch_size;
	self.keep[0] = self.control;
	self.keep[1] = self.lifeline;
	self.keep[2] = self.keep[3] = self.listener = -1;
	self.run.keep = self.keep;
	self.run.n_keep = 4;
	self.run.failure = none;
	self.payload_failure = none;
}

_Noreturn static void follow(void)
{
	struct nst_message started = {.type = NST_MSG_STARTED, .pid = self.payload};

	tell(&started);
	supervise();
}

_Noreturn void nst_init_copy(const struct nst_copy *copy)
{
	self.children = self.lifeline = -1;
	self.payload = self.gate = self.in_use = 0;
	self.control = move_high(copy->control);
	self.run.share = copy->share;
	begin(copy->plan, copy->slots, copy->scratch, copy->scratch_size);
	run_init_steps();
	if (self.control >=
	    0) { /* the connection and the attestation came by it: what is told from here on is shared */
		nst_raw1(__NR_close, self.control);
		self.control = -1;
	}
	follow();
}

_Noreturn void nst_without_init(const struct nst_copy *copy)
{
	const struct nst_plan *h = (const struct nst_plan *)copy->plan;
	/* Not the one state of this process, which is serve/'s at the moment. */
	int32_t slots[NST_MAX_SLOTS], keep = copy->control;
	struct nst_run run = {.plan = copy->plan,
			      .slots = slots,
			      .control = copy->control,
			      .share = copy->share,
			      .keep = &keep,
			      .n_keep = 1,
			      .scratch = copy->scratch,
			      .scratch_size = copy->scratch_size,
			      .failure = {.step = -1}};
	int i;

	for (i = 0; i < NST_MAX_SLOTS; i++)
		slots[i] = copy->slots[i];
	for (i = 0; i < (int)h->n_steps; i++) {
		run.who = nst_step_at(copy->plan, i)->who;
		if ((run.who == NST_INIT || run.who == NST_PAYLOAD) && nst_step_run(&run, i) < 0)
			break;
	}
	copy->share->failure = run.failure;
	for (;;)
		nst_raw1(__NR_exit, FAILED_STATUS);
}

_Noreturn void nst_init(int fd)
{
	struct nst_envelope head;
	struct nst_failure f = {.step = -1};
	const struct nst_envelope *e;
	uint64_t all = ~0ull, dfl[4] = {0}; /* struct kernel_sigaction: SIG_DFL, no flags */
	uint64_t scratch_size;
	void *scratch;

	self.children = -1;
	nst_raw4(__NR_rt_sigprocmask, SIG_BLOCK, NST_P(&all), 0, 8);
	/* A caller that ignores SIGCHLD hands this down, and then no end of a child would be told. */
	nst_raw4(__NR_rt_sigaction, SIGCHLD, NST_P(&dfl), 0, 8);
	if (nst_raw3(__NR_read, fd, NST_P(&head), sizeof head) != sizeof head || head.magic != NST_MAGIC ||
	    head.size > NST_MAX_PLAN)
		nst_leave(FAILED_STATUS);
	self.control = head.control;
	e = map(sizeof head + head.size, fd);
	/* Two vectors with a pointer for each string and a NULL; a string takes one byte of the plan at least. */
	scratch_size = 2 * sizeof(char *) * (head.size + 1ull);
	scratch = e ? map(scratch_size, -1) : NULL;
	nst_raw1(__NR_close, fd);
	if (!scratch) {
		f.error = ENOMEM;
		report_failure(&f);
	}
	if (nst_plan_check((const uint8_t *)(e + 1), head.size, &f) < 0)
		report_failure(&f);
	nst_raw3(__NR_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
	self.control = move_high(self.control);
	self.lifeline = move_high(head.launcher);
	if (self.control < 0)
		nst_leave(FAILED_STATUS);
	begin((const uint8_t *)(e + 1), e->slots, scratch, scratch_size);
	run_init_steps();
	if (!(self.header->flags & NST_WITH_INIT)) {
		payload_steps();
		report_failure(&self.payload_failure);
	}
	follow();
}
