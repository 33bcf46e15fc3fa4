/* Fuzz everything in C that a compiled plan reaches: the check, the steps of every role, the launcher, init
 * and nsexec itself, in a simulated kernel (NST_FUZZ in raw.h) that touches what a real one would touch, so
 * that AddressSanitizer sees every bad pointer and UndefinedBehaviorSanitizer every bad sum.
 *
 * Input: 8 bytes that say how the simulated kernel behaves, then the file that nsexec is given.
 * Build and run: tests/fuzz/run.sh. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <net/if.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "nstool.h"
#include "raw.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
_Noreturn void nst_main(long *stack);

enum {
	CALLS_MAX = 20000, /* system calls of one run: whoever makes more waits for something that never comes */
	MAPS_MAX = 64,
	LOWEST_FD = 3,
};

/* How the kernel behaves in this run. */
struct behaviour {
	uint8_t mode;	 /* see MODE_ below */
	uint8_t fail;	 /* every n-th call fails, 0: none */
	uint8_t error;	 /* with this errno */
	uint8_t shorter; /* reads give this much less than is asked for */
	uint8_t args;	 /* number of ARGS of nsexec, modulo 8 */
	uint8_t told;	 /* type of the messages that are received */
	uint16_t seed;
};

enum {
	MODE_REPAIR = 1,   /* make the header fit, so that mutations get past it */
	MODE_SHEBANG = 2,  /* a first line before the plan */
	MODE_NO_CHILD = 4, /* the child of clone3 is not run here */
};

static struct {
	struct behaviour how;
	const uint8_t *file; /* what open and read give nsexec */
	size_t file_size, file_at;
	const uint8_t *envelope; /* what read gives init, and what it maps */
	size_t envelope_size;
	uint8_t *written; /* what writev has written: the envelope that the launcher makes */
	size_t written_size;
	unsigned long calls;
	int32_t next_fd;
	int32_t pid;
	jmp_buf whole;	/* the end of the process */
	jmp_buf *child; /* the end of the innermost child */
	void *maps[MAPS_MAX];
	unsigned int n_maps;
} k;

static volatile unsigned char sink;

/* What the kernel reads. */
static void reads(long address, size_t size)
{
	const unsigned char *p = (const unsigned char *)address;
	size_t i;

	for (i = 0; i < size; i++)
		sink ^= p[i];
}

static void reads_string(long address)
{
	if (address)
		reads(address, strlen((const char *)address) + 1);
}

static void reads_vector(long address)
{
	const char *const *v = (const char *const *)address;

	for (; *v; v++)
		reads_string(NST_P(*v));
}

/* What the kernel writes. */
static void writes(long address, size_t size)
{
	if (address)
		memset((void *)address, (int)(k.how.seed & 0xff), size);
}

_Noreturn static void process_ends(void)
{
	longjmp(k.whole, 1);
}

_Noreturn static void thread_ends(void)
{
	jmp_buf *child = k.child;

	if (!child)
		process_ends();
	k.child = NULL;
	longjmp(*child, 1);
}

static long map(size_t size, int fd)
{
	void *p;

	if (k.n_maps == MAPS_MAX || !size || size > 64 << 20)
		return -ENOMEM;
	p = malloc(size); /* the exact size: a byte more is an error */
	if (!p)
		return -ENOMEM;
	memset(p, 0, size);
	if (fd >= 0)
		memcpy(p, k.envelope, size < k.envelope_size ? size : k.envelope_size);
	k.maps[k.n_maps++] = p;
	return NST_P(p);
}

static long read_file(long to, size_t size)
{
	size_t left = k.file_size - k.file_at;

	if (size > left)
		size = left;
	if (size > 1 && k.how.shorter)
		size = size > k.how.shorter ? size - k.how.shorter : 1;
	memcpy((void *)to, k.file + k.file_at, size);
	k.file_at += size;
	return (long)size;
}

static long received(long to, size_t size)
{
	struct nst_message m = {
		.type = k.how.told, .step = (int32_t)k.how.seed - 100, .error = k.how.error, .detail = 9};

	if (k.calls % 3 == 0)
		return k.calls % 2 ? -EAGAIN : 0;
	if (size < sizeof m)
		return -EFAULT;
	memcpy((void *)to, &m, sizeof m);
	return sizeof m;
}

static long new_fd(void)
{
	return k.next_fd < 4096 ? k.next_fd++ : -EMFILE;
}

static long write_vector(long address, long count)
{
	const struct iovec *v = (const struct iovec *)address;
	size_t total = 0;
	long i;

	for (i = 0; i < count; i++) {
		reads(NST_P(v[i].iov_base), v[i].iov_len);
		total += v[i].iov_len;
	}
	free(k.written);
	k.written = malloc(total);
	k.written_size = 0;
	for (i = 0; k.written && i < count; i++) {
		memcpy(k.written + k.written_size, v[i].iov_base, v[i].iov_len);
		k.written_size += v[i].iov_len;
	}
	return (long)total;
}

static long send_message(long address)
{
	const struct msghdr *h = (const struct msghdr *)address;
	size_t i;

	for (i = 0; i < h->msg_iovlen; i++)
		reads(NST_P(h->msg_iov[i].iov_base), h->msg_iov[i].iov_len);
	reads(NST_P(h->msg_control), h->msg_controllen);
	return sizeof(struct nst_message);
}

static long poll_all(long address, long count)
{
	struct pollfd *p = (struct pollfd *)address;
	long i;

	for (i = 0; i < count; i++)
		p[i].revents = p[i].fd >= 0 && (k.calls + (unsigned long)i) % 2 ? p[i].events : 0;
	return 1;
}

static long signal_read(long to, size_t size)
{
	struct signalfd_siginfo si = {.ssi_signo = k.calls % 4 ? SIGTERM : SIGCHLD};

	if (k.calls % 2)
		return -EAGAIN;
	if (size < sizeof si)
		return -EINVAL;
	memcpy((void *)to, &si, sizeof si);
	return sizeof si;
}

static long file_status(long to)
{
	struct stat st = {.st_mode = k.how.seed % 16 == 15 ? 0040755 : 0100644,
			  .st_size = (long)k.file_size + (k.how.seed % 32 == 31 ? 1 << 30 : 0)};

	memcpy((void *)to, &st, sizeof st);
	return 0;
}

/* Calls with memory for arguments; the others need nothing but an answer. */
long nst_raw6(long nr, long a, long b, long c, long d, long e, long f)
{
	(void)f;
	if (++k.calls > CALLS_MAX)
		process_ends();
	if (nr == __NR_exit_group)
		process_ends();
	if (nr == __NR_exit)
		thread_ends();
	if (nr == __NR_munmap)
		return 0;
	if (nr == __NR_mmap)
		return map((size_t)b, (int)e);
	switch (nr) { /* what is read is read, whether or not the call then fails */
	case __NR_execve:
		reads_string(a);
		reads_vector(b);
		reads_vector(c);
		break;
	case __NR_execveat:
		reads_string(b);
		reads_vector(c);
		reads_vector(d);
		break;
	case __NR_openat:
	case __NR_open_tree:
	case __NR_mkdirat:
	case __NR_mknodat:
	case __NR_unlinkat:
	case __NR_fchownat:
	case __NR_fchmodat:
		reads_string(b);
		break;
	case __NR_openat2:
		reads_string(b);
		reads(c, sizeof(struct open_how));
		break;
	case __NR_move_mount:
		reads_string(b);
		reads_string(d);
		break;
	case __NR_mount_setattr:
		reads_string(b);
		reads(d, sizeof(struct mount_attr));
		break;
	case __NR_fsconfig:
		reads_string(c);
		reads_string(d);
		break;
	case __NR_mount:
		reads_string(a);
		reads_string(b);
		reads_string(c);
		reads_string(e);
		break;
	case __NR_fsopen:
	case __NR_umount2:
	case __NR_chroot:
	case __NR_chdir:
	case __NR_memfd_create:
		reads_string(a);
		break;
	case __NR_pivot_root:
		reads_string(a);
		reads_string(b);
		break;
	case __NR_symlinkat:
		reads_string(a);
		reads_string(c);
		break;
	case __NR_keyctl:
		reads_string(b);
		break;
	case __NR_sethostname:
	case __NR_setdomainname:
		reads(a, (size_t)b);
		break;
	case __NR_write:
	case __NR_sendto:
		reads(b, (size_t)c);
		break;
	case __NR_setgroups:
		reads(b, (size_t)a * 4);
		break;
	case __NR_capset:
		reads(a, sizeof(struct __user_cap_header_struct));
		reads(b, 2 * sizeof(struct __user_cap_data_struct));
		break;
	case __NR_seccomp:
		reads(NST_P(((const struct sock_fprog *)c)->filter),
		      ((const struct sock_fprog *)c)->len * sizeof(struct sock_filter));
		break;
	case __NR_landlock_create_ruleset:
		reads(a, (size_t)b);
		break;
	case __NR_process_vm_writev: /* where it is written is another process's memory */
		reads(NST_P(((const struct iovec *)b)->iov_base), ((const struct iovec *)b)->iov_len);
		reads(d, sizeof(struct iovec));
		break;
	case __NR_landlock_add_rule:
		reads(c, b == 1 ? 12 : 16); /* struct landlock_path_beneath_attr, landlock_net_port_attr */
		break;
	case __NR_prlimit64:
		reads(c, 16); /* struct rlimit64 */
		break;
	case __NR_rt_sigaction:
		if (b)
			reads(b, 32);
		break;
	case __NR_sendmsg:
		send_message(b);
		break;
	}
	if (k.how.fail && k.calls % k.how.fail == 0)
		return -(long)(k.how.error ? k.how.error : EPERM);
	switch (nr) {
	case __NR_execve:
	case __NR_execveat:
		return k.how.seed & 1 ? -ENOENT : -EACCES;
	case __NR_openat:
	case __NR_openat2:
	case __NR_open_tree:
	case __NR_fsopen:
	case __NR_fsmount:
	case __NR_socket:
	case __NR_pidfd_open:
	case __NR_memfd_create:
	case __NR_landlock_create_ruleset:
	case __NR_signalfd4:
		return new_fd();
	case __NR_fcntl:
		return b == F_DUPFD || b == F_DUPFD_CLOEXEC ? new_fd() : 0;
	case __NR_ioctl:
		if (b == SIOCSIFFLAGS || b == TIOCSPTLCK) { /* the others take numbers */
			reads(c, sizeof(struct ifreq));
			writes(c, sizeof(struct ifreq));
		}
		if (b == (long)SECCOMP_IOCTL_NOTIF_RECV)
			writes(c, sizeof(struct seccomp_notif));
		if (b == (long)SECCOMP_IOCTL_NOTIF_SEND)
			reads(c, sizeof(struct seccomp_notif_resp));
		if (b == (long)SECCOMP_IOCTL_NOTIF_ID_VALID)
			reads(c, sizeof(uint64_t));
		return b == TIOCGPTPEER ? new_fd() : 0;
	case __NR_socketpair:
		((int32_t *)d)[0] = (int32_t)new_fd();
		((int32_t *)d)[1] = (int32_t)new_fd();
		return 0;
	case __NR_capget:
		writes(b, 2 * sizeof(struct __user_cap_data_struct));
		return 0;
	case __NR_rt_sigprocmask:
		if (c)
			writes(c, 8);
		return 0;
	case __NR_clone: /* the parent's side */
		return 4321;
	case __NR_wait4:
		if (b)
			writes(b, 4);
		if (d)
			writes(d, sizeof(struct rusage));
		return k.calls % 2 ? 4321 : -ECHILD;
	case __NR_fstat:
		return file_status(b);
	case __NR_writev:
		return write_vector(b, c);
	case __NR_read:
		if ((size_t)c == sizeof(struct nst_envelope)) {
			if (k.envelope_size < sizeof(struct nst_envelope))
				return (long)k.envelope_size;
			memcpy((void *)b, k.envelope, sizeof(struct nst_envelope));
			return sizeof(struct nst_envelope);
		}
		if ((size_t)c == sizeof(struct signalfd_siginfo))
			return signal_read(b, (size_t)c);
		if ((size_t)c == sizeof(struct nst_message))
			return received(b, (size_t)c);
		return read_file(b, (size_t)c);
	case __NR_recvfrom:
		return received(b, (size_t)c);
	case __NR_sendto:
	case __NR_write:
		return c;
	case __NR_sendmsg:
		return sizeof(struct nst_message);
	case __NR_sendfile:
		return 0;
	case __NR_ppoll:
		return poll_all(a, b);
	case __NR_futex: /* who waits finds that the other has done its part */
		if (b == FUTEX_WAIT)
			*(int32_t *)a = !c;
		return 0;
	case __NR_seccomp:
		return b ? new_fd() : 0;
	case __NR_getpid:
		return k.pid;
	}
	return 0;
}

/* The child runs to its end, then the parent goes on: that is CLONE_VFORK, and without it one of many orders. */
long nst_clone3_on_stack(const void *args, size_t size, void (*fn)(void *), void *arg)
{
	jmp_buf end, *outer = k.child;
	const struct clone_args *a = args;

	reads(NST_P(args), size);
	if (a->set_tid_size)
		reads((long)a->set_tid, a->set_tid_size * 4);
	memset((void *)(a->stack + a->stack_size - 64), 0, 64);
	if (++k.calls > CALLS_MAX)
		process_ends();
	if (k.how.fail && k.calls % k.how.fail == 0)
		return -(long)(k.how.error ? k.how.error : EPERM);
	if (a->flags & CLONE_PIDFD)
		*(int32_t *)a->pidfd = (int32_t)new_fd();
	if (!(k.how.mode & MODE_NO_CHILD)) {
		k.child = &end;
		if (setjmp(end) == 0)
			fn(arg);
	}
	if (a->flags & CLONE_CHILD_CLEARTID)
		*(int32_t *)a->child_tid = 0;
	k.child = outer;
	return 4321;
}

static void start(const struct behaviour *how)
{
	unsigned int i;

	for (i = 0; i < k.n_maps; i++)
		free(k.maps[i]);
	free(k.written);
	k.written = NULL;
	k.written_size = 0;
	k.n_maps = 0;
	k.how = *how;
	k.calls = 0;
	k.child = NULL;
	k.next_fd = LOWEST_FD;
	k.file_at = 0;
	k.pid = k.pid < 2000 ? k.pid + 1 : 1234; /* a run that was left half way is another process */
}

/* Make the sizes in the header those that the plan has, as a fuzzer alone rarely would. */
static void repair(uint8_t *plan, size_t size)
{
	struct nst_plan h;
	size_t room = size - sizeof h, steps;

	memcpy(&h, plan, sizeof h);
	steps = h.n_steps % (room / sizeof(struct nst_step) + 1);
	h.magic = NST_MAGIC;
	h.version = NST_VERSION;
	h.header_size = sizeof h;
	h.size = (uint32_t)size;
	h.n_steps = (uint32_t)steps;
	h.steps_offset = sizeof h;
	h.pool_offset = (uint32_t)(sizeof h + steps * sizeof(struct nst_step));
	h.pool_size = h.size - h.pool_offset;
	h.flags &= 3;
	h.n_slots %= NST_MAX_SLOTS + 1;
	h.n_given %= h.n_slots + 1;
	memset(h.reserved, 0, sizeof h.reserved);
	memcpy(plan, &h, sizeof h);
}

/* Every step for the role that has it, and for each other role that the check would let make it. */
static void run_steps(const struct behaviour *how, const uint8_t *plan)
{
	const struct nst_plan *h = (const struct nst_plan *)plan;
	static int32_t slots[NST_MAX_SLOTS];
	void *scratch = malloc(16384);
	int32_t gate = 0;
	int i;

	start(how);
	for (i = 0; i < NST_MAX_SLOTS; i++)
		slots[i] = i % 7 ? i : i % 2 ? NST_NONE : NST_SKIPPED;
	for (i = 0; i < (int)h->n_steps; i++) {
		const struct nst_step *s = (const struct nst_step *)(plan + h->steps_offset) + i;
		struct nst_run run = {
			.plan = plan, .slots = slots, .who = s->who, .control = 3, .child_pid = 4321, .gate = &gate};

		if (s->who == NST_PAYLOAD || s->who == NST_LAUNCHER) {
			run.scratch = scratch;
			run.scratch_size = 16384;
		}
		k.calls = 0;
		if (setjmp(k.whole) == 0)
			nst_step_run(&run, i);
	}
	free(scratch);
}

static void run_launcher(const struct behaviour *how, const uint8_t *plan, size_t size)
{
	static uint8_t stack[NST_STACK];
	static struct nst_launch l;

	start(how);
	memset(&l, 0, sizeof l);
	l.plan = plan;
	l.size = size;
	l.stack = stack;
	l.image = 5;
	if (setjmp(k.whole) == 0) {
		nst_launch_begin(&l);
		while (nst_launch_run(&l) == 1)
			l.next++;
		nst_launch_kill(&l);
		nst_launch_undo(&l);
		nst_launch_close(&l);
	}
}

static void run_init(const struct behaviour *how, const uint8_t *plan, size_t size)
{
	struct nst_envelope e = {
		.magic = NST_MAGIC, .size = (uint32_t)size, .control = 7, .launcher = how->seed % 2 ? 8 : -1};
	uint8_t *whole = malloc(sizeof e + size);

	memcpy(whole, &e, sizeof e);
	memcpy(whole + sizeof e, plan, size);
	start(how);
	k.envelope = whole;
	k.envelope_size = sizeof e + size;
	if (setjmp(k.whole) == 0)
		nst_init(6);
	k.envelope = NULL;
	k.envelope_size = 0;
	free(whole);
}

static void run_nsexec(const struct behaviour *how, const uint8_t *file, size_t size)
{
	static char nsexec[] = "nsexec", name[] = "file", word[] = "an argument", empty[] = "";
	long stack[16] = {0};
	unsigned int n = how->args % 8, i;

	start(how);
	k.file = file;
	k.file_size = size;
	stack[0] = 2 + (long)n;
	stack[1] = NST_P(nsexec);
	stack[2] = NST_P(name);
	for (i = 0; i < n; i++)
		stack[3 + i] = NST_P(i % 2 ? empty : word);
	if (setjmp(k.whole) == 0)
		nst_main(stack);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char line[] = "#!/usr/bin/nsexec\n";
	struct behaviour how;
	struct nst_failure f = {.step = -2};
	uint8_t *plan, *file;
	size_t first;

	if (size < sizeof how || size > NST_MAX_PLAN + sizeof how)
		return 0;
	memcpy(&how, data, sizeof how);
	data += sizeof how;
	size -= sizeof how;
	plan = malloc(size ? size : 1); /* on 8 bytes, and its end is the end of what may be read */
	memcpy(plan, data, size);
	if (how.mode & MODE_REPAIR && size >= sizeof(struct nst_plan))
		repair(plan, size);

	first = how.mode & MODE_SHEBANG ? sizeof line - 1 : 0;
	file = malloc(first + size + 1);
	memcpy(file, line, first);
	memcpy(file + first, plan, size);
	run_nsexec(&how, file, first + size);
	free(file);

	if (nst_plan_check(plan, size, &f) == 0) {
		run_steps(&how, plan);
		run_launcher(&how, plan, size);
		run_init(&how, plan, size);
	} else if (f.step < -1 || f.step >= NST_MAX_STEPS || f.error != EINVAL || f.detail < NST_BAD_SIZE ||
		   f.detail > NST_BAD_RESERVED) {
		abort(); /* a refusal without a reason */
	}
	start(&how); /* free what was mapped */
	free(plan);
	return 0;
}
