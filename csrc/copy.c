/* The zygote of a service: a process with an interpreter in it, which clones itself as a sandbox for each connection. It
 * is cloned as serve/ clones itself, and what its copy does is what nst_without_init does, but for the exec. */
#include "nstool.h"

#include <asm/signal.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <linux/sched.h>

#include "raw.h"

enum { FAILED_STATUS = 125 };

/* What the zygote has, in memory that is shared with the template: the plan of each place, and what is shared of each. */
struct zygote {
	uint8_t *plans;
	uint64_t size;		  /* of all of it */
	uint64_t plan_size, each; /* with what is between two */
	struct nst_share *shares;
	int32_t n_places;
	int template; /* socket */
	int home;     /* its network namespace */
	int32_t *id;  /* where glibc has the id of this thread */
};

/* Run the steps of the copy, up to the exec. */
static void become(const uint8_t *plan, const int32_t *slots, int control, struct nst_share *share)
{
	int32_t own[NST_MAX_SLOTS], keep = control;
	struct nst_run run = {.plan = plan,
			      .slots = own,
			      .control = control,
			      .share = share,
			      .keep = &keep,
			      .n_keep = 1,
			      .failure = {.step = -1}};
	int i, n = (int)((const struct nst_plan *)plan)->n_steps;

	for (i = 0; i < NST_MAX_SLOTS; i++)
		own[i] = slots[i];
	for (i = 0; i < n; i++) {
		const struct nst_step *s = nst_step_at(plan, i);

		run.who = s->who;
		if (run.who != NST_INIT && run.who != NST_PAYLOAD)
			continue;
		if (nst_call_is(s, "execve"))
			break;
		if (nst_step_run(&run, i) < 0) {
			share->failure = run.failure;
			nst_leave(FAILED_STATUS);
		}
	}
	share->executed = nst_now() - share->ahead;
	if (control >= 0)
		nst_raw1(__NR_close, control);
}

/* Clone this process as the sandbox of a place: a child of its parent. fds: its slots, then two more, as NST_MSG_COPY has
 * it. Returns the pid, or -errno; 0 in the copy, once all steps but the exec are done. */
static long copy(const struct zygote *z, int place, const int32_t *fds, int n_fds, int copied)
{
	struct clone_args args = {.flags = CLONE_PARENT};
	const uint8_t *plan = z->plans + (uint64_t)place * z->each;
	struct nst_share *share = &z->shares[place];
	int net = copied & NST_COPY_NET ? fds[n_fds - 2] : -1;
	int32_t slots[NST_MAX_SLOTS];
	struct nst_failure f;
	int i, n, own_net = 0, clone_at = -1;
	long r;

	if (nst_plan_check(plan, z->plan_size, &f) < 0)
		return -EINVAL;
	for (i = 0; i < NST_MAX_SLOTS; i++)
		slots[i] = i < n_fds - 2 ? fds[i] : NST_NONE;
	n = (int)((const struct nst_plan *)plan)->n_steps;
	for (i = 0; i < n; i++) {
		const struct nst_step *s = nst_step_at(plan, i);

		if (s->who != NST_LAUNCHER || !nst_call_is(s, "clone3"))
			continue;
		clone_at = i;
		args.flags |= s->arg[0] & ~(uint64_t)CLONE_NEWNET;
		own_net = (s->arg[0] & CLONE_NEWNET) != 0;
		if (s->arg[1] >> 32 && slots[(uint32_t)s->arg[1]] >= 0) {
			args.flags |= CLONE_INTO_CGROUP;
			args.cgroup = (uint64_t)slots[(uint32_t)s->arg[1]];
		}
		break;
	}
	r = net < 0 ? 0 : nst_raw2(__NR_setns, net, CLONE_NEWNET);
	if (r < 0)
		return r;
	r = nst_raw2(__NR_clone3, NST_P(&args), sizeof args);
	if (r != 0 && net >= 0 && nst_raw2(__NR_setns, z->home, CLONE_NEWNET) < 0)
		nst_leave(FAILED_STATUS); /* the next copies would be in the namespace of this one */
	if (r == 0) {
		share->first = nst_now();
		/* By that glibc tells whose a lock is; fork(3) would write it anew. */
		*z->id = (int32_t)nst_raw0(__NR_gettid);
		/* It takes the kernel longer than all the rest: other copies are made meanwhile. */
		r = own_net ? nst_raw1(__NR_unshare, CLONE_NEWNET) : 0;
		if (r < 0) {
			share->failure = (struct nst_failure){.step = clone_at, .error = (int32_t)-r};
			nst_leave(FAILED_STATUS);
		}
		become(plan, slots, copied & NST_COPY_CONTROL ? fds[n_fds - 1] : -1, share);
		/* The plans of all: who has them says what the next sandboxes are. */
		if (nst_raw2(__NR_munmap, NST_P(z->plans), (long)z->size) < 0)
			nst_leave(FAILED_STATUS);
	}
	return r;
}

/* Make a copy for each place that the template tells. 0 in a copy; 1 when the template has gone; -errno. */
static long make_copies(const struct zygote *z)
{
	int32_t fds[NST_LETTER_FDS];
	struct nst_message m, answer;
	int i, n;

	for (;;) {
		long r = nst_receive_fds(z->template, &m, fds, &n, 1);

		if (r <= 0)
			return r < 0 ? r : 1;
		if (r != sizeof m || m.detail < 0 || m.detail >= z->n_places || n < 2)
			return -EPROTO;
		r = copy(z, m.detail, fds, n, m.status);
		if (r == 0)
			return 0;
		for (i = 0; i < n; i++)
			nst_raw1(__NR_close, fds[i]);
		answer = (struct nst_message){.type = NST_MSG_STARTED,
					      .detail = m.detail,
					      .pid = r > 0 ? (int32_t)r : 0,
					      .error = r < 0 ? (int32_t)-r : 0};
		r = nst_send_fds(z->template, &answer, NULL, 0, 1);
		if (r < 0)
			return r;
	}
}

int nst_make_copies(int template, int plans, int n_places, uint64_t plan_size)
{
	struct zygote z = {
		.plan_size = plan_size, .each = (plan_size + 7) & ~7ull, .n_places = n_places, .template = template};
	long r;

	z.size = (uint64_t)n_places * (z.each + sizeof(struct nst_share));
	r = nst_raw5(__NR_prctl, PR_GET_TID_ADDRESS, NST_P(&z.id), 0, 0, 0); /* of CONFIG_CHECKPOINT_RESTORE */
	if (r < 0 || !z.id)
		return r < 0 ? (int)r : -ENOSYS;
	r = z.home = (int)nst_raw4(__NR_openat, AT_FDCWD, NST_P("/proc/self/ns/net"), O_RDONLY | O_CLOEXEC, 0);
	if (r < 0)
		return (int)r;
	r = nst_raw6(__NR_mmap, 0, (long)z.size, PROT_READ | PROT_WRITE, MAP_SHARED, plans, 0);
	if (r < 0 && r > -4096)
		return (int)r;
	z.plans = (uint8_t *)r;
	z.shares = (struct nst_share *)(z.plans + (uint64_t)n_places * z.each);
	return (int)make_copies(&z);
}
