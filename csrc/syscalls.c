/* The bare system calls for Python; syscalls.h describes them. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>

#include <errno.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/mqueue.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "syscalls.h"

/* Newer than the headers that we build with; the numbers are the same on every architecture. */
#ifndef SYS_statmount
#define SYS_statmount 457
#define SYS_listmount 458
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

/* The kernel's structs, under names of ours: <sched.h> and <linux/sched.h>, <sys/mount.h> and
 * <linux/mount.h> cannot both be included with every libc. */
struct nst_clone_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
	uint64_t set_tid, set_tid_size, cgroup;
};
_Static_assert(sizeof(struct nst_clone_args) == 88, "struct clone_args, CLONE_ARGS_SIZE_VER2");

struct nst_mount_attr {
	uint64_t attr_set, attr_clr, propagation, userns_fd;
};
_Static_assert(sizeof(struct nst_mount_attr) == 32, "struct mount_attr, MOUNT_ATTR_SIZE_VER0");

struct nst_mnt_id_req {
	uint32_t size, spare;
	uint64_t mnt_id, param, mnt_ns_id;
};
_Static_assert(sizeof(struct nst_mnt_id_req) == 32, "struct mnt_id_req, MNT_ID_REQ_SIZE_VER1");
_Static_assert(sizeof(struct nst_statmount) == 512, "struct statmount");

static long result(long value)
{
	return value < 0 ? -errno : value;
}

/* Where libc keeps the caller's thread id, which the kernel knows as the word to clear at exit.
 * fork(3) has the kernel write the child's there, and so must we: libc's locks compare it.
 * NULL where it cannot be known (no CONFIG_CHECKPOINT_RESTORE) or is another word (musl). */
static int *tid_address(void)
{
	int *address = NULL;

#ifdef __GLIBC__
	if (prctl(PR_GET_TID_ADDRESS, &address, 0, 0, 0) < 0)
		return NULL;
#endif
	return address;
}

/* Fork by the given call. The caller (cffi) has let go of the interpreter lock: were it another
 * thread's at the moment of the clone, the child could never take it. So hold it, and run the
 * hooks of Python around the call, as os.fork does. */
static int fork_by(long nr, long a, long b, long c, long d)
{
	PyGILState_STATE state = PyGILState_Ensure();

	PyOS_BeforeFork();
	long pid = result(syscall(nr, a, b, c, d, 0L));
	if (pid == 0)
		PyOS_AfterFork_Child();
	else
		PyOS_AfterFork_Parent();
	PyGILState_Release(state);
	return (int)pid;
}

int nst_clone3(uint64_t flags, int exit_signal, const int32_t *set_tid, size_t set_tid_size, int cgroup, int *ret_pidfd)
{
	int pidfd = -1;
	int *tid = tid_address();
	struct nst_clone_args args = {
		.flags = flags | (tid ? CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID : 0),
		.pidfd = (uintptr_t)&pidfd,
		.child_tid = (uintptr_t)tid,
		.exit_signal = (uint64_t)exit_signal,
		.set_tid = (uintptr_t)set_tid,
		.set_tid_size = set_tid_size,
	};

	/* Left zero unless wanted: a kernel before Linux 5.7 takes our longer struct only so. */
	if (flags & CLONE_INTO_CGROUP)
		args.cgroup = (uint64_t)cgroup;
	int pid = fork_by(SYS_clone3, (long)&args, sizeof(args), 0, 0);
	if (pid > 0)
		*ret_pidfd = pidfd;
	return pid;
}

int nst_clone(unsigned long flags, int *ret_pidfd)
{
	int pidfd = -1;
	int *tid = tid_address();

	if (tid)
		flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
	/* x86_64: flags, stack, parent_tid (where CLONE_PIDFD writes), child_tid, tls. */
	int pid = fork_by(SYS_clone, (long)flags, 0, (long)&pidfd, (long)tid);
	if (pid > 0)
		*ret_pidfd = pidfd;
	return pid;
}

int nst_single_threaded(void)
{
	/* unshare(2): CLONE_THREAD "may be specified if the caller is single threaded; it has no
	 * effect", and is EINVAL otherwise. Any other errno is an outer filter's (seccomp), which
	 * says nothing of threads; such a filter refuses the clone as well. */
	return !(unshare(CLONE_THREAD) < 0 && errno == EINVAL);
}

int nst_unshare(unsigned int flags)
{
	return (int)result(unshare((int)flags));
}

int nst_setns(int fd, int nstype)
{
	return (int)result(setns(fd, nstype));
}

int nst_pidfd_open(int pid, unsigned int flags)
{
	return (int)result(syscall(SYS_pidfd_open, pid, flags));
}

int nst_pidfd_getfd(int pidfd, int fd, unsigned int flags)
{
	return (int)result(syscall(SYS_pidfd_getfd, pidfd, fd, flags));
}

int nst_pidfd_send_signal(int pidfd, int sig, unsigned int flags)
{
	return (int)result(syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, flags));
}

static int64_t microseconds(struct timeval time)
{
	return (int64_t)time.tv_sec * 1000000 + time.tv_usec;
}

int nst_waitid(int idtype, unsigned int id, int options, struct nst_waited *ret_waited)
{
	siginfo_t info = {0};
	struct rusage usage = {0};

	/* The raw call, because libc's has no rusage. */
	if (syscall(SYS_waitid, idtype, id, &info, options, &usage) < 0)
		return -errno;
	*ret_waited = (struct nst_waited){
		.pid = info.si_pid,
		.uid = info.si_uid,
		.code = info.si_code,
		.status = info.si_status,
		.utime = microseconds(usage.ru_utime),
		.stime = microseconds(usage.ru_stime),
		.maxrss = usage.ru_maxrss,
	};
	return 0;
}

long nst_ptrace(long request, int pid, unsigned long addr, unsigned long data)
{
	return result(syscall(SYS_ptrace, request, pid, addr, data));
}

int nst_landlock_abi(void)
{
	return (int)result(syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* LANDLOCK_CREATE_RULESET_VERSION */));
}

int nst_mount(const char *source, const char *target, const char *fstype, unsigned long flags, const char *data)
{
	return (int)result(mount(source, target, fstype, flags, data));
}

int nst_umount2(const char *target, int flags)
{
	return (int)result(umount2(target, flags));
}

int nst_pivot_root(const char *new_root, const char *put_old)
{
	return (int)result(syscall(SYS_pivot_root, new_root, put_old));
}

int nst_chroot(const char *path)
{
	return (int)result(chroot(path));
}

int nst_open_tree(int dirfd, const char *path, unsigned int flags)
{
	return (int)result(syscall(SYS_open_tree, dirfd, path, flags));
}

int nst_move_mount(int from_dirfd, const char *from_path, int to_dirfd, const char *to_path, unsigned int flags)
{
	return (int)result(syscall(SYS_move_mount, from_dirfd, from_path, to_dirfd, to_path, flags));
}

int nst_mount_setattr(int dirfd, const char *path, unsigned int flags, uint64_t attr_set, uint64_t attr_clr,
		      uint64_t propagation, uint64_t userns_fd)
{
	struct nst_mount_attr attr = {
		.attr_set = attr_set,
		.attr_clr = attr_clr,
		.propagation = propagation,
		.userns_fd = userns_fd,
	};

	return (int)result(syscall(SYS_mount_setattr, dirfd, path, flags, &attr, sizeof(attr)));
}

int nst_fsopen(const char *fsname, unsigned int flags)
{
	return (int)result(syscall(SYS_fsopen, fsname, flags));
}

int nst_fspick(int dirfd, const char *path, unsigned int flags)
{
	return (int)result(syscall(SYS_fspick, dirfd, path, flags));
}

int nst_fsconfig(int fd, unsigned int cmd, const char *key, const void *value, int aux)
{
	return (int)result(syscall(SYS_fsconfig, fd, cmd, key, value, aux));
}

int nst_fsmount(int fd, unsigned int flags, unsigned int attr_flags)
{
	return (int)result(syscall(SYS_fsmount, fd, flags, attr_flags));
}

int nst_openat2(int dirfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
	struct open_how how = {.flags = flags, .mode = mode, .resolve = resolve};

	return (int)result(syscall(SYS_openat2, dirfd, path, &how, sizeof(how)));
}

long nst_fstatfs_type(int fd)
{
	struct statfs status;
	if (fstatfs(fd, &status) < 0)
		return -errno;
	return (uint32_t)status.f_type;
}

int nst_close_range(unsigned int first, unsigned int last, unsigned int flags)
{
	return (int)result(syscall(SYS_close_range, first, last, flags));
}

/* A request for statmount or listmount: the first published size, unless the field that came
 * second is used, so that the first kernels that have the call understand it. */
static struct nst_mnt_id_req mount_request(uint64_t mnt_id, uint64_t mnt_ns_id, uint64_t param)
{
	return (struct nst_mnt_id_req){
		.size = mnt_ns_id ? sizeof(struct nst_mnt_id_req) : offsetof(struct nst_mnt_id_req, mnt_ns_id),
		.mnt_id = mnt_id,
		.param = param,
		.mnt_ns_id = mnt_ns_id,
	};
}

int nst_statmount(uint64_t mnt_id, uint64_t mnt_ns_id, uint64_t mask, void *buf, size_t size)
{
	struct nst_mnt_id_req request = mount_request(mnt_id, mnt_ns_id, mask);

	return (int)result(syscall(SYS_statmount, &request, buf, size, 0));
}

long nst_listmount(uint64_t mnt_id, uint64_t mnt_ns_id, uint64_t last_mnt_id, uint64_t *ret_ids, size_t n,
		   unsigned int flags)
{
	struct nst_mnt_id_req request = mount_request(mnt_id, mnt_ns_id, last_mnt_id);

	return result(syscall(SYS_listmount, &request, ret_ids, n, flags));
}

int nst_sethostname(const char *name, size_t len)
{
	return (int)result(sethostname(name, len));
}

int nst_setdomainname(const char *name, size_t len)
{
	return (int)result(setdomainname(name, len));
}

long nst_personality(unsigned int persona)
{
	/* libc's returns an int, in which a persona with the top bit is negative. */
	return result(syscall(SYS_personality, persona));
}

int nst_setresuid(uint32_t ruid, uint32_t euid, uint32_t suid)
{
	return (int)result(syscall(SYS_setresuid, ruid, euid, suid));
}

int nst_setresgid(uint32_t rgid, uint32_t egid, uint32_t sgid)
{
	return (int)result(syscall(SYS_setresgid, rgid, egid, sgid));
}

/* Both return the id that was, whether or not they have changed it; that of -1 is never taken. */
static int set_fs_id(long call, uint32_t id)
{
	syscall(call, id);
	return (uint32_t)syscall(call, UINT32_MAX) == id ? 0 : -EPERM;
}

int nst_setfsuid(uint32_t fsuid)
{
	return set_fs_id(SYS_setfsuid, fsuid);
}

int nst_setfsgid(uint32_t fsgid)
{
	return set_fs_id(SYS_setfsgid, fsgid);
}

int nst_setgroups(size_t n, const uint32_t *groups)
{
	return (int)result(syscall(SYS_setgroups, n, groups));
}

int nst_capget(int pid, uint64_t *ret_effective, uint64_t *ret_permitted, uint64_t *ret_inheritable)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = pid};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};

	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	*ret_effective = data[0].effective | (uint64_t)data[1].effective << 32;
	*ret_permitted = data[0].permitted | (uint64_t)data[1].permitted << 32;
	*ret_inheritable = data[0].inheritable | (uint64_t)data[1].inheritable << 32;
	return 0;
}

int nst_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {
		{(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
		{(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
	};

	return (int)result(syscall(SYS_capset, &header, data));
}

long nst_prctl(int option, unsigned long arg2, unsigned long arg3, unsigned long arg4, unsigned long arg5)
{
	return result(prctl(option, arg2, arg3, arg4, arg5));
}

int nst_kcmp(int pid1, int pid2, int type, unsigned long idx1, unsigned long idx2)
{
	return (int)result(syscall(SYS_kcmp, pid1, pid2, type, idx1, idx2));
}

long nst_keyctl_join_session_keyring(const char *name)
{
	return result(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name));
}

int nst_shmget(int key, size_t size, int flags)
{
	return (int)result(syscall(SYS_shmget, key, size, flags));
}

int nst_semget(int key, int n, int flags)
{
	return (int)result(syscall(SYS_semget, key, n, flags));
}

int nst_msgget(int key, int flags)
{
	return (int)result(syscall(SYS_msgget, key, flags));
}

int nst_shmctl(int id, int cmd)
{
	return (int)result(syscall(SYS_shmctl, id, cmd, NULL));
}

int nst_semctl(int id, int number, int cmd)
{
	return (int)result(syscall(SYS_semctl, id, number, cmd, 0L));
}

int nst_msgctl(int id, int cmd)
{
	return (int)result(syscall(SYS_msgctl, id, cmd, NULL));
}

int nst_mq_unlink(const char *name)
{
	/* The kernel takes the name without its slash, which libc demands and removes. */
	return name[0] == '/' ? (int)result(syscall(SYS_mq_unlink, name + 1)) : -EINVAL;
}

int nst_mq_getattr(int fd, struct nst_mq_attr *ret_attr)
{
	struct mq_attr attr = {0};

	if (syscall(SYS_mq_getsetattr, fd, NULL, &attr) < 0)
		return -errno;
	*ret_attr = (struct nst_mq_attr){attr.mq_flags, attr.mq_maxmsg, attr.mq_msgsize, attr.mq_curmsgs};
	return 0;
}

int nst_seccomp_set_mode_filter(const void *program, size_t n, unsigned int flags)
{
	struct sock_fprog filter = {.len = (unsigned short)n, .filter = (struct sock_filter *)program};

	if (n > BPF_MAXINSNS)
		return -EINVAL; /* sock_fprog.len has 16 bits: more would be cut off silently */
	return (int)result(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter));
}

int nst_bpf_socket_filter(const void *program, size_t n)
{
	static const char license[] = "";
	union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
			       .insn_cnt = (uint32_t)n,
			       .insns = (uint64_t)(uintptr_t)program,
			       .license = (uint64_t)(uintptr_t)license};

	return (int)result(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr));
}

long nst_ioctl(int fd, unsigned long request, unsigned long arg)
{
	return result(ioctl(fd, request, arg));
}

int nst_ioctl_get_u32(int fd, unsigned long request, uint32_t *ret_value)
{
	uint32_t value = 0;

	if (ioctl(fd, request, &value) < 0)
		return -errno;
	*ret_value = value;
	return 0;
}

int nst_ioctl_get_u64(int fd, unsigned long request, uint64_t *ret_value)
{
	uint64_t value = 0;

	if (ioctl(fd, request, &value) < 0)
		return -errno;
	*ret_value = value;
	return 0;
}
