/* The launcher's side: run its steps, clone, hand over, and undo. Raw system calls only. */
#include "nstool.h"

#include <asm/signal.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/sched.h>

#include "raw.h"

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4
#endif

enum {
	SCRATCH_SIZE = 16 << 10, /* argument vector of newuidmap: at most 340 lines of three numbers */
};

static const struct nst_plan *header_of(const struct nst_launch *l)
{
	return (const struct nst_plan *)l->plan;
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		nst_raw1(__NR_close, *fd);
	*fd = -1;
}

/* fd itself, or a copy above the standard streams when one of these is closed. */
static int above_stdio(int fd)
{
	long high;

	if (fd < 0 || fd > 2)
		return fd;
	high = nst_raw3(__NR_fcntl, fd, F_DUPFD_CLOEXEC, 3);
	nst_raw1(__NR_close, fd);
	return (int)high;
}

void nst_launch_begin(struct nst_launch *l)
{
	int i;

	l->next = 0;
	l->pid = 0;
	l->pidfd = -1;
	l->control = -1;
	l->failure = (struct nst_failure){.step = -1};
	for (i = (int)header_of(l)->n_given; i < NST_MAX_SLOTS; i++)
		l->slots[i] = NST_NONE;
}

/* What the child has: its own copy of the fd table, the launcher's memory, a stack of its own. */
struct child {
	struct nst_launch *l;
	int first;    /* its first step */
	int control;  /* its end of the socket */
	int lifeline; /* pidfd of the launcher, or -1 */
	int envelope; /* memfd for nsexec */
	struct nst_failure failure;
};

static void fail(struct nst_failure *f, int step, long error)
{
	*f = (struct nst_failure){.step = step, .error = (int32_t)-error};
}

/* Mark the slots that a step of init or of the payload uses. */
static void find_used(const struct nst_launch *l, char ret_used[NST_MAX_SLOTS])
{
	int i, n;

	for (i = 0; i < NST_MAX_SLOTS; i++)
		ret_used[i] = 0;
	for (i = 0; i < (int)header_of(l)->n_steps; i++) {
		const struct nst_step *s = nst_step_at(l->plan, i);
		const char *kinds = nst_call_kinds(s->call);

		for (n = 0; (s->who == NST_INIT || s->who == NST_PAYLOAD) && kinds[n]; n++)
			if (kinds[n] == 'f' && s->arg[n] >> 32)
				ret_used[(uint32_t)s->arg[n]] = 1;
	}
}

/* Keep for init what init needs, and nothing else: every other fd closes at exec. */
static long keep_fds(const struct child *c)
{
	const int own[] = {c->control, c->lifeline, c->envelope};
	long r = nst_raw3(__NR_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
	char used[NST_MAX_SLOTS];
	int i;

	find_used(c->l, used);
	for (i = 0; i < NST_MAX_SLOTS && r >= 0; i++)
		if (used[i] && c->l->slots[i] >= 0) /* a standard stream, too, may be marked to close at exec */
			r = nst_raw3(__NR_fcntl, c->l->slots[i], F_SETFD, 0);
	for (i = 0; i < 3 && r >= 0; i++)
		if (own[i] >= 0)
			r = nst_raw3(__NR_fcntl, own[i], F_SETFD, 0);
	return r;
}

/* The child, in the launcher's memory, which the launcher's thread leaves alone until exec. */
_Noreturn static void child_main(void *arg)
{
	struct child *c = arg;
	struct nst_run run = {.plan = c->l->plan,
			      .slots = c->l->slots,
			      .who = NST_CHILD,
			      .control = c->control,
			      .failure = {.step = -1}};
	int i = c->first;
	char digits[12];

	for (;; i++) {
		const struct nst_step *s = nst_step_at(c->l->plan, i);
		long r;

		if (nst_call_is(s, "exec_init")) {
			const char *argv[] = {"nsexec:init",
					      nst_put_number(digits + sizeof digits, (unsigned int)c->envelope), NULL};
			const char *envp[] = {NULL};

			r = keep_fds(c);
			if (r >= 0)
				r = nst_raw5(__NR_execveat, c->l->image, NST_P(""), NST_P(argv), NST_P(envp),
					     AT_EMPTY_PATH);
			fail(&c->failure, i, r);
			break;
		}
		if (nst_step_run(&run, i) < 0) {
			c->failure = run.failure;
			break;
		}
	}
	for (;;)
		nst_raw1(__NR_exit, 125);
}

/* A memfd with the envelope and the plan. Returns the fd or -errno. */
static long make_envelope(const struct nst_launch *l, int control, int launcher)
{
	struct nst_envelope e = {
		.magic = NST_MAGIC, .size = (uint32_t)l->size, .control = control, .launcher = launcher};
	struct {
		const void *base;
		uint64_t len;
	} iov[2] = {{&e, sizeof e}, {l->plan, l->size}};
	long fd, r;
	int i;

	for (i = 0; i < NST_MAX_SLOTS; i++)
		e.slots[i] = l->slots[i];
	fd = nst_raw2(__NR_memfd_create, NST_P("plan"), 1 /* MFD_CLOEXEC */);
	fd = above_stdio((int)fd);
	if (fd < 0)
		return fd;
	r = nst_raw3(__NR_writev, fd, NST_P(iov), 2);
	if (r >= 0)
		r = r == (long)(sizeof e + l->size) ? nst_raw3(__NR_lseek, fd, 0, 0) : -EIO;
	if (r >= 0)
		return fd;
	nst_raw1(__NR_close, fd);
	return r;
}

/* ---- whose a new user namespace is ---- */

/* What a change of ids changes of a thread. signal: of PR_SET_PDEATHSIG. */
struct credentials {
	uint32_t ruid, euid, suid, fsuid;
	struct __user_cap_data_struct caps[2];
	int32_t signal, parent;
};

/* The process that changes the ids of one of its threads, or 0. Of another process: the one that this is a fork of. */
static int32_t changing;

/* setresuid(2) of this thread alone, and setfsuid(2) behind it. The kernel marks the memory of all threads as one that
 * cannot be dumped: what it was is said again, and no other launch looks meanwhile. */
static long change_ids(uint32_t ruid, uint32_t euid, uint32_t suid, uint32_t fsuid)
{
	int32_t self = (int32_t)nst_raw0(__NR_getpid), other = 0;
	long dumpable, r;

	while (!__atomic_compare_exchange_n(&changing, &other, self, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
		if (other == self) {
			nst_raw0(__NR_sched_yield);
			other = 0;
		}
	}
	dumpable = nst_raw5(__NR_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0);
	r = nst_raw3(__NR_setresuid, ruid, euid, suid);
	if (r == 0 && fsuid != euid)
		nst_raw1(__NR_setfsuid, fsuid);
	if (r == 0 && (dumpable == 0 || dumpable == 1)) /* 2 can only be kept */
		nst_raw5(__NR_prctl, PR_SET_DUMPABLE, dumpable, 0, 0, 0);
	__atomic_store_n(&changing, 0, __ATOMIC_RELEASE);
	return r;
}

static long set_caps(const struct __user_cap_data_struct *caps)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};

	return nst_raw2(__NR_capset, NST_P(&header), NST_P(caps));
}

/* Take the ids of c again, and all that goes with them. */
static void become_again(const struct credentials *c)
{
	/* Nobody is refused this but for want of memory; and as another user this thread must not go on. */
	while (change_ids(c->ruid, c->euid, c->suid, c->fsuid) < 0 || set_caps(c->caps) < 0)
		nst_raw0(__NR_sched_yield);
	if (!c->signal)
		return;
	nst_raw5(__NR_prctl, PR_SET_PDEATHSIG, c->signal, 0, 0, 0);
	if (nst_raw0(__NR_getppid) != c->parent) /* it has ended while nobody would have been told */
		nst_raw2(__NR_kill, nst_raw0(__NR_getpid), c->signal);
}

/* Make this thread, with all its capabilities, user uid, and tell what it was. 0 or -errno. The owner of a user namespace
 * is the effective uid of its maker, and what is made in it counts for that. The real one is changed too: an exec by a
 * process in which they differ would clear its ambient capabilities. As saved uid stays 0, without which the kernel would
 * take all capabilities. user_namespaces(7), capabilities(7). */
static long become(uint32_t uid, struct credentials *ret_was)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct credentials *c = ret_was;
	long r = nst_raw2(__NR_capget, NST_P(&header), NST_P(c->caps));

	if (r == 0)
		r = nst_raw3(__NR_getresuid, NST_P(&c->ruid), NST_P(&c->euid), NST_P(&c->suid));
	if (r == 0)
		r = nst_raw5(__NR_prctl, PR_GET_PDEATHSIG, NST_P(&c->signal), 0, 0, 0);
	if (r < 0)
		return r;
	c->fsuid = (uint32_t)nst_raw1(__NR_setfsuid, -1);
	c->parent = (int32_t)nst_raw0(__NR_getppid);
	r = change_ids(uid, uid, c->ruid && c->euid ? c->suid : 0, uid);
	if (r < 0)
		return r;
	r = set_caps(c->caps);
	if (r < 0)
		become_again(c);
	return r;
}

/* The clone3 step: make the socket and the envelope, clone, wait for exec (CLONE_VFORK). */
static long run_clone(struct nst_launch *l, int i)
{
	const struct nst_step *s = nst_step_at(l->plan, i);
	const struct nst_plan *h = header_of(l);
	struct clone_args args = {.flags = s->arg[0] | CLONE_VM | CLONE_VFORK | CLONE_PIDFD, .exit_signal = SIGCHLD};
	int32_t pair[2], pidfd = -1;
	int lifeline = -1, envelope = -1, tid = (int)s->arg[2];
	uint64_t all = ~0ull, old = 0;
	struct child c = {.l = l, .first = i + 1, .failure = {.step = -1}};
	uint32_t owner = (uint32_t)s->arg[3];
	struct credentials was;
	long r;

	r = nst_raw4(__NR_socketpair, 1 /* AF_UNIX */, 5 /* SOCK_SEQPACKET */ | O_CLOEXEC, 0, NST_P(pair));
	if (r < 0)
		return r;
	pair[0] = above_stdio(pair[0]);
	pair[1] = above_stdio(pair[1]);
	if (pair[0] < 0 || pair[1] < 0) {
		r = pair[0] < 0 ? pair[0] : pair[1];
		goto fail;
	}
	if (h->flags & NST_DIE_WITH_PARENT) {
		r = nst_raw2(__NR_pidfd_open, nst_raw0(__NR_getpid), 0);
		lifeline = above_stdio((int)r);
		if (lifeline < 0) {
			r = lifeline;
			goto fail;
		}
	}
	r = envelope = (int)make_envelope(l, pair[1], lifeline);
	if (r < 0)
		goto fail;
	if (s->arg[1] >> 32) {
		int cgroup = l->slots[(uint32_t)s->arg[1]];

		if (cgroup >= 0) {
			args.flags |= CLONE_INTO_CGROUP;
			args.cgroup = (uint64_t)cgroup;
		}
	}
	if (tid) {
		args.set_tid = (uint64_t)(uintptr_t)&tid;
		args.set_tid_size = 1;
	}
	args.stack = ((uint64_t)(uintptr_t)l->stack + 15) & ~15ull;
	args.stack_size = NST_STACK - 16;
	args.pidfd = (uint64_t)(uintptr_t)&pidfd;
	c.control = pair[1];
	c.envelope = envelope;
	c.lifeline = lifeline;
	/* No handler of the host's may run in the child: it would act on the host's memory. */
	nst_raw4(__NR_rt_sigprocmask, SIG_SETMASK, NST_P(&all), NST_P(&old), 8);
	r = owner ? become(owner, &was) : 0;
	if (r == 0) {
		r = nst_clone3_on_stack(&args, sizeof args, child_main, &c);
		if (owner)
			become_again(&was);
	}
	nst_raw4(__NR_rt_sigprocmask, SIG_SETMASK, NST_P(&old), 0, 8);
	if (r < 0)
		goto fail;
	l->pid = (int32_t)r;
	l->pidfd = above_stdio(pidfd);
	l->control = pair[0];
	pair[0] = -1;
	r = l->pidfd < 0 ? l->pidfd : 0;
	if (c.failure.step >= 0) {
		l->failure = c.failure;
		r = -c.failure.error;
	}
fail:
	close_fd(&pair[0]);
	close_fd(&pair[1]);
	close_fd(&lifeline);
	close_fd(&envelope);
	return r;
}

/* After a failed step: run the setns steps by which this thread leaves the namespaces that it has
 * joined for the child's sake. They are those behind clone3. */
static void go_back(struct nst_launch *l, struct nst_run *run, int failed)
{
	int i, cloned = 0;

	for (i = 0; i < (int)header_of(l)->n_steps; i++) {
		const struct nst_step *s = nst_step_at(l->plan, i);

		if (s->who != NST_LAUNCHER)
			continue;
		if (nst_call_is(s, "clone3"))
			cloned = 1;
		else if (cloned && i > failed && nst_call_is(s, "setns"))
			nst_step_run(run, i);
	}
}

int nst_launch_run(struct nst_launch *l)
{
	const char *scratch[SCRATCH_SIZE / sizeof(char *)];
	struct nst_run run = {.plan = l->plan,
			      .slots = l->slots,
			      .who = NST_LAUNCHER,
			      .scratch = scratch,
			      .scratch_size = sizeof scratch};

	for (; l->next < (int)header_of(l)->n_steps; l->next++) {
		const struct nst_step *s = nst_step_at(l->plan, l->next);
		long r;

		if (s->who != NST_LAUNCHER)
			continue;
		if (nst_call_is(s, "external"))
			return 1;
		if (nst_call_is(s, "clone3")) {
			r = run_clone(l, l->next);
			if (r < 0 && l->failure.step < 0)
				fail(&l->failure, l->next, r);
			if (r < 0) {
				go_back(l, &run, l->next);
				return (int)r;
			}
			continue;
		}
		run.control = l->control;
		run.child_pid = l->pid;
		r = nst_step_run(&run, l->next);
		if (r < 0) {
			l->failure = run.failure;
			go_back(l, &run, l->next);
			return (int)r;
		}
	}
	return 0;
}

/* Whether the launcher got as far as making what an undo step removes: what was there before is another's. */
static int was_made(const struct nst_launch *l, const struct nst_step *undo)
{
	int i;

	if (!nst_call_is(undo, "unlinkat"))
		return 1;
	for (i = l->next; i < (int)header_of(l)->n_steps; i++) {
		const struct nst_step *s = nst_step_at(l->plan, i);

		if (s->who == NST_LAUNCHER && nst_call_is(s, "mkdirat") && s->arg[0] == undo->arg[0] &&
		    s->arg[1] == undo->arg[1])
			return 0;
	}
	return 1;
}

int nst_launch_undo(struct nst_launch *l)
{
	struct nst_run run = {.plan = l->plan, .slots = l->slots, .who = NST_UNDO, .control = -1};
	int i, failed = 0;

	for (i = (int)header_of(l)->n_steps - 1; i >= 0 && nst_step_at(l->plan, i)->who == NST_UNDO; i--) {
		if (nst_call_is(nst_step_at(l->plan, i), "external") || !was_made(l, nst_step_at(l->plan, i)))
			continue;
		if (nst_step_run(&run, i) < 0 && run.failure.error != ENOENT) {
			l->failure = run.failure;
			failed++;
		}
	}
	return failed;
}

void nst_launch_close(struct nst_launch *l)
{
	int i;

	for (i = (int)header_of(l)->n_given; i < NST_MAX_SLOTS; i++)
		close_fd(&l->slots[i]);
}

void nst_launch_kill(struct nst_launch *l)
{
	if (l->pid <= 0)
		return;
	if (l->pidfd >= 0)
		nst_raw4(__NR_pidfd_send_signal, l->pidfd, SIGKILL, 0, 0);
	else /* no fd was left for it; nobody has waited for the child, so the pid is still its own */
		nst_raw2(__NR_kill, l->pid, SIGKILL);
	while (nst_raw4(__NR_wait4, l->pid, 0, 0x40000000 /* __WALL */, 0) == -EINTR)
		;
	l->pid = 0;
	close_fd(&l->pidfd);
	close_fd(&l->control);
}

/* ---- a user namespace without a process ---- */

/* Hold the namespace until the launcher lets go, or dies. */
_Noreturn static void hold(void *arg)
{
	const int32_t *pair = arg;
	char byte;

	nst_raw1(__NR_close, pair[1]);
	while (nst_raw3(__NR_read, pair[0], NST_P(&byte), 1) == -EINTR)
		;
	for (;;)
		nst_raw1(__NR_exit, 0);
}

/* Write "/proc/PID/NAME" into path. */
static void proc_path(char *path, int pid, const char *name)
{
	char digits[12];
	const char *parts[] = {"/proc/", nst_put_number(digits + sizeof digits, (unsigned int)pid), "/", name};

	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
		for (const char *p = parts[i]; *p; p++)
			*path++ = *p;
	*path = 0;
}

static long write_map(int pid, const char *name, const char *text)
{
	char path[32];
	long fd, r, size = 0;

	proc_path(path, pid, name);
	fd = nst_raw4(__NR_openat, AT_FDCWD, NST_P(path), O_WRONLY | O_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	while (text[size])
		size++;
	r = nst_raw3(__NR_write, fd, NST_P(text), size);
	nst_raw1(__NR_close, fd);
	return r == size || r < 0 ? r : -EIO;
}

int nst_userns(const char *uid_map, const char *gid_map)
{
	/* No exit signal: a SIGCHLD handler of the host's neither sees nor reaps this child. */
	struct clone_args args = {.flags = CLONE_VM | CLONE_NEWUSER | CLONE_PIDFD};
	int32_t pair[2], pidfd = -1;
	uint64_t all = ~0ull, old = 0;
	char path[32];
	long r, stack;

	r = nst_raw2(__NR_pipe2, NST_P(pair), O_CLOEXEC);
	if (r < 0)
		return (int)r;
	stack = nst_raw6(__NR_mmap, 0, NST_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1,
			 0);
	if (stack < 0 && stack > -4096) {
		r = stack;
		goto close_pipe;
	}
	args.stack = (uint64_t)stack;
	args.stack_size = NST_STACK;
	args.pidfd = (uint64_t)(uintptr_t)&pidfd;
	nst_raw4(__NR_rt_sigprocmask, SIG_SETMASK, NST_P(&all), NST_P(&old), 8);
	r = nst_clone3_on_stack(&args, sizeof args, hold, pair);
	nst_raw4(__NR_rt_sigprocmask, SIG_SETMASK, NST_P(&old), 0, 8);
	if (r > 0) {
		int pid = (int)r;

		r = write_map(pid, "uid_map", uid_map);
		if (r >= 0)
			r = write_map(pid, "gid_map", gid_map);
		if (r >= 0) {
			proc_path(path, pid, "ns/user");
			r = nst_raw4(__NR_openat, AT_FDCWD, NST_P(path), O_RDONLY | O_CLOEXEC, 0);
			r = above_stdio((int)r);
		}
		nst_raw4(__NR_pidfd_send_signal, pidfd, SIGKILL, 0, 0);
		while (nst_raw4(__NR_wait4, pid, 0, 0x40000000 /* __WALL */, 0) == -EINTR)
			;
		nst_raw1(__NR_close, pidfd);
	}
	nst_raw2(__NR_munmap, stack, NST_STACK);
close_pipe:
	close_fd(&pair[0]);
	close_fd(&pair[1]);
	return (int)r;
}
