/* The bare system calls for Python: one function a call, a value >= 0 or -errno.
 *
 * Ordinary libc code, called from a running process; what runs between clone and exec is plan.c.
 * Thread-safe: nothing is kept between calls. Pointers are borrowed for the call; fds that are
 * returned are the caller's and close-on-exec where the call has a flag for it (the caller passes
 * the flag). Out parameters are written on success only.
 *
 * The calls that glibc would spread over all threads (setresuid, setresgid, setgroups) are made
 * raw here, as setfsuid and setfsgid, of which libc keeps the errors: they hold for the calling thread, as the kernel has it. nptl(7).
 */
#ifndef NSTOOL_SYSCALLS_H
#define NSTOOL_SYSCALLS_H

#include <stddef.h>
#include <stdint.h>

struct nst_waited {
	int32_t pid; /* 0: WNOHANG, and none has changed state */
	uint32_t uid;
	int32_t code;	/* CLD_* */
	int32_t status; /* exit status or signal */
	int64_t utime;	/* microseconds, of the child and the children it waited for */
	int64_t stime;	/* microseconds */
	int64_t maxrss; /* KiB */
};

/* struct statmount of Linux 6.15, here because older headers lack it. Behind it come strings, ended
 * by NUL; fs_type, mnt_root, mnt_point, mnt_opts, sb_source are where they begin there. statmount(2). */
struct nst_statmount {
	uint32_t size; /* of all, bytes */
	uint32_t mnt_opts;
	uint64_t mask; /* STATMOUNT_*: which fields are valid */
	uint32_t sb_dev_major;
	uint32_t sb_dev_minor;
	uint64_t sb_magic;
	uint32_t sb_flags;
	uint32_t fs_type;
	uint64_t mnt_id;
	uint64_t mnt_parent_id;
	uint32_t mnt_id_old; /* the id of /proc/PID/mountinfo */
	uint32_t mnt_parent_id_old;
	uint64_t mnt_attr;
	uint64_t mnt_propagation;
	uint64_t mnt_peer_group;
	uint64_t mnt_master;
	uint64_t propagate_from;
	uint32_t mnt_root;
	uint32_t mnt_point;
	uint64_t mnt_ns_id;
	uint32_t fs_subtype;
	uint32_t sb_source;
	uint32_t opt_num;
	uint32_t opt_array;
	uint32_t opt_sec_num;
	uint32_t opt_sec_array;
	uint64_t supported_mask;
	uint32_t mnt_uidmap_num;
	uint32_t mnt_uidmap;
	uint32_t mnt_gidmap_num;
	uint32_t mnt_gidmap;
	uint64_t spare[43];
};

/* struct mq_attr, but for its spare. mq_getattr(3). */
struct nst_mq_attr {
	int64_t flags; /* O_NONBLOCK or 0 */
	int64_t maxmsg;
	int64_t msgsize; /* bytes */
	int64_t curmsgs;
};

/* Fork with namespaces: 0 in the child, its pid in the parent. Runs Python's fork hooks, so that
 * the child is a Python as after os.fork; the caller has one thread. set_tid: innermost first.
 * cgroup: for CLONE_INTO_CGROUP. ret_pidfd: for CLONE_PIDFD, the parent's. clone(2). */
int nst_clone3(uint64_t flags, int exit_signal, const int32_t *set_tid, size_t set_tid_size, int cgroup,
	       int *ret_pidfd);

/* The same by the older call; flags hold the exit signal in the low byte. clone(2). */
int nst_clone(unsigned long flags, int *ret_pidfd);

/* 1 if the caller's process has one thread, 0 if it has more. */
int nst_single_threaded(void);

/* Processes and namespaces. */
int nst_unshare(unsigned int flags);				   /* unshare(2) */
int nst_setns(int fd, int nstype);				   /* setns(2) */
int nst_pidfd_open(int pid, unsigned int flags);		   /* pidfd_open(2), returns an fd */
int nst_pidfd_getfd(int pidfd, int fd, unsigned int flags);	   /* pidfd_getfd(2), returns an fd */
int nst_pidfd_send_signal(int pidfd, int sig, unsigned int flags); /* pidfd_send_signal(2) */
int nst_waitid(int idtype, unsigned int id, int options, struct nst_waited *ret_waited); /* waitid(2) */
long nst_ptrace(long request, int pid, unsigned long addr, unsigned long data); /* ptrace(2), no PTRACE_PEEK… */
int nst_landlock_abi(void); /* landlock_create_ruleset(2), LANDLOCK_CREATE_RULESET_VERSION */

/* Mounts and files. */
int nst_mount(const char *source, const char *target, const char *fstype, unsigned long flags, const char *data);
int nst_umount2(const char *target, int flags);
int nst_pivot_root(const char *new_root, const char *put_old);
int nst_chroot(const char *path);
int nst_open_tree(int dirfd, const char *path, unsigned int flags); /* returns an fd */
int nst_move_mount(int from_dirfd, const char *from_path, int to_dirfd, const char *to_path, unsigned int flags);
int nst_mount_setattr(int dirfd, const char *path, unsigned int flags, uint64_t attr_set, uint64_t attr_clr,
		      uint64_t propagation, uint64_t userns_fd);
int nst_fsopen(const char *fsname, unsigned int flags);		 /* returns an fd */
int nst_fspick(int dirfd, const char *path, unsigned int flags); /* returns an fd */
int nst_fsconfig(int fd, unsigned int cmd, const char *key, const void *value, int aux);
int nst_fsmount(int fd, unsigned int flags, unsigned int attr_flags);			       /* returns an fd */
int nst_openat2(int dirfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve); /* returns an fd */
long nst_fstatfs_type(int fd); /* returns f_type, *_MAGIC. fstatfs(2) */
int nst_close_range(unsigned int first, unsigned int last, unsigned int flags);

/* What is known of a mount: the fixed part and its strings into buf. -EOVERFLOW: size is too
 * small. mnt_ns_id 0: the caller's. statmount(2), Linux 6.8. */
int nst_statmount(uint64_t mnt_id, uint64_t mnt_ns_id, uint64_t mask, void *buf, size_t size);

/* Ids of the mounts below mnt_id, after last_mnt_id; returns how many. listmount(2), Linux 6.8. */
long nst_listmount(uint64_t mnt_id, uint64_t mnt_ns_id, uint64_t last_mnt_id, uint64_t *ret_ids, size_t n,
		   unsigned int flags);

/* The caller's own attributes; but for names of namespaces, of the calling thread. */
int nst_sethostname(const char *name, size_t len);
int nst_setdomainname(const char *name, size_t len);
long nst_personality(unsigned int persona); /* returns the previous one */
int nst_setresuid(uint32_t ruid, uint32_t euid, uint32_t suid);
int nst_setresgid(uint32_t rgid, uint32_t egid, uint32_t sgid);
int nst_setfsuid(uint32_t fsuid);
int nst_setfsgid(uint32_t fsgid);
int nst_setgroups(size_t n, const uint32_t *groups);
int nst_capget(int pid, uint64_t *ret_effective, uint64_t *ret_permitted, uint64_t *ret_inheritable);
int nst_capset(uint64_t effective, uint64_t permitted, uint64_t inheritable);
long nst_prctl(int option, unsigned long arg2, unsigned long arg3, unsigned long arg4, unsigned long arg5);
int nst_kcmp(int pid1, int pid2, int type, unsigned long idx1,
	     unsigned long idx2);			/* 0 when both threads share it, else 1, 2 or 3 */
long nst_keyctl_join_session_keyring(const char *name); /* returns the keyring's serial number */

/* Objects of the caller's ipc namespace: make or find (an id), control, unlink. The commands have no
 * buffer: IPC_RMID. name begins with a slash. */
int nst_shmget(int key, size_t size, int flags);	  /* shmget(2) */
int nst_semget(int key, int n, int flags);		  /* semget(2) */
int nst_msgget(int key, int flags);			  /* msgget(2) */
int nst_shmctl(int id, int cmd);			  /* shmctl(2) */
int nst_semctl(int id, int number, int cmd);		  /* semctl(2) */
int nst_msgctl(int id, int cmd);			  /* msgctl(2) */
int nst_mq_unlink(const char *name);			  /* mq_unlink(3) */
int nst_mq_getattr(int fd, struct nst_mq_attr *ret_attr); /* mq_getattr(3) */

/* Install a filter: program is n instructions of 8 bytes (struct sock_filter). Returns 0, an fd
 * for SECCOMP_FILTER_FLAG_NEW_LISTENER, or the id of a thread that TSYNC could not reach. */
int nst_seccomp_set_mode_filter(const void *program, size_t n, unsigned int flags);

/* Load a filter for packets: program is n instructions of 8 bytes (struct bpf_insn). Returns an fd. bpf(2) */
int nst_bpf_socket_filter(const void *program, size_t n);

/* ioctl(2): with a number; and one that writes a number of 4 or 8 bytes. */
long nst_ioctl(int fd, unsigned long request, unsigned long arg);
int nst_ioctl_get_u32(int fd, unsigned long request, uint32_t *ret_value);
int nst_ioctl_get_u64(int fd, unsigned long request, uint64_t *ret_value);

#endif
