/* The zygote: a Python interpreter in the template that clones itself for each connection. nstool/service/zygote.py */
#include "serve.h"

enum {
	COPIES = 128,		 /* asked for at once: its socket has room for them, and for what it answers */
	HIGHEST = (4 << 20) - 1, /* pid: PID_MAX_LIMIT of the kernel */
};

/* Whether connections are to wait where they are until it has made some. */
int zygote_is_busy(void)
{
	return self.n_copies >= COPIES;
}

/* Have the zygote clone itself for place i; it answers with the pid. control: where that is attested, else -1. With its
 * own fds go the network namespace to be in and control, or /dev/null in their stead. 0 or -errno. */
long ask_zygote(int i, int n_slots, int control)
{
	struct place *p = &places[i];
	struct nst_message m = {.type = NST_MSG_COPY, .detail = i};
	long r;

	m.status = (control >= 0 ? NST_COPY_CONTROL : 0) | (p->lease >= 0 ? NST_COPY_NET : 0);
	p->slots[n_slots] = p->lease >= 0 ? p->lease : self.null;
	p->slots[n_slots + 1] = control >= 0 ? control : self.null;
	r = nst_send_fds(self.zygote, &m, p->slots, n_slots + 2, 0);
	self.n_copies += r == 0;
	return r;
}

/* What the zygote answers: a process there is, or not. */
void from_zygote(void)
{
	struct nst_message m;
	long n = nst_raw6(__NR_recvfrom, self.zygote, NST_P(&m), sizeof m, 0x40, 0, 0);
	struct place *p;

	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n != (long)sizeof m || m.detail < 0 || m.detail >= (int)self.orders->n_places)
		nst_leave(125); /* without it there is nothing to serve with */
	self.n_copies--;
	p = &places[m.detail];
	if (p->state == EMPTY || p->pid != ASKED)
		return;
	p->pid = m.pid;
	for (n = 0; m.pid > 0 && n < LOST; n++)
		if (self.lost[n].pid == m.pid) { /* it has ended before we knew it */
			self.lost[n].pid = 0;
			ended(m.detail, self.lost[n].status);
			return;
		}
	if (m.pid <= 0) {
		p->share->failure = (struct nst_failure){.step = self.clone_at, .error = m.error};
		ended(m.detail, 125 << 8);
	} else {
		show(m.detail);
		if (launcher_steps(p) < 0)
			nst_raw2(__NR_kill, p->pid, SIGKILL);
		else if (p->killed)
			nst_raw2(__NR_kill, p->pid, p->killed);
	}
}

struct starting {
	const char *const *argv;
	const char *const *envp;
	int socket, plans;
};

_Noreturn static void zygote_main(void *arg)
{
	const struct starting *s = arg;
	uint64_t none = 0;

	/* Behind the places that they get, so that no copy overwrites another. */
	long socket = nst_raw3(__NR_fcntl, s->socket, F_DUPFD, 20), plans = nst_raw3(__NR_fcntl, s->plans, F_DUPFD, 20);

	nst_raw3(__NR_dup3, self.null, 0, 0);
	nst_raw3(__NR_dup3, self.null, 1, 0);
	nst_raw3(__NR_dup3, self.log, 2, 0);
	nst_raw3(__NR_dup3, socket, 3, 0);
	nst_raw3(__NR_dup3, plans, 4, 0);
	nst_raw3(__NR_close_range, 5, ~0u, 0);
	nst_raw4(__NR_rt_sigprocmask, SIG_SETMASK, NST_P(&none), 0, 8);
	nst_raw3(__NR_execve, NST_P(s->argv[0]), NST_P(s->argv), NST_P(s->envp));
	for (;;)
		nst_raw1(__NR_exit_group, 127);
}

/* A list of strings that an empty one ends, as a vector. Returns what comes behind it, NULL if it does not end. */
static const char *vector(const char *at, const char *end, const char **ret, int most)
{
	int n = 0;

	while (at < end && *at && n < most - 1) {
		ret[n++] = at;
		while (at < end && *at)
			at++;
		at++;
	}
	ret[n] = NULL;
	return at < end && !*at ? at + 1 : NULL;
}

/* Start the zygote, when there is a place. plans: fd of the memory that is shared. */
long start_zygote(int plans)
{
	const char *at = (const char *)self.orders + self.orders->zygote;
	const char *end = (const char *)self.orders + self.orders->size;
	const char *argv[32], *envp[64];
	struct clone_args args = {.flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD, .stack_size = NST_STACK};
	int32_t pair[2], pid;
	struct starting s = {.argv = argv, .envp = envp, .plans = plans};
	long r;

	at = vector(at, end, argv, 32);
	if (!at || !argv[0] || !vector(at, end, envp, 64))
		return -EINVAL;
	r = nst_raw4(__NR_socketpair, AF_UNIX_, SOCK_SEQPACKET_ | O_CLOEXEC, 0, NST_P(pair));
	if (r < 0)
		return r;
	s.socket = pair[1];
	args.stack = (uint64_t)(uintptr_t)places[0].stack;
	/* Some libraries tell a copy from the process that it is of by the pid. Those of sandboxes begin at 1, so that of the
	 * zygote is the highest that there may be. */
	args.set_tid = (uint64_t)(uintptr_t)&pid;
	args.set_tid_size = 1;
	for (r = -EINVAL, pid = HIGHEST; r == -EINVAL && pid > 1;
	     pid >>= 1) /* kernel.pid_max is told nowhere in here */
		r = nst_clone3_on_stack(&args, sizeof args, zygote_main, &s);
	nst_raw1(__NR_close, pair[1]);
	if (r < 0) {
		nst_raw1(__NR_close, pair[0]);
		return r;
	}
	self.zygote_pid = (int)r;
	self.zygote = pair[0];
	watch(self.zygote, ZYGOTE, 0, EPOLLIN);
	return 0;
}
