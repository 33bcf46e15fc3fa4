/* Check and run an encoded plan. Raw system calls only: this is what runs between clone and exec. */
#include "nstool.h"

#include <asm/ioctls.h>
#include <asm/signal.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <linux/stat.h>
#include <linux/time_types.h>

#include "raw.h"

/* The table of calls; nstool/plan/calls.py has the same, tests/native compares the two.
 * nr < 0: not one plain system call, see nst_step_run(). */
#define CALLS(X)                                                                                                       \
	X(openat2, -1, "fsiii")                                                                                        \
	X(open_tree, __NR_open_tree, "fsi")                                                                            \
	X(move_mount, __NR_move_mount, "fsfsi")                                                                        \
	X(mount_setattr, -1, "fsiiiif")                                                                                \
	X(fsopen, __NR_fsopen, "si")                                                                                   \
	X(fsconfig, __NR_fsconfig, "fizzf")                                                                            \
	X(fsmount, __NR_fsmount, "fii")                                                                                \
	X(mount, __NR_mount, "zsziz")                                                                                  \
	X(umount2, __NR_umount2, "si")                                                                                 \
	X(pivot_root, __NR_pivot_root, "ss")                                                                           \
	X(chroot, __NR_chroot, "s")                                                                                    \
	X(chdir, __NR_chdir, "s")                                                                                      \
	X(fchdir, __NR_fchdir, "f")                                                                                    \
	X(mkdirat, __NR_mkdirat, "fsi")                                                                                \
	X(mknodat, __NR_mknodat, "fsii")                                                                               \
	X(symlinkat, __NR_symlinkat, "sfs")                                                                            \
	X(unlinkat, __NR_unlinkat, "fsi")                                                                              \
	X(fchownat, __NR_fchownat, "fsiii")                                                                            \
	X(fchmodat, __NR_fchmodat, "fsi")                                                                              \
	X(write_file, -1, "fsbii")                                                                                     \
	X(write, -1, "fb")                                                                                             \
	X(sethostname, -1, "b")                                                                                        \
	X(setdomainname, -1, "b")                                                                                      \
	X(personality, __NR_personality, "i")                                                                          \
	X(setns, __NR_setns, "fi")                                                                                     \
	X(unshare, __NR_unshare, "i")                                                                                  \
	X(socket, __NR_socket, "iii")                                                                                  \
	X(ioctl, -1, "fib")                                                                                            \
	X(ioctl_int, __NR_ioctl, "fii")                                                                                \
	X(setgroups, -1, "b")                                                                                          \
	X(setresuid, __NR_setresuid, "iii")                                                                            \
	X(setresgid, __NR_setresgid, "iii")                                                                            \
	X(capset, -1, "iii")                                                                                           \
	X(prctl, __NR_prctl, "iiiii")                                                                                  \
	X(seccomp, -1, "ib")                                                                                           \
	X(setrlimit, -1, "iii")                                                                                        \
	X(setsid, __NR_setsid, "")                                                                                     \
	X(umask, __NR_umask, "i")                                                                                      \
	X(keyctl, __NR_keyctl, "iz")                                                                                   \
	X(dup3, -1, "fii")                                                                                             \
	X(fcntl, __NR_fcntl, "fii")                                                                                    \
	X(close_range, -1, "iii")                                                                                      \
	X(close, -1, "f")                                                                                              \
	X(pidfd_open, __NR_pidfd_open, "ii")                                                                           \
	X(reset_signals, -1, "")                                                                                       \
	X(own_null, -1, "")                                                                                            \
	X(raise_ambient, -1, "i")                                                                                      \
	X(drop_bounding, -1, "i")                                                                                      \
	X(clone3, -1, "ifii")                                                                                          \
	X(wait, -1, "")                                                                                                \
	X(release, -1, "")                                                                                             \
	X(exec_init, -1, "")                                                                                           \
	X(execve, -1, "vvv")                                                                                           \
	X(write_proc, -1, "sb")                                                                                        \
	X(spawn, -1, "v")                                                                                              \
	X(send_fd, -1, "f")                                                                                            \
	X(external, -1, "s")                                                                                           \
	X(futex_wake, -1, "")                                                                                          \
	X(futex_wait, -1, "")                                                                                          \
	X(attest, -1, "")                                                                                              \
	X(answer_sysinfo, -1, "fii")                                                                                   \
	X(landlock_create_ruleset, -1, "iii")                                                                          \
	X(landlock_add_rule, -1, "fiifi")                                                                              \
	X(landlock_restrict_self, __NR_landlock_restrict_self, "fi")                                                   \
	X(serve, -1, "")                                                                                               \
	X(receive, -1, "i")

enum {
#define X(name, nr, kinds) CALL_##name,
	CALLS(X)
#undef X
		CALL_COUNT
};

/* Arrays of characters, not of pointers: the image needs no relocation. */
struct call {
	int nr;
	char kinds[NST_ARGS + 1];
	char name[24];
};

static const struct call calls[CALL_COUNT] = {
#define X(name, nr, kinds) {nr, kinds, #name},
	CALLS(X)
#undef X
};

const char *nst_call_name(unsigned int i)
{
	return i < CALL_COUNT ? calls[i].name : NULL;
}

const char *nst_call_kinds(unsigned int i)
{
	return i < CALL_COUNT ? calls[i].kinds : NULL;
}

#define AS_NULL UINT64_MAX

static uint32_t offset_of(uint64_t arg)
{
	return (uint32_t)arg;
}

static uint32_t length_of(uint64_t arg)
{
	return (uint32_t)(arg >> 32);
}

static const struct nst_plan *header_of(const uint8_t *plan)
{
	return (const struct nst_plan *)plan;
}

const struct nst_step *nst_step_at(const uint8_t *plan, int i)
{
	return (const struct nst_step *)(plan + header_of(plan)->steps_offset) + i;
}

int nst_call_is(const struct nst_step *step, const char *name)
{
	return nst_same(nst_call_name(step->call), name);
}

/* ---- checking ---- */

static int bytes_ok(const uint8_t *pool, uint32_t pool_size, uint64_t arg, char kind)
{
	uint32_t off = offset_of(arg), len = length_of(arg), i;

	if (off > pool_size || len > pool_size - off)
		return 0;
	if (kind == 'b')
		return 1;
	if (kind == 'v') /* zero or more strings, each with its NUL */
		return len == 0 || pool[off + len - 1] == 0;
	if (len == pool_size - off || pool[off + len] != 0)
		return 0;
	for (i = 0; i < len; i++)
		if (pool[off + i] == 0)
			return 0;
	return 1;
}

/* SECCOMP_FILTER_FLAG_NEW_LISTENER | WAIT_KILLABLE_RECV (Linux 5.19) */
enum { NST_LISTENS = 0x28 };

/* Whether a step returns an fd: only such a result can be kept. */
static int returns_fd(const struct nst_step *s)
{
	unsigned int call = s->call;

	if (call == CALL_seccomp)
		return s->arg[0] == NST_LISTENS && s->who == NST_INIT;
	return call == CALL_openat2 || call == CALL_open_tree || call == CALL_fsopen || call == CALL_fsmount ||
	       call == CALL_socket || call == CALL_ioctl_int || call == CALL_fcntl || call == CALL_pidfd_open ||
	       call == CALL_landlock_create_ruleset;
}

static int is_threads_own(uint64_t type)
{
	return type == CLONE_NEWNET || type == CLONE_NEWUTS || type == CLONE_NEWIPC || type == CLONE_NEWCGROUP;
}

/* Who may make a call. The launcher is somebody's process: nothing that changes it (rather than the world
 * around it) is done in it, but that its thread goes for the child into namespaces that are a thread's own,
 * and comes back (order_bad). Only the launcher knows the new process by pid; only init and the payload
 * have the other end of the socket. */
static int who_bad(const struct nst_step *s)
{
	int launcher = s->who == NST_LAUNCHER || s->who == NST_UNDO;

	switch (s->call) {
	case CALL_write_proc:
	case CALL_spawn:
	case CALL_release:
		return s->who != NST_LAUNCHER;
	case CALL_external:
		return !launcher;
	case CALL_clone3:
		return s->who != NST_LAUNCHER && s->who != NST_INIT;
	case CALL_exec_init:
		return s->who != NST_CHILD;
	case CALL_execve:
	case CALL_futex_wait:
	case CALL_attest:
	case CALL_receive:
	case CALL_own_null:
		return s->who != NST_PAYLOAD;
	case CALL_futex_wake:
	case CALL_answer_sysinfo:
	case CALL_serve:
		return s->who != NST_INIT;
	case CALL_wait:
	case CALL_send_fd:
		return s->who != NST_INIT && s->who != NST_PAYLOAD;
	case CALL_close: /* the child shares the launcher's slots, and exec closes its fds */
		return s->who == NST_CHILD;
	case CALL_pivot_root:
	case CALL_chroot:
	case CALL_chdir:
	case CALL_fchdir:
	case CALL_sethostname:
	case CALL_setdomainname:
	case CALL_personality:
		return launcher;
	case CALL_setrlimit:
		return s->who == NST_UNDO;
	case CALL_setns:
		return s->who == NST_UNDO || (launcher && !is_threads_own(s->arg[1]));
	case CALL_unshare:
	case CALL_setgroups:
	case CALL_setresuid:
	case CALL_setresgid:
	case CALL_capset:
	case CALL_prctl:
	case CALL_seccomp:
	case CALL_setsid:
	case CALL_umask:
	case CALL_keyctl:
	case CALL_dup3:
	case CALL_close_range:
	case CALL_reset_signals:
	case CALL_raise_ambient:
	case CALL_drop_bounding:
	case CALL_landlock_restrict_self:
		return launcher;
	}
	return 0;
}

/* Options that take integers only: others have the kernel write where an argument points. */
static int prctl_ok(uint64_t option)
{
	return option == PR_SET_PDEATHSIG || option == PR_SET_DUMPABLE || option == PR_SET_KEEPCAPS ||
	       option == PR_CAPBSET_DROP || option == PR_SET_SECUREBITS || option == PR_SET_TIMERSLACK ||
	       option == PR_SET_CHILD_SUBREAPER || option == PR_SET_NO_NEW_PRIVS || option == PR_SET_THP_DISABLE ||
	       option == PR_CAP_AMBIENT || option == PR_SET_SPECULATION_CTRL;
}

enum {
	NAMESPACES = CLONE_NEWTIME | CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
		     CLONE_NEWPID | CLONE_NEWNET,
	PROC_FILE_MAX = 32, /* longest name for write_proc */
	PID_LIMIT = 1 << 22,
};

/* <linux/landlock.h> of Linux 6.12; older headers know neither the port nor all fields. landlock(7) */
enum { RULE_PATH_BENEATH = 1, RULE_NET_PORT = 2 };
struct ruleset {
	uint64_t handled_access_fs, handled_access_net, scoped;
};
struct path_beneath {
	uint64_t allowed_access;
	int32_t parent_fd;
} __attribute__((packed));
struct net_port {
	uint64_t allowed_access, port;
};

/* What the kinds of the arguments do not tell. */
static int arguments_bad(const struct nst_plan *h, const struct nst_step *s)
{
	const uint64_t *a = s->arg;

	switch (s->call) {
	case CALL_setgroups:
		return length_of(a[0]) % 4 != 0;
	case CALL_seccomp:
		/* No flag but the one by which init gets a listener: without it whoever makes such a call waits for ever. */
		return length_of(a[1]) % sizeof(struct sock_filter) || !length_of(a[1]) ||
		       length_of(a[1]) / sizeof(struct sock_filter) > BPF_MAXINSNS ||
		       (a[0] && (a[0] != NST_LISTENS || s->result == NST_NONE));
	case CALL_answer_sysinfo:
		return a[0] >> 32 == 0;
	case CALL_ioctl: /* 64 bytes are more than these write back */
		return length_of(a[2]) < 64 || (a[1] != SIOCSIFFLAGS && a[1] != TIOCSPTLCK);
	case CALL_ioctl_int:
		return a[1] != TIOCGPTPEER && a[1] != TIOCSCTTY;
	case CALL_fcntl:
		return a[1] != F_DUPFD && a[1] != F_DUPFD_CLOEXEC && a[1] != F_SETFD && a[1] != F_SETFL;
	case CALL_keyctl:
		return a[0] != KEYCTL_JOIN_SESSION_KEYRING;
	case CALL_prctl:
		return !prctl_ok(a[0]);
	case CALL_clone3: /* no flag by which the new process would share more than we mean to */
		return s->ignore || a[0] & ~(uint64_t)NAMESPACES || a[2] > PID_LIMIT || a[3] >= UINT32_MAX ||
		       (a[3] && (s->who != NST_LAUNCHER || !(a[0] & CLONE_NEWUSER)));
	case CALL_exec_init:
	case CALL_serve:
		return s->ignore != 0;
	case CALL_receive: /* one bit for each fd that the connection becomes */
		return !a[0] || a[0] >> 16;
	case CALL_execve:
		return s->ignore || !length_of(a[0]) || !length_of(a[1]);
	case CALL_spawn:
		return !length_of(a[0]);
	case CALL_write_proc:
		return length_of(a[0]) > PROC_FILE_MAX;
	case CALL_landlock_add_rule: /* each type has its own struct, and no use for the other's field */
		return !(a[1] == RULE_PATH_BENEATH && a[4] == 0) && !(a[1] == RULE_NET_PORT && a[3] == UINT32_MAX);
	case CALL_close: /* the launcher closes what its own steps have opened */
		return s->who == NST_LAUNCHER && (a[0] >> 32 == 0 || (uint32_t)a[0] < h->n_given);
	}
	return 0;
}

static enum nst_reason step_reason(const uint8_t *plan, const struct nst_step *s)
{
	const struct nst_plan *h = header_of(plan);
	const char *kinds;
	int i, n = 0;

	if (s->call >= CALL_COUNT)
		return NST_BAD_CALL;
	if (s->who >= NST_WHO_COUNT || who_bad(s))
		return NST_BAD_WHO;
	if (s->reserved)
		return NST_BAD_RESERVED;
	if (s->result != NST_NONE && (s->result < (int)h->n_given || s->result >= (int)h->n_slots || !returns_fd(s) ||
				      s->who == NST_CHILD || s->who == NST_UNDO))
		return NST_BAD_RESULT;
	if (s->ignore < 0 || s->ignore > 4095)
		return NST_BAD_ARGUMENT;
	kinds = calls[s->call].kinds;
	for (; n < NST_ARGS && kinds[n]; n++) {
		uint64_t a = s->arg[n];

		switch (kinds[n]) {
		case 'i':
			break;
		case 'f':
			if (a >> 32 > 1 || (a >> 32 == 1 && (uint32_t)a >= h->n_slots))
				return NST_BAD_ARGUMENT;
			break;
		case 'z':
			if (a == AS_NULL)
				break;
			/* fall through */
		default:
			if (!bytes_ok(plan + h->pool_offset, h->pool_size, a, kinds[n]))
				return NST_BAD_STRING;
		}
	}
	for (i = n; i < NST_ARGS; i++)
		if (s->arg[i])
			return NST_BAD_RESERVED;
	return arguments_bad(h, s) ? NST_BAD_ARGUMENT : 0;
}

/* The roles in order: launcher steps (as many setns before as after the clone) and one clone3; child steps ending in
 * exec_init; then launcher and init steps mixed, with init's clone3 among them; the payload's, ending in execve, or in
 * their place init's last, serve; undo. */
static int order_bad(const uint8_t *plan, int *ret_step)
{
	const struct nst_plan *h = header_of(plan);
	int with_init = (h->flags & NST_WITH_INIT) != 0;
	int i, cloned = 0, inited = 0, payload = !with_init, begun = 0, executed = 0, undo = 0, away = 0;

	for (i = 0; i < (int)h->n_steps; i++) {
		const struct nst_step *s = nst_step_at(plan, i);

		*ret_step = i;
		if (undo && s->who != NST_UNDO)
			return 1;
		switch (s->who) {
		case NST_LAUNCHER:
			if (cloned && !inited)
				return 1;
			if (s->call == CALL_clone3 && cloned++)
				return 1;
			if (s->call == CALL_setns)
				away += cloned ? -1 : 1;
			if ((s->call == CALL_write_proc || s->call == CALL_spawn || s->call == CALL_release ||
			     s->call == CALL_setrlimit) &&
			    !cloned)
				return 1;
			break;
		case NST_CHILD:
			if (!cloned || inited)
				return 1;
			inited = s->call == CALL_exec_init;
			break;
		case NST_INIT:
			if (!inited || begun || executed)
				return 1;
			if (s->call == CALL_serve) {
				if (!with_init || payload)
					return 1;
				executed = 1;
			}
			if (s->call == CALL_clone3 && payload++)
				return 1;
			if (s->call == CALL_futex_wake && !payload)
				return 1;
			break;
		case NST_PAYLOAD:
			if (!inited || !payload || executed || (s->call == CALL_futex_wait && !with_init))
				return 1;
			begun = 1;
			executed = s->call == CALL_execve;
			break;
		default:
			undo = 1;
		}
	}
	return !executed || away;
}

int nst_plan_check(const uint8_t *plan, uint64_t size, struct nst_failure *ret_failure)
{
	const struct nst_plan *h = header_of(plan);
	enum nst_reason why = 0;
	int step = -1;
	uint32_t i;

	if (size < sizeof *h || size > NST_MAX_PLAN || ((uintptr_t)plan & 7))
		why = NST_BAD_SIZE;
	else if (h->magic != NST_MAGIC)
		why = NST_BAD_MAGIC;
	else if (h->version != NST_VERSION)
		why = NST_BAD_VERSION;
	else if (h->header_size != sizeof *h || h->size != size || !h->n_steps || h->n_steps > NST_MAX_STEPS ||
		 h->steps_offset != sizeof *h ||
		 h->pool_offset != sizeof *h + h->n_steps * (uint32_t)sizeof(struct nst_step) ||
		 h->pool_offset > size || h->pool_size != size - h->pool_offset || h->n_slots > NST_MAX_SLOTS ||
		 h->n_given > h->n_slots || h->flags & ~(uint32_t)(NST_WITH_INIT | NST_DIE_WITH_PARENT))
		why = NST_BAD_HEADER;
	else
		for (i = 0; i < 6 && !why; i++)
			if (h->reserved[i])
				why = NST_BAD_RESERVED;
	for (i = 0; !why && i < h->n_steps; i++) {
		why = step_reason(plan, nst_step_at(plan, (int)i));
		step = (int)i;
	}
	if (!why) {
		if (!order_bad(plan, &step))
			return 0;
		why = NST_BAD_ORDER;
	}
	*ret_failure = (struct nst_failure){.step = step, .error = EINVAL, .detail = (int)why};
	return -EINVAL;
}

/* ---- running ---- */

int64_t nst_now(void)
{
	struct __kernel_timespec t = {0};

	nst_raw2(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, NST_P(&t));
	return t.tv_sec * 1000000000 + t.tv_nsec;
}

static const char *string_at(const uint8_t *plan, uint64_t arg)
{
	return (const char *)plan + header_of(plan)->pool_offset + offset_of(arg);
}

/* The arguments as the kernel wants them. 0, or 1 when an fd was skipped, or -EBADF. */
static int convert(const struct nst_run *run, const struct nst_step *s, long *ret_args)
{
	const char *kinds = calls[s->call].kinds;
	int i, skipped = 0;

	for (i = 0; i < NST_ARGS && kinds[i]; i++) {
		uint64_t a = s->arg[i];

		switch (kinds[i]) {
		case 'i':
			ret_args[i] = (long)a;
			break;
		case 'f':
			ret_args[i] = (int32_t)a;
			if (a >> 32) {
				ret_args[i] = run->slots[(uint32_t)a];
				if (ret_args[i] == NST_SKIPPED)
					skipped = 1;
				else if (ret_args[i] < 0)
					return -EBADF;
			}
			break;
		default:
			ret_args[i] = a == AS_NULL ? 0 : NST_P(string_at(run->plan, a));
		}
	}
	return skipped;
}

static long write_all(int fd, const char *data, uint32_t len)
{
	long n;

	do
		n = nst_raw3(__NR_write, fd, NST_P(data), len);
	while (n == -EINTR);
	/* /proc and cgroup files take a write whole or not at all; a short write elsewhere is a failure too. */
	return n < 0 ? n : n == (long)len ? 0 : -EIO;
}

/* open, write, close; *ret_detail says which of them failed. */
static long write_file(int dirfd, const char *path, const char *data, uint32_t len, long flags, long mode,
		       int *ret_detail)
{
	long fd, r, c;

	*ret_detail = 0;
	fd = nst_raw4(__NR_openat, dirfd, NST_P(path), O_WRONLY | O_CLOEXEC | flags, mode);
	if (fd < 0)
		return fd;
	*ret_detail = 1;
	r = write_all((int)fd, data, len);
	c = nst_raw1(__NR_close, fd);
	if (r == 0 && c < 0) {
		*ret_detail = 2;
		return c;
	}
	return r;
}

/* "/proc/PID/FILE" into buf of 64 bytes; FILE is at most PROC_FILE_MAX long. */
static const char *proc_path(char *buf, int pid, const char *file)
{
	char digits[12], *d = nst_put_number(digits + sizeof digits, (unsigned int)pid), *p = buf;
	const char *s;

	for (s = "/proc/"; *s; s++)
		*p++ = *s;
	while (*d)
		*p++ = *d++;
	*p++ = '/';
	while (*file)
		*p++ = *file++;
	*p = 0;
	return buf;
}

/* A list of strings as a NULL-terminated vector in `room`. Returns the number, or -E2BIG. */
static long vector(const uint8_t *plan, uint64_t arg, const char **room, uint64_t max)
{
	const char *s = string_at(plan, arg), *end = s + length_of(arg);
	uint64_t n = 0;

	while (s < end) {
		if (n + 1 >= max)
			return -E2BIG;
		room[n++] = s;
		while (*s)
			s++;
		s++;
	}
	if (n >= max)
		return -E2BIG;
	room[n] = NULL;
	return (long)n;
}

/* Try each path in turn as execvp(3) does: go on when it is not there, remember a refusal. */
static long run_execve(const struct nst_run *run, const struct nst_step *s)
{
	const char **room = run->scratch;
	uint64_t max = run->scratch_size / sizeof *room;
	const char *path = string_at(run->plan, s->arg[0]), *end = path + length_of(s->arg[0]);
	long argc = vector(run->plan, s->arg[1], room, max), envc, r, kept = -ENOENT;

	if (argc < 0)
		return argc;
	envc = vector(run->plan, s->arg[2], room + argc + 1, max - (uint64_t)argc - 1);
	if (envc < 0)
		return envc;
	while (path < end) {
		r = nst_raw3(__NR_execve, NST_P(path), NST_P(room), NST_P(room + argc + 1));
		if (r != -ENOENT && r != -ENOTDIR && r != -EACCES)
			return r;
		if (r == -EACCES)
			kept = r;
		while (*path)
			path++;
		path++;
	}
	return kept;
}

static long unblock_signals(void)
{
	unsigned long none = 0;

	return nst_raw4(__NR_rt_sigprocmask, SIG_SETMASK, NST_P(&none), 0, 8);
}

/* Every disposition to the default. */
void nst_default_signals(void)
{
	struct {
		uint64_t handler, flags, restorer, mask;
	} dfl = {0};
	int sig;

	for (sig = 1; sig <= 64; sig++)
		if (sig != SIGKILL && sig != SIGSTOP)
			nst_raw4(__NR_rt_sigaction, sig, NST_P(&dfl), 0, 8);
}

static long run_reset_signals(void)
{
	nst_default_signals();
	return unblock_signals();
}

/* The host's /dev/null as a stream is a file of the host, to lock, watch and touch: open this root's instead. null(4) */
static long run_own_null(void)
{
	enum {
		FORMAT = 0170000, /* of a mode, inode(7) */
		CHARACTERS = 0020000,
	};
	int fd;

	for (fd = 0; fd < 3; fd++) {
		struct statx found;
		long flags, own, r;

		r = nst_raw5(__NR_statx, fd, NST_P(""), AT_EMPTY_PATH, STATX_TYPE, NST_P(&found));
		if (r < 0)
			return r;
		if ((found.stx_mode & FORMAT) != CHARACTERS || found.stx_rdev_major != 1 || found.stx_rdev_minor != 3)
			continue;
		flags = nst_raw3(__NR_fcntl, fd, F_GETFL, 0);
		if (flags < 0)
			return flags;
		if (flags & O_PATH)
			continue;
		own = nst_raw4(__NR_openat, AT_FDCWD, NST_P("/dev/null"), flags & (O_ACCMODE | O_APPEND | O_NONBLOCK),
			       0);
		if (own < 0)
			return own;
		r = nst_raw3(__NR_dup3, own, fd, 0);
		if (r < 0)
			return r;
		nst_raw1(__NR_close, own);
	}
	return 0;
}

static long wait_for(long pid, int *ret_status)
{
	long r;

	do
		r = nst_raw4(__NR_wait4, pid, NST_P(ret_status), 0x40000000 /* __WALL */, 0);
	while (r == -EINTR);
	return r;
}

/* In a copy of the host process: run a program, leave with its status, 127 without exec, 128 + errno without fork. */
_Noreturn static void spawn_and_wait(const char *const *argv)
{
	static const char *const empty[] = {NULL};
	int status = 0;
	long child, r;

	/* All stay blocked: a signal to the whole process group ends the host process, which undoes, not its helper. */
	nst_default_signals();
	child = nst_raw5(__NR_clone, SIGCHLD, 0, 0, 0, 0);
	if (child == 0) {
		nst_raw3(__NR_execve, NST_P(argv[0]), NST_P(argv), NST_P(empty));
		for (;;)
			nst_raw1(__NR_exit_group, 127);
	}
	r = child > 0 ? wait_for(child, &status) : child;
	for (;;) /* a signal is a failure like any other */
		nst_raw1(__NR_exit_group, r < 0 ? 128 - r : (status & 0x7f) ? 126 : status >> 8 & 0xff);
}

/* Run a helper program (newuidmap) with "{pid}" replaced, wait for it. -EPERM, detail = its status. */
static long run_spawn(struct nst_run *run, const struct nst_step *s, int *ret_detail)
{
	const char **argv = run->scratch;
	char digits[12], *pid = nst_put_number(digits + sizeof digits, (unsigned int)run->child_pid);
	long n = vector(run->plan, s->arg[0], argv, run->scratch_size / sizeof *argv), i, child, r;
	uint64_t all = ~0ull, old = 0;
	int status = 0;

	if (n < 0)
		return n;
	for (i = 0; i < n; i++)
		if (nst_same(argv[i], "{pid}"))
			argv[i] = pid;
	/* No handler of the host's may run in the copy: it would write to pipes that are the host's. */
	nst_raw4(__NR_rt_sigprocmask, SIG_SETMASK, NST_P(&all), NST_P(&old), 8);
	/* A fork without SIGCHLD, which the host may ignore or reap, waits for the one that execs: a helper is rare. */
	child = nst_raw5(__NR_clone, 0, 0, 0, 0, 0);
	if (child == 0)
		spawn_and_wait(argv);
	nst_raw4(__NR_rt_sigprocmask, SIG_SETMASK, NST_P(&old), 0, 8);
	if (child < 0)
		return child;
	r = wait_for(child, &status);
	if (r < 0)
		return r;
	*ret_detail = status;
	if (status >> 8 > 128) /* newuidmap itself ends with 1 */
		return 128 - (status >> 8);
	return status == 0 ? 0 : status == 127 << 8 ? -ENOENT : -EPERM;
}

static long run_capset(const struct nst_step *s)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];
	int i;

	for (i = 0; i < 2; i++) {
		d[i].effective = (uint32_t)(s->arg[0] >> (32 * i));
		d[i].permitted = (uint32_t)(s->arg[1] >> (32 * i));
		d[i].inheritable = (uint32_t)(s->arg[2] >> (32 * i));
	}
	return nst_raw2(__NR_capset, NST_P(&h), NST_P(d));
}

/* Make `caps` inheritable too and raise each into the ambient set, so that they outlive the next exec. */
static long run_raise_ambient(uint64_t caps)
{
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];
	long r = nst_raw2(__NR_capget, NST_P(&h), NST_P(d));
	int i;

	if (r < 0)
		return r;
	for (i = 0; i < 2; i++)
		d[i].inheritable |= d[i].permitted & (uint32_t)(caps >> (32 * i));
	r = nst_raw2(__NR_capset, NST_P(&h), NST_P(d));
	for (i = 0; i < 64 && r >= 0; i++)
		if (caps >> i & 1 && d[i / 32].permitted >> (i % 32) & 1)
			r = nst_raw5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0);
	return r;
}

/* Drop what is not in `keep`, up to the last capability that this kernel knows (EINVAL past it). */
static long run_drop_bounding(uint64_t keep)
{
	long r;
	int i;

	for (i = 0; i < 64; i++) {
		if (keep >> i & 1)
			continue;
		r = nst_raw5(__NR_prctl, PR_CAPBSET_DROP, i, 0, 0, 0);
		if (r == -EINVAL && i > CAP_CHECKPOINT_RESTORE)
			break;
		if (r < 0)
			return r;
	}
	return 0;
}

struct message_header {
	void *name;
	uint32_t namelen;
	struct {
		const void *base;
		uint64_t len;
	} * iov;
	uint64_t iovlen;
	void *control;
	uint64_t controllen;
	uint32_t flags;
};

static long run_send_fd(const struct nst_run *run, int fd, int slot)
{
	struct nst_message m = {.type = NST_MSG_FD, .detail = slot};
	struct {
		uint64_t len;
		int32_t level, type;
		int32_t fd, pad;
	} c = {.len = 20, .level = 1 /* SOL_SOCKET */, .type = 1 /* SCM_RIGHTS */, .fd = fd};
	struct {
		const void *base;
		uint64_t len;
	} iov = {&m, sizeof m};
	struct message_header h = {.iov = (void *)&iov, .iovlen = 1, .control = &c, .controllen = sizeof c};

	return nst_raw3(__NR_sendmsg, run->control, NST_P(&h), 0x4000 /* MSG_NOSIGNAL */);
}

/* Wait until a word is 1 that another process sets, which shares it or has a copy of the memory. futex(2). */
static long await_word(int32_t *word)
{
	long r = 0;

	while (!__atomic_load_n(word, __ATOMIC_ACQUIRE)) {
		r = nst_raw4(__NR_futex, NST_P(word), FUTEX_WAIT, 0, 0);
		if (r < 0 && r != -EAGAIN && r != -EINTR)
			return r;
	}
	return 0;
}

static long open_word(int32_t *word)
{
	__atomic_store_n(word, 1, __ATOMIC_RELEASE);
	return nst_raw3(__NR_futex, NST_P(word), FUTEX_WAKE, 1);
}

static long run_wait(const struct nst_run *run)
{
	struct nst_message m;
	long n;

	if (run->share)
		return await_word(&run->share->go);
	for (;;) {
		n = nst_raw6(__NR_recvfrom, run->control, NST_P(&m), sizeof m, 0, 0, 0);
		if (n == -EINTR)
			continue;
		if (n < 0)
			return n;
		if (n == 0)
			return -EPIPE; /* the launcher has gone */
		if (n == sizeof m && m.type == NST_MSG_RELEASE)
			return 0;
	}
}

/* Say that all is done but the exec, and wait until the launcher has looked at it. By write(2) and read(2), which every
 * list of system calls allows: the command's is loaded already. */
static long run_attest(const struct nst_run *run)
{
	struct nst_message m = {.type = NST_MSG_READY};
	long n;

	if (run->share && !run->share->attest) /* a sandbox of serve/ that nobody looks at */
		return 0;
	do
		n = nst_raw3(__NR_write, run->control, NST_P(&m), sizeof m);
	while (n == -EINTR);
	if (n < 0)
		return n;
	do
		n = nst_raw3(__NR_read, run->control, NST_P(&m), sizeof m);
	while (n == -EINTR);
	if (n < 0)
		return n;
	return n == sizeof m && m.type == NST_MSG_RELEASE ? 0 : -EPIPE; /* nothing: the launcher has gone */
}

/* Wait for the connection that a parked sandbox is for, and put it where the mask says. Without a socket to wait at it
 * was there from the start. recvmsg(2). */
static long run_receive(const struct nst_run *run, uint64_t mask)
{
	struct nst_message m;
	struct {
		uint64_t len;
		int32_t level, type;
		int32_t fd, pad;
	} c = {.len = 0};
	struct {
		const void *base;
		uint64_t len;
	} iov = {&m, sizeof m};
	struct message_header h = {.iov = (void *)&iov, .iovlen = 1, .control = &c, .controllen = sizeof c};
	long n, r = 0;
	int i;

	if (run->control < 0)
		return 0;
	do
		n = nst_raw3(__NR_recvmsg, run->control, NST_P(&h), 0x40000000 /* MSG_CMSG_CLOEXEC */);
	while (n == -EINTR);
	if (n < 0)
		return n;
	if (n != sizeof m || h.controllen < 20 || c.type != 1 /* SCM_RIGHTS */)
		return -EPIPE; /* nothing: who would have sent it has gone */
	for (i = 0; i < 16 && r >= 0; i++)
		if (mask >> i & 1) {
			/* Its own place may be one of them: then it only has to outlive exec. */
			r = i == c.fd ? nst_raw3(__NR_fcntl, i, F_SETFD, 0) : nst_raw3(__NR_dup3, c.fd, i, 0);
		}
	if (r >= 0 && (c.fd >= 16 || !(mask >> c.fd & 1)))
		r = nst_raw1(__NR_close, c.fd);
	return r < 0 ? r : 0;
}

static long run_release(const struct nst_run *run)
{
	struct nst_message m = {.type = NST_MSG_RELEASE};

	if (run->share)
		return open_word(&run->share->go);
	return nst_raw6(__NR_sendto, run->control, NST_P(&m), sizeof m, 0x4000 /* MSG_NOSIGNAL */, 0, 0);
}

static long run_ioctl(const uint8_t *plan, const struct nst_step *s, const long *a)
{
	char buf[64] __attribute__((aligned(8))); /* the kernel may write into it; the plan stays as it is */
	const char *from = string_at(plan, s->arg[2]);
	int i;

	for (i = 0; i < 64; i++)
		buf[i] = from[i];
	return nst_raw3(__NR_ioctl, a[0], a[1], NST_P(buf));
}

/* An older kernel takes the longer struct as long as what it does not know is 0. landlock_create_ruleset(2) */
static long run_create_ruleset(const struct nst_step *s)
{
	struct ruleset attr = {s->arg[0], s->arg[1], s->arg[2]};

	return nst_raw3(__NR_landlock_create_ruleset, NST_P(&attr), sizeof attr, 0);
}

static long run_add_rule(const struct nst_step *s, const long *a)
{
	struct path_beneath path = {s->arg[2], (int32_t)a[3]};
	struct net_port port = {s->arg[2], s->arg[4]};
	long attr = a[1] == RULE_NET_PORT ? NST_P(&port) : NST_P(&path);

	return nst_raw4(__NR_landlock_add_rule, a[0], a[1], attr, 0);
}

/* close_range(2), but for what the engine itself needs. */
static long run_close_range(const struct nst_run *run, uint32_t first, uint32_t last, long flags)
{
	for (;;) {
		uint32_t kept = UINT32_MAX; /* the lowest in the range; -1, which is no fd, is this too */
		long r = 0;
		int i;

		for (i = 0; i < run->n_keep; i++) {
			uint32_t fd = (uint32_t)run->keep[i];

			if (fd >= first && fd <= last && fd < kept)
				kept = fd;
		}
		if (kept == UINT32_MAX)
			return nst_raw3(__NR_close_range, first, last, flags);
		if (kept > first)
			r = nst_raw3(__NR_close_range, first, kept - 1, flags);
		if (r < 0 || kept == last)
			return r;
		first = kept + 1;
	}
}

static long run_special(struct nst_run *run, const struct nst_step *s, const long *a, int *ret_detail)
{
	switch (s->call) {
	case CALL_openat2: {
		struct open_how how = {.flags = s->arg[2], .mode = s->arg[3], .resolve = s->arg[4]};

		return nst_raw4(__NR_openat2, a[0], a[1], NST_P(&how), sizeof how);
	}
	case CALL_mount_setattr: {
		struct mount_attr attr = {.attr_set = s->arg[3],
					  .attr_clr = s->arg[4],
					  .propagation = s->arg[5],
					  .userns_fd = (uint64_t)(a[6] < 0 ? 0 : a[6])};

		return nst_raw5(__NR_mount_setattr, a[0], a[1], a[2], NST_P(&attr), sizeof attr);
	}
	case CALL_write_file:
		return write_file((int)a[0], (const char *)a[1], (const char *)a[2], length_of(s->arg[2]), a[3], a[4],
				  ret_detail);
	case CALL_write:
		return write_all((int)a[0], (const char *)a[1], length_of(s->arg[1]));
	case CALL_write_proc: { /* a sandbox of serve/ has it from the /proc of its template */
		char buf[64];

		return write_file(AT_FDCWD, proc_path(buf, run->child_pid, (const char *)a[0]), (const char *)a[1],
				  length_of(s->arg[1]), 0, 0, ret_detail);
	}
	case CALL_sethostname:
		return nst_raw2(__NR_sethostname, a[0], length_of(s->arg[0]));
	case CALL_setdomainname:
		return nst_raw2(__NR_setdomainname, a[0], length_of(s->arg[0]));
	case CALL_ioctl:
		return run_ioctl(run->plan, s, a);
	case CALL_setgroups:
		return nst_raw2(__NR_setgroups, length_of(s->arg[0]) / 4, a[0]);
	case CALL_capset:
		return run_capset(s);
	case CALL_seccomp: {
		struct sock_fprog prog = {.len = (uint16_t)(length_of(s->arg[1]) / sizeof(struct sock_filter)),
					  .filter = (struct sock_filter *)a[1]};

		return nst_raw3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, a[0], NST_P(&prog));
	}
	case CALL_setrlimit: {
		struct rlimit64 lim = {.rlim_cur = s->arg[1], .rlim_max = s->arg[2]};

		/* The launcher's is of the new process, never its own. */
		return nst_raw4(__NR_prlimit64, s->who == NST_LAUNCHER ? run->child_pid : 0, a[0], NST_P(&lim), 0);
	}
	case CALL_dup3:
		if (a[0] == a[1]) /* dup3(2) refuses it; what is wanted is that the fd outlives exec */
			return nst_raw3(__NR_fcntl, a[0], F_SETFD, a[2] & O_CLOEXEC ? FD_CLOEXEC : 0);
		return nst_raw3(__NR_dup3, a[0], a[1], a[2]);
	case CALL_landlock_create_ruleset:
		return run_create_ruleset(s);
	case CALL_landlock_add_rule:
		return run_add_rule(s, a);
	case CALL_reset_signals: /* a template's own are the default, and so are those of what it clones */
		return run->share ? unblock_signals() : run_reset_signals();
	case CALL_own_null:
		return run_own_null();
	case CALL_raise_ambient:
		return run_raise_ambient(s->arg[0]);
	case CALL_drop_bounding:
		return run_drop_bounding(s->arg[0]);
	case CALL_wait:
		return run_wait(run);
	case CALL_release:
		return run_release(run);
	case CALL_futex_wake:
		return open_word(run->gate);
	case CALL_futex_wait:
		return await_word(run->gate);
	case CALL_attest:
		return run_attest(run);
	case CALL_receive:
		return run_receive(run, s->arg[0]);
	case CALL_send_fd:
		return run_send_fd(run, (int)a[0], (int)(uint32_t)s->arg[0]);
	case CALL_close_range:
		return run_close_range(run, (uint32_t)a[0], (uint32_t)a[1], a[2]);
	case CALL_close: {
		long r = nst_raw1(__NR_close, a[0]);

		if (s->arg[0] >> 32) /* its number may soon be another's */
			run->slots[(uint32_t)s->arg[0]] = NST_NONE;
		return r;
	}
	case CALL_execve:
		if (run->share)
			run->share->executed = nst_now() - run->share->ahead;
		return run_execve(run, s);
	case CALL_spawn:
		return run_spawn(run, s, ret_detail);
	}
	return -ENOSYS;
}

/* A step that is a system call. Where it gives the process other clocks, it is kept how much they are ahead. */
static long run_call(struct nst_run *run, const struct nst_step *s, const long *a)
{
	int shifts = run->share && s->call == CALL_setns && a[1] == CLONE_NEWTIME;
	int64_t before = shifts ? nst_now() : 0;
	long r = nst_raw6(calls[s->call].nr, a[0], a[1], a[2], a[3], a[4], a[5]);

	if (shifts && r >= 0)
		run->share->ahead = nst_now() - before;
	return r;
}

int nst_step_run(struct nst_run *run, int i)
{
	const struct nst_step *s = nst_step_at(run->plan, i);
	long a[NST_ARGS] = {0}, r;
	int detail = 0;

	r = convert(run, s, a);
	if (r == 1) {
		if (s->result >= 0)
			run->slots[s->result] = NST_SKIPPED;
		return 0;
	}
	if (r == 0)
		r = calls[s->call].nr >= 0 ? run_call(run, s, a) : run_special(run, s, a, &detail);
	if (r < 0 && s->ignore && r == -s->ignore) {
		if (s->result >= 0)
			run->slots[s->result] = NST_SKIPPED;
		return 0;
	}
	if (r >= 0 && s->result >= 0) {
		if (run->slots[s->result] >= 0) /* a name that is used again lets its earlier fd go */
			nst_raw1(__NR_close, run->slots[s->result]);
		if (r < 3) { /* never in the place of a standard stream that is closed */
			long high = nst_raw3(__NR_fcntl, r, F_DUPFD_CLOEXEC, 3);

			nst_raw1(__NR_close, r);
			r = high;
		}
		if (r >= 0)
			run->slots[s->result] = (int32_t)r;
	}
	if (r >= 0)
		return 0;
	run->failure = (struct nst_failure){.step = i, .error = (int32_t)-r, .detail = detail};
	return (int)r;
}
