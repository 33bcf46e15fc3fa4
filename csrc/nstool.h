/* The map of the engine: one section a file, one comment a function.
 *
 * raw.h      system calls without libc
 * plan.c     check and run an encoded plan
 * launch.c   the launcher's side: clone3, hand-over, report
 * init.c     PID 1 inside: runs the init and payload steps, reaps, forwards, reports
 * answer.c   what init answers for the kernel: sysinfo(2)
 * supervise.c what stays of `nstool run` once Python has launched
 * serve/     a template: makes a sandbox in itself for each connection
 * nsexec.c   main() of the stand-alone launcher, and the image that PID 1 runs
 *
 * All of it uses raw.h only, so it is async-signal-safe by construction (signal-safety(7)):
 * no errno, no malloc, no stdio, no locks. syscalls.c, the shim for Python, is apart.
 */
#ifndef NSTOOL_H
#define NSTOOL_H

#include <stddef.h>
#include <stdint.h>

enum {
	NST_MAGIC = 0x3150534e, /* "NSP1" */
	NST_VERSION = 1,
	NST_MAX_SLOTS = 256,
	NST_MAX_STEPS = 4096,
	NST_MAX_PLAN = 1 << 20, /* bytes */
	NST_ARGS = 7,
	NST_STACK = 64 << 10, /* bytes that the child of a launch gets */
	NST_NONE = -1,	      /* slot: nothing */
	NST_SKIPPED = -2,     /* slot: its step failed with an errno that the plan ignores */
};

enum nst_who { NST_LAUNCHER, NST_CHILD, NST_INIT, NST_PAYLOAD, NST_UNDO, NST_WHO_COUNT };

enum nst_flags {
	NST_WITH_INIT = 1,	 /* nsexec stays as init or monitor; else it becomes the payload */
	NST_DIE_WITH_PARENT = 2, /* the sandbox ends with the launcher */
};

/* A plan: this header, n_steps records, a pool of bytes. All little-endian, offsets from the start. */
struct nst_plan {
	uint32_t magic;
	uint16_t version;
	uint16_t header_size;
	uint32_t size; /* of the whole, bytes */
	uint32_t n_steps;
	uint32_t steps_offset;
	uint32_t pool_offset;
	uint32_t pool_size;
	uint32_t flags; /* enum nst_flags */
	uint32_t n_slots;
	uint32_t n_given; /* the first n_given slots are brought by the caller */
	uint32_t reserved[6];
};

/* One step. Arguments by kind (plan.c has the table): an integer as it is; an fd as
 * slot | 1 << 32 or as a number in the low half; bytes, strings and lists of strings as
 * length << 32 | offset in the pool; NULL as all ones. */
struct nst_step {
	uint16_t call;
	uint8_t who; /* enum nst_who */
	uint8_t reserved;
	int16_t result; /* slot that receives the returned fd, or NST_NONE */
	int16_t ignore; /* errno that is no failure, or 0 */
	uint64_t arg[NST_ARGS];
};

/* Which step failed, with which errno (positive). detail: the call inside a step of several
 * calls (open, write, close: 0, 1, 2), or the exit status of a program. step -1: none. */
struct nst_failure {
	int32_t step;
	int32_t error;
	int32_t detail;
};

/* What goes over the control socket (SOCK_SEQPACKET), either way. */
enum nst_type {
	NST_MSG_RELEASE = 1,  /* launcher: the wait step, or the attest step, is over */
	NST_MSG_SIGNAL = 2,   /* launcher: forward signal `detail` to the payload */
	NST_MSG_FAILED = 16,  /* init: step, error, detail */
	NST_MSG_STARTED = 17, /* init: the payload runs; pid as init sees it */
	NST_MSG_EXITED = 18,  /* init: the payload ended; status as wait(2) gives it, usage below */
	NST_MSG_FD = 19,      /* init: an fd comes with this message; detail is its slot */
	NST_MSG_READY = 20,   /* payload: all is done but the exec, at the attest step */
	/* Between a service and its template, serve/: */
	/* Service: the orders, the board, the door, /dev/null, both ends of the template's own log. */
	NST_MSG_CONFIGURE = 32,
	NST_MSG_PLACE = 33,  /* service: where place `detail` writes its log, where that is read, and its fds */
	NST_MSG_LISTEN = 34, /* service: listener `detail`; pid: its socket type */
	NST_MSG_ACCEPT = 35, /* service: detail 1: take connections; 0: take no more */
	/* Service: signal `status` for place `detail`, where its process has this pid, 0: any; -1: for all, and who waits
	 * is refused. */
	NST_MSG_END = 36,
	NST_MSG_FETCH = 38, /* service: send listeners and board */
	NST_MSG_TRY = 39,   /* service: make a sandbox without a connection, to be attested */
	/* Template, to its zygote: place `detail`; its slots, then its network namespace and where it is attested, or
	 * /dev/null where `status` (enum nst_copied) says that there is none. */
	NST_MSG_COPY = 40,
	/* Template: a connection, as number `detail`; service: `status` is the user who made that; pid -1: not known. */
	NST_MSG_WHOSE = 41,
	/* Service: send where the logs of places from `detail` on are read, as many as go with one message. */
	NST_MSG_LOGS = 42,
	NST_MSG_DONE = 48, /* template: what was asked for is done; detail: which place, or how many */
	/* Template: listener `detail` comes along; -1: the board, -2: its own log's reading end. To NST_MSG_LOGS: those of
	 * places from `detail` on; none, where there are no more. */
	NST_MSG_HELD = 49,
};

/* What goes with NST_MSG_COPY beside the slots. */
enum nst_copied { NST_COPY_CONTROL = 1, NST_COPY_NET = 2 };

struct nst_message {
	uint32_t type; /* enum nst_type */
	int32_t step;
	int32_t error;
	int32_t detail;
	int32_t pid;
	int32_t status;
	int64_t utime_us;
	int64_t stime_us;
	int64_t maxrss_kb;
	int64_t reserved[2];
};

/* One launch as the launcher sees it. The caller sets plan, size, stack, image and the given slots, the
 * rest by nst_launch_begin(). It can serve for many launches, one after the other. */
struct nst_launch {
	const uint8_t *plan; /* checked, 8-byte aligned, stays the caller's */
	uint64_t size;
	uint8_t *stack;	 /* NST_STACK bytes for the child, the caller's: no mapping is made and unmade each time */
	int32_t image;	 /* fd of nsexec's sealed image, stays the caller's */
	int32_t next;	 /* index of the next step */
	int32_t pid;	 /* of the new process, 0 before clone3 */
	int32_t pidfd;	 /* -1 before clone3; the caller's to close */
	int32_t control; /* -1 before clone3; the caller's to close */
	struct nst_failure failure;
	int32_t slots[NST_MAX_SLOTS];
};

/* ---- letter.c ---- */

enum { NST_LETTER_FDS = 16 }; /* that come with one message */

/* Send a message with n fds. wait: until there is room for it, 0: who does not read misses it. 0 or -errno. */
long nst_send_fds(int fd, struct nst_message *m, const int32_t *fds, int n, int wait);

/* Receive a message, with its fds, which close at exec, in ret_fds. wait: until one comes. Its bytes, 0 at the end, or
 * -errno. */
long nst_receive_fds(int fd, struct nst_message *ret, int32_t *ret_fds, int *ret_n, int wait);

/* ---- plan.c ---- */

/* CLOCK_MONOTONIC in nanoseconds. clock_gettime(2) */
int64_t nst_now(void);

/* Why a plan is refused. */
enum nst_reason {
	NST_BAD_SIZE = 1, /* shorter than a header, longer than NST_MAX_PLAN, or not aligned */
	NST_BAD_MAGIC,
	NST_BAD_VERSION,
	NST_BAD_HEADER, /* sizes, offsets or counts that do not fit together */
	NST_BAD_CALL,
	NST_BAD_WHO,	  /* an unknown role, or one that may not make this call */
	NST_BAD_RESULT,	  /* a slot that is out of range or given, or a call that returns no fd */
	NST_BAD_ARGUMENT, /* a slot out of range, or a value that this call must not have */
	NST_BAD_STRING,	  /* outside the pool, or not ended by its only NUL */
	NST_BAD_ORDER,	  /* of the roles */
	NST_BAD_RESERVED, /* a field that must be 0 */
};

/* Check the whole of a plan: bounds, codes, kinds, who does what, order of roles. 0, or -EINVAL with
 * ret_failure->step = the bad step (-1: the header) and ->detail = enum nst_reason.
 * By its form a checked plan cannot harm the memory of who runs it. It stays a program, though: it may
 * open, write and mount what its runner may, so whose plans one runs is a matter of trust. */
int nst_plan_check(const uint8_t *plan, uint64_t size, struct nst_failure *ret_failure);

/* Step i of a checked plan, and whether it makes the call of this name. */
const struct nst_step *nst_step_at(const uint8_t *plan, int i);
int nst_call_is(const struct nst_step *step, const char *name);

/* Name and kinds of call number i of the table, or NULL past its end. */
const char *nst_call_name(unsigned int i);
const char *nst_call_kinds(unsigned int i);

/* What a template and one of its sandboxes have in common until the command runs: memory of both. Times in nanoseconds
 * of CLOCK_MONOTONIC. */
struct nst_share {
	int32_t go;		    /* 1: the wait step is over */
	int32_t status;		    /* of the command, as wait(2) gives it; -1: not told */
	int32_t attest;		    /* 1: it waits to be attested */
	int64_t first;		    /* when the first step began */
	int64_t executed;	    /* when the command was executed, by the clock of first */
	int64_t ahead;		    /* nanoseconds that its clock is ahead of that, since it entered a time namespace */
	struct nst_failure failure; /* step -1: none */
	int32_t pid;		    /* of the command as its init sees it */
};

/* Everything a process needs to run its steps. */
struct nst_run {
	const uint8_t *plan;
	int32_t *slots;
	enum nst_who who;
	int control;		 /* socket, for wait, release, send_fd, attest, receive; -1 is none */
	struct nst_share *share; /* takes the place of that socket in a sandbox of serve/; else NULL */
	int child_pid;		 /* for write_proc, spawn and setrlimit, launcher only */
	const int32_t *keep;	 /* what close_range leaves open, the engine's own; they close at exec. -1 is none */
	int n_keep;
	int32_t *gate; /* for futex_wake and futex_wait, init and its payload only: a word that both have */
	void *scratch; /* room for argument vectors, execve and spawn only */
	uint64_t scratch_size;
	struct nst_failure failure; /* written on failure only */
};

/* Run step i. 0, or -errno with run->failure set. clone3, exec_init and external are not done here. */
int nst_step_run(struct nst_run *run, int i);

/* Set every signal's disposition to the default. sigaction(2) */
void nst_default_signals(void);

/* ---- launch.c ---- */

/* Make ready: slots that are not given are empty, nothing has been done. */
void nst_launch_begin(struct nst_launch *l);

/* Run the launcher's steps from l->next. 0: all done, the new process is on its way (read its
 * report from l->control). 1: step l->next is external, the caller does it and adds one. Negative: -errno, with
 * l->failure set; a process that exists already is left to the caller (nst_launch_kill). */
int nst_launch_run(struct nst_launch *l);

/* Run the undo steps, last first, except external ones and those of directories that the launch did not
 * get to make. Returns the number that failed, with the failure of one of them in l->failure. */
int nst_launch_undo(struct nst_launch *l);

/* Close the slots that the launcher's steps opened; given ones stay the caller's. */
void nst_launch_close(struct nst_launch *l);

/* Kill and reap the new process, if there is one. */
void nst_launch_kill(struct nst_launch *l);

/* Make a user namespace with these maps (text as the kernel takes it) and no process in it.
 * Returns an fd of it, the caller's to close, or -errno. user_namespaces(7). */
int nst_userns(const char *uid_map, const char *gid_map);

/* ---- init.c ---- */

/* nsexec as PID 1 or monitor: fd holds the envelope that launch.c wrote. Never returns. */
_Noreturn void nst_init(int fd);

/* Be PID 1 of a sandbox that serve/ has cloned: a copy of that process, which has its memory. Never returns. */
struct nst_copy {
	const uint8_t *plan;
	const int32_t *slots;
	void *scratch;
	uint64_t scratch_size;
	int control; /* -1: none */
	struct nst_share *share;
};
_Noreturn void nst_init_copy(const struct nst_copy *copy);

/* Run a plan's init and payload steps in this process, which borrows a template's memory and has no init. Never returns. */
_Noreturn void nst_without_init(const struct nst_copy *copy);

/* ---- copy.c ---- */

/* Be the zygote of a service: make a copy of this process, a child of its parent, for each place that is told by the
 * socket `template`. plans: fd of the memory that is shared with the template. Returns 0 in a copy, once it is the
 * sandbox: all steps of its plan but the exec are done, and that memory is not mapped any more; 1 when the template has
 * gone; -errno. */
int nst_make_copies(int template, int plans, int n_places, uint64_t plan_size);

/* ---- interpreter.c ---- */

/* The same of a process with CPython in it, where nothing but a copy goes on in Python. */
int nst_zygote(int template, int plans, int n_places, uint64_t plan_size);

/* ---- proxy.c ---- */

/* What a PROXY header says. family: AF_INET or AF_INET6, 0: nothing, the balancer asks for itself. address, port: as in
 * the header. name: offset from `begin` of the common name of a certificate that was verified, name_size 0: none. */
struct nst_proxy {
	const uint8_t *begin;
	uint8_t family;
	uint8_t address[16];
	uint8_t port[2];
	uint32_t name, name_size;
};

/* Read the header at the begin of a connection. Its length; 0: more has to come; -1: it is none, or too long. */
int nst_proxy_header(const uint8_t *data, uint32_t size, struct nst_proxy *ret);

/* SipHash-2-4 of data, with a key of two halves. */
uint64_t nst_siphash(uint64_t key0, uint64_t key1, const uint8_t *data, uint64_t size);

/* ---- answer.c ---- */

/* Answer one call that a seccomp filter has sent to this listener: sysinfo(2) with so many bytes of memory and swap.
 * seccomp_unotify(2). */
void nst_answer_sysinfo(int listener, uint64_t memory, uint64_t swap);

/* ---- supervise.c ---- */

/* nsexec as what stays of a launcher in the foreground: fd holds the orders. Never returns. */
_Noreturn void nst_supervise(int fd);

/* The orders, followed by text_size bytes of NUL-terminated strings with a letter before each: in their
 * order l lock this directory, d remove this directory, f remove this file; p words of the command that
 * finishes in Python, e its environment; o file with the count of OOM kills, k its key, m what to say then; j the
 * journal, which takes how it ended, n the name, to say it under; t remove this directory if it is empty; c what to
 * write where the log is cut; s what to say of an end by SIGSYS. */
struct nst_orders {
	uint32_t magic;
	uint32_t text_size;
	int32_t pid; /* of init, or of the command when there is none */
	int32_t pidfd;
	int32_t control;
	int32_t terminal; /* master of the sandbox's terminal, or -1 */
	int32_t outer;	  /* the caller's terminal, for its size and settings */
	int32_t input;	  /* where the terminal's input comes from, or -1 */
	int32_t output;
	int32_t with_init;
	int32_t in_python; /* undoing needs more than removing files */
	int32_t log; /* where the command's output comes from that goes to a log file, or -1; output is that file */
	uint64_t signals;    /* mask of those that are forwarded, SIGWINCH and SIGCHLD too */
	uint64_t log_size;   /* bytes that the log file may have; what comes after is dropped */
	uint8_t termios[64]; /* the caller's settings, as TCGETS gives them */
};

/* ---- serve/ ---- */

/* Serve as the init of a template: take orders from `control`, and make a sandbox for each connection. Never returns. */
_Noreturn void nst_serve(int control);

enum {
	NST_PLACES = 1024, /* sandboxes of one template at once */
	NST_PLACE_FDS = 8, /* of each place: its cgroups, its network namespace */
	NST_LISTENERS = 64,
	NST_STAGES = 5,		 /* histograms: enum stage of serve.h */
	NST_BUCKETS = 128,	 /* of each: microseconds, four to a doubling */
	NST_ENDS = 1024,	 /* lives that are remembered */
	NST_CLIENT = 20,	 /* bytes of a client: address of 16, or user of 4; port; family */
	NST_HAS_UID = 4,	 /* which of them is 1 where the user is known */
	NST_NAMED = 255,	 /* family of who has a certificate: 16 bytes stand for its name */
	NST_BANDWIDTH = 1 << 22, /* KiB a second, at most */
	NST_PROXY_MOST = 4096,	 /* bytes of a PROXY header */
};

/* The orders, followed by the plan of a sandbox, the table of what varies, and what a refused client is told; offsets
 * from the start, times in milliseconds, 0: no limit. */
struct nst_service {
	uint32_t magic;
	uint32_t size;
	uint32_t plan, plan_size;
	uint32_t vary, n_vary;
	uint32_t busy, busy_size;
	uint32_t n_places;
	uint32_t n_fds;	   /* of each place: the given slots from 3 + n_passed on */
	uint32_t n_passed; /* 1: the connection is given as fd 3 too; of NST_LISTENER: the listeners, from fd 3 on */
	uint32_t
		streams; /* mask of the standard streams that are the connection; the others are /dev/null, 2 the log */
	uint32_t ready;	 /* sandboxes that wait for a connection, parked; of NST_LISTENER: that run */
	uint32_t queue;	 /* connections that wait for a sandbox */
	uint32_t queue_ms;
	uint32_t wall_ms;     /* longest life of a sandbox, from its connection on */
	uint32_t grace_ms;    /* from SIGTERM to SIGKILL */
	uint32_t client_most; /* sandboxes of one client at once */
	uint32_t client_rate; /* connections of one client in 1000 seconds */
	uint32_t client_burst;
	uint32_t prefix4, prefix6; /* bits of an address that are one client */
	uint32_t attest;	   /* 1: each sandbox waits to be attested */
	uint32_t shape;		   /* enum nst_shape */
	uint32_t life;		   /* enum nst_life */
	uint32_t port;		   /* that the command listens on, inside */
	uint32_t idle_ms;	   /* without a connection, or a datagram */
	uint32_t start_ms;	   /* for the command to listen */
	uint32_t most;		   /* connections of one life */
	uint32_t stop;		   /* signal that asks a command to end */
	uint32_t lease;		   /* 1: a place keeps its network namespace for the next sandbox, if that is clean */
	uint32_t zygote;	   /* offset of its arguments: strings, the last of them empty; environment likewise */
	uint32_t bandwidth;	   /* of what is relayed to and from a sandbox, KiB a second either way */
	uint32_t proxy;		   /* enum nst_proxied */
	uint32_t pinned; /* KiB that may outlive a sandbox in its memory cgroup; 0: there is none to look at */
	uint32_t reserved;
};

enum nst_proxied {
	NST_DIRECT,
	NST_PROXIED,	   /* each connection begins with a PROXY header, which says from where it is */
	NST_PROXIED_NAMES, /* and whose certificate it has, which is what tells clients apart */
};

enum nst_shape {
	NST_HANDED,   /* the connection is the command's */
	NST_PORT,     /* the command listens on a port inside; connections are relayed */
	NST_ZYGOTE,   /* handed to a copy of a process that the template has started */
	NST_LISTENER, /* the command accepts by itself: what is passed are the listeners */
};
enum nst_life {
	NST_LIFE_CONNECTION, /* of a sandbox: one connection */
	NST_LIFE_CLIENT,     /* all connections of one client, and idle_ms after the last */
	NST_LIFE_SHARED,     /* all connections of all */
};

/* One thing that differs from sandbox to sandbox: `width` bytes of the plan at `offset`. */
enum nst_format { NST_HEX = 1, NST_DECIMAL = 2, NST_BINARY = 3 /* 8 bytes */ };
enum nst_use {
	NST_USE_NOTHING,
	NST_USE_PORT,  /* the command listens on this port */
	NST_USE_OCTET, /* and at an address with this second, third, */
	NST_USE_OCTET_3,
	NST_USE_OCTET_4, /* and fourth part */
	NST_USES,
};
enum nst_source {
	NST_BY_PLACE = 0, /* place * count + its number of lives so far, modulo count */
	NST_BY_LIFE = 1,  /* the number of lives of all so far, modulo count */
	NST_RANDOM = 2,	  /* and more: each number is one draw */
	NST_SOURCES = 16,
};
struct nst_vary {
	uint32_t source;
	uint32_t format;
	uint32_t offset;
	uint32_t width;
	int64_t first, step; /* decimal, binary: first + step * what the source gives */
	uint64_t count;
	uint32_t use; /* enum nst_use: what the template knows by this number, too */
	uint32_t reserved;
};

/* Why a life has ended, or never began. */
enum nst_cause {
	NST_EXITED, /* by itself, status 0 */
	NST_STATUS, /* another status */
	NST_SIGNALLED,
	NST_NO_START, /* a step was refused */
	NST_OVERRAN,  /* wall_ms */
	NST_STOPPED,  /* it was told to */
	NST_BUSY,     /* refused: no place, the queue is full */
	NST_WAITED,   /* refused: too long in the queue */
	NST_MANY,     /* refused: too many of this client */
	NST_FAST,     /* refused: too often from this client */
	NST_IDLE,     /* ended: nobody was connected for idle_ms, or it has had its connections */
	NST_DEAF,     /* ended: it does not listen on its port */
	NST_UNTOLD,   /* refused: no PROXY header says whose it is, or none that is wanted */
	NST_CAUSES,
};

/* A place as others see it. */
struct nst_place_view {
	uint32_t state; /* 0 empty, 1 starting or parked, 2 serving, 3 ending */
	int32_t pid;	/* as the template sees it */
	uint64_t life;	/* number of the life in it */
	int64_t since;	/* CLOCK_REALTIME, nanoseconds: of its connection */
	uint8_t client[NST_CLIENT];
	uint32_t turn; /* lives that this place has had */
};

struct nst_end {
	uint64_t life;	    /* 0: an empty entry */
	int64_t begin, end; /* CLOCK_REALTIME, nanoseconds */
	uint32_t place, cause;
	int32_t status; /* as wait(2) gives it */
	uint32_t listener;
	uint8_t client[NST_CLIENT];
	uint32_t microseconds[NST_STAGES - 1]; /* of its stages */
	uint32_t reserved[2];
};

/* What others read at any time: one writer, the template. */
struct nst_board {
	uint32_t magic;
	uint32_t n_places;
	uint32_t accepting, queued, live, parked;
	uint64_t lives, accepted;
	uint64_t nets; /* network namespaces made to be leased */
	uint64_t causes[NST_CAUSES];
	uint64_t sums[NST_STAGES]; /* microseconds */
	uint64_t buckets[NST_STAGES][NST_BUCKETS];
	uint64_t n_ends; /* so far; the last is at (n_ends - 1) % NST_ENDS */
	struct nst_end ends[NST_ENDS];
	struct nst_place_view places[NST_PLACES];
};

/* What launch.c hands to init.c, before the plan in the same memfd. */
struct nst_envelope {
	uint32_t magic;
	uint32_t size; /* of the plan that follows */
	int32_t control;
	int32_t launcher; /* pidfd of the launcher, or -1 */
	int32_t slots[NST_MAX_SLOTS];
};

#endif
