/* What init answers for the kernel: sysinfo(2), of which there is no namespace. Raw system calls only. */
#include "nstool.h"

#include <linux/errno.h>
#include <linux/ioctl.h>
#include <linux/seccomp.h>
#include <linux/sysinfo.h>
#include <linux/time.h>

#include "raw.h"

struct vector {
	const void *base;
	uint64_t len;
};

/* Memory and swap are the limits, the load is nothing, the uptime is that of the time namespace. */
static void fill(struct sysinfo *info, uint64_t memory, uint64_t swap)
{
	struct timespec now = {0};

	nst_raw2(__NR_clock_gettime, CLOCK_BOOTTIME, NST_P(&now));
	info->uptime = now.tv_sec;
	info->totalram = info->freeram = memory;
	info->totalswap = info->freeswap = swap;
	info->procs = 1;
	info->mem_unit = 1;
}

void nst_answer_sysinfo(int listener, uint64_t memory, uint64_t swap)
{
	struct seccomp_notif call = {0};
	struct seccomp_notif_resp answer = {0};
	struct sysinfo info = {0};
	struct vector from = {&info, sizeof info}, to;
	long n;

	if (nst_raw3(__NR_ioctl, listener, SECCOMP_IOCTL_NOTIF_RECV, NST_P(&call)) < 0)
		return; /* who called has been killed meanwhile */
	fill(&info, memory, swap);
	to = (struct vector){(void *)(uintptr_t)call.data.args[0], sizeof info};
	answer.id = call.id;
	/* Once it is received nothing but death takes the caller out of the call, WAIT_KILLABLE_RECV. One that dies in
	 * between and whose number is another's by now, of the same sandbox, would take as many new processes in this
	 * moment as there are numbers. */
	n = nst_raw3(__NR_ioctl, listener, SECCOMP_IOCTL_NOTIF_ID_VALID, NST_P(&call.id));
	if (n == 0)
		n = nst_raw6(__NR_process_vm_writev, call.pid, NST_P(&from), 1, NST_P(&to), 1, 0);
	if (n < 0)
		answer.error = (int32_t)n;
	else if (n != (long)sizeof info)
		answer.error = -EFAULT;
	nst_raw3(__NR_ioctl, listener, SECCOMP_IOCTL_NOTIF_SEND, NST_P(&answer));
}
