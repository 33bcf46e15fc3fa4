/* A process that becomes a sandbox by itself: the zygote of a service, whose interpreter is loaded already. It is cloned as
 * serve/ clones itself, and what its copy does is what nst_without_init does, but for the exec. */
#include "nstool.h"

#include <asm/signal.h>
#include <linux/errno.h>
#include <linux/sched.h>

#include "raw.h"

enum { FAILED_STATUS = 125 };

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

int nst_copy_process(const uint8_t *plan, uint64_t size, const int32_t *slots, int n_slots, int net, int home,
		     int control, struct nst_share *share, void *memory, uint64_t memory_size)
{
	struct clone_args args = {.flags = CLONE_PARENT};
	int32_t all[NST_MAX_SLOTS];
	struct nst_failure f;
	int i, n;
	long r;

	if (nst_plan_check(plan, size, &f) < 0 || n_slots > NST_MAX_SLOTS)
		return -EINVAL;
	for (i = 0; i < NST_MAX_SLOTS; i++)
		all[i] = i < n_slots ? slots[i] : NST_NONE;
	n = (int)((const struct nst_plan *)plan)->n_steps;
	for (i = 0; i < n; i++) {
		const struct nst_step *s = nst_step_at(plan, i);

		if (s->who != NST_LAUNCHER || !nst_call_is(s, "clone3"))
			continue;
		args.flags |= s->arg[0];
		if (s->arg[1] >> 32 && all[(uint32_t)s->arg[1]] >= 0) {
			args.flags |= CLONE_INTO_CGROUP;
			args.cgroup = (uint64_t)all[(uint32_t)s->arg[1]];
		}
		break;
	}
	r = net < 0 ? 0 : nst_raw2(__NR_setns, net, CLONE_NEWNET);
	if (r < 0)
		return (int)r;
	r = nst_raw2(__NR_clone3, NST_P(&args), sizeof args);
	if (r != 0 && net >= 0 && nst_raw2(__NR_setns, home, CLONE_NEWNET) < 0)
		nst_leave(FAILED_STATUS); /* the next copies would be in the namespace of this one */
	if (r == 0) {
		share->first = nst_now();
		become(plan, all, control, share);
		/* The plans of all: who has them says what the next sandboxes are. MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS */
		if (nst_raw6(__NR_mmap, NST_P(memory), (long)memory_size, 0, 0x32, -1, 0) < 0)
			nst_leave(FAILED_STATUS);
	}
	return (int)r;
}
