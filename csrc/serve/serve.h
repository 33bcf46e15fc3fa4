/* A template in parts: each file of this directory is one, and they share one state. Names without nst_ are of this
 * directory. Raw system calls only. docs/adr/0017 */
#ifndef NSTOOL_SERVE_H
#define NSTOOL_SERVE_H

#include "../nstool.h"

#include <asm/poll.h>
#include <asm/signal.h>
#include <linux/errno.h>
#include <linux/eventpoll.h>
#include <linux/fcntl.h>
#include <linux/in6.h>
#include <linux/in.h>
#include <linux/mman.h>
#include <linux/sched.h>
#include <linux/signalfd.h>
#include <linux/time_types.h>
#include <linux/un.h>

#include "../raw.h"

enum {
	PEERS = 8,	      /* services that have the door open at once */
	WAITING = 4096,	      /* longest queue */
	LINK_AT = 4,	      /* where a link's number stands in an address of it */
	LINGERING = 64,	      /* refused connections that are told why */
	PAUSE_NS = 100000000, /* after what was refused, or has ended at once */
	CLIENTS = 4096,	      /* that are known at once; a power of two */
	AF_UNIX_ = 1,
	AF_INET_ = 2,
	AF_INET6_ = 10,
	SOCK_STREAM_ = 1,
	SOCK_DGRAM_ = 2,
	SOCK_SEQPACKET_ = 5,
	LINKS = 4096,	  /* relayed connections at once */
	CHUNK = 64 << 10, /* bytes that one way of a link holds, pipe(7) */
	ROUNDS = 16,	  /* of a link before others have their turn */
	LOST = 256,
	ASKING = 256,	     /* connections whose user the service is asked for, at once */
	HEADERS = 256,	     /* whose PROXY header has not come yet */
	NONBLOCKING = 04000, /* SOCK_NONBLOCK */
};

enum { TOLD = 7 };   /* files that tell how a network namespace was used */
enum { ASKED = -1 }; /* pid of a place whose process the zygote is to make */
enum state { EMPTY, PARKED, SERVING, ENDING, HELD };

enum stage { WAITED, FIRST, EXECUTED, BYTE, GONE };

/* What an fd is, in the upper half of what epoll gives back. */
enum kind { SIGNALS, DOOR, PEER, LISTENER, PLACE, LINGER, LINK, SESSION, ZYGOTE, HEADER };

struct client {
	uint8_t key[NST_CLIENT];
	uint32_t live;
	int64_t at;	/* when tokens were counted */
	int64_t tokens; /* of a thousandth each */
	int used;
};

/* A connection that was taken. */
struct taken {
	int fd;
	int listener;
	int64_t at;	/* CLOCK_MONOTONIC */
	int64_t wall;	/* CLOCK_REALTIME */
	int32_t client; /* index, or -1 */
	int32_t asked;	/* the number of the question whose it is */
	uint8_t from[NST_CLIENT];
};

/* One direction of a relayed connection: what was read and is not written yet is in the pipe. */
struct way {
	int pipe[2];
	int held;  /* bytes */
	int ended; /* nothing more comes; 2: and that was told */
};

/* What may be relayed one way, to or from a sandbox. */
struct bucket {
	int64_t bytes; /* at once */
	int64_t at;
};

/* A connection that is relayed to the port of a command. */
struct link {
	int place;	     /* -1: not in use */
	int inner;	     /* -1: not connected yet */
	int tries;	     /* -1: its first byte has come */
	int again;	     /* it had its turn and was not done */
	int waits;	     /* until its sandbox may have more again */
	int64_t next, until; /* of the tries */
	struct way up, down;
	struct taken taken;
};

struct place {
	enum state state;
	int pid;
	int control; /* -1: none */
	int has_fds;
	int log, log_end; /* where standard error goes; and is read, that nobody who writes there is alone */
	int stopped;	  /* it was told to end */
	int overran;
	int64_t deadline; /* of what comes next: SIGTERM, SIGKILL; 0: none */
	int64_t wall;	  /* when its life has been long enough, whatever else is; 0: never */
	int32_t fds[NST_PLACE_FDS];
	uint64_t life;
	uint32_t turn;
	uint8_t *plan;
	uint8_t *stack;
	struct nst_share *share;
	void *scratch;
	struct taken taken;
	int usage, stat; /* files of its memory cgroup; -1: there are none */
	int lease;	 /* a network namespace that is lent to its sandboxes, one after the other; -1: none */
	int told[TOLD];	 /* its files that tell how it was used, -1: not there */
	uint64_t clean;	 /* how that looks when nobody has used it */
	int net;	 /* its network namespace, -1: not opened */
	int killed;	 /* the signal for one that is on its way; 0: none */
	int session;	 /* our end of the socket of a datagram client, -1: none */
	int users;	 /* connections that are relayed to it */
	uint32_t had;	 /* so many it has had */
	int idle;	 /* it ends for lack of users */
	int deaf;	 /* it ends because it does not listen */
	int spare;	 /* nobody was connected to it: it was parked until its end */
	int ready;	 /* it waits to be attested */
	int has_key;
	struct bucket to, from; /* its command */
	int64_t resume;		/* when its links may have more again, all of them; 0: now */
	int first_link;		/* the one that comes first then */
	uint8_t key[NST_CLIENT];
	uint32_t waited, byte; /* microseconds of its connection, to here and to its first byte */
	struct nst_copy copy;
	int32_t slots[NST_MAX_SLOTS];
	/* Where its command listens, and what each source gave its last life, and 1; 0: nothing. */
	uint8_t address[4];
	uint16_t port;
	uint64_t last[NST_SOURCES];
};

/* The one state of this process. */
/* What a template knows. */
struct template
{
	int poll, signals, door, null, log, log_end, board_fd; /* log: of the zygote, as of a place */
	int peers[PEERS];
	int owner;    /* the peer that has said to accept, or -1 */
	int reporter; /* the peer that is told of what happens: the last that has asked for more than an end */
	const struct nst_service *orders;
	struct nst_board *board;
	uint64_t scratch_size;
	int listeners[NST_LISTENERS];
	int listening;				  /* they are being looked at: those of datagrams, */
	int has_room;				  /* and those of connections */
	int free[NST_PLACES], n_free, first_free; /* a ring: the place that was left longest ago comes first */
	int parked[NST_PLACES], n_parked, first_parked;
	int n_held;	       /* places whose memory somebody else has */
	int n_copies;	       /* that the zygote is asked for, and has not told of */
	int clone_at;	       /* the step */
	struct taken *waiting; /* a ring */
	int n_waiting, first_waiting;
	struct {
		int fd;
		int32_t left; /* bytes that are read of it yet */
		int64_t until;
	} lingering[LINGERING];
	struct client *clients;
	uint64_t seed[2];
	int zygote, zygote_pid; /* its socket; -1: there is none */
	struct {
		int pid, status;
	} lost[LOST]; /* children that have ended and are of no place yet */
	uint32_t n_lost;
	struct link *links;
	int first_link, n_links; /* where to look for one that is not in use; those that are */
	int own_net;
	int plans; /* the memory that is shared with the sandboxes */
	int types[NST_LISTENERS];
	struct taken asking[ASKING]; /* fd -1: not in use */
	int n_asking;
	int32_t asked;		       /* questions so far */
	struct taken headers[HEADERS]; /* the same */
	int n_headers;
	int draining;		/* it was told to take no more */
	int pausing;		/* a clone was refused: until then no other is tried */
	int64_t pause, backoff; /* until when none is made that nobody waits for, and how long the next time */
	/* Sandboxes enter a time namespace; what each source has given the last of all of them, as in struct place. */
	int own_clock;
	uint64_t last[NST_SOURCES];
};

extern struct template self;
extern struct place *places; /* so many as the orders say */

union address {
	uint16_t family;
	struct sockaddr_in in;
	struct sockaddr_in6 in6;
	struct sockaddr_un un;
};

static inline void close_fd(int *fd)
{
	if (*fd >= 0)
		nst_raw1(__NR_close, *fd);
	*fd = -1;
}

static inline int64_t real_now(void)
{
	struct __kernel_timespec t = {0};

	nst_raw2(__NR_clock_gettime, 0 /* CLOCK_REALTIME */, NST_P(&t));
	return t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void copy_bytes(void *to, const void *from, uint64_t n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static inline void watch(int fd, enum kind kind, int index, uint32_t events)
{
	struct epoll_event e = {.events = events, .data = (uint64_t)kind << 32 | (uint32_t)index};

	nst_raw4(__NR_epoll_ctl, self.poll, EPOLL_CTL_ADD, fd, NST_P(&e));
}

/* ---- tell.c ---- */

long send_message(int fd, struct nst_message *m, int passed);
long tell_reporter(struct nst_message *m);

/* ---- board.c ---- */

uint32_t note(enum stage stage, int64_t from, int64_t to);
void show(int i);
void show_counts(void);
void remember(const struct taken *t, uint64_t life, int place, enum nst_cause cause, int status,
	      const uint32_t *microseconds);

/* ---- clients.c ---- */

int is_link_local(const uint8_t *address);
void keep_address(const union address *a, uint8_t *ret);
int limits_clients(void);
int client_key(const uint8_t *from, uint8_t *ret_key);
int same_key(const uint8_t *a, const uint8_t *b);
enum nst_cause admit(struct taken *t);
void forget_client(struct taken *t);

/* ---- whose.c ---- */

int asks_for_users(void);
void ask_again(void);
void ask_first(struct taken *t);
void is_whose(int at, const struct nst_message *m);
void drop_header(int at);
void from_header(int at, int gone);
int64_t headers_on_time(int64_t now);
void read_header(struct taken *t);

/* ---- refuse.c ---- */

void refuse(struct taken *t, enum nst_cause cause);
void drain(int i);
int64_t lingering_on_time(int64_t now);
void refuse_all(void);

/* ---- vary.c ---- */

uint64_t draw(void);
void stamp(int i);

/* ---- lease.c ---- */

void go_home(void);
long make_lease(int i);
void check_lease(int i);

/* ---- memory.c ---- */

int is_pinned(const struct place *p);

/* ---- zygote.c ---- */

long ask_zygote(int i, int n_slots, int control);
int zygote_is_busy(void);
void from_zygote(void);
long start_zygote(int plans);

/* ---- sandbox.c ---- */

void free_place(int i);
int take_place(void);
int launcher_steps(struct place *p);
void send_signal(struct place *p, int number);
long start(int i, struct taken *t, int attest);
void idle_from(struct place *p, int64_t now);
void assigned(int i, const struct taken *t);
void no_start(const struct taken *t, int i);
int take_parked(void);
int wants_more(void);
void park(void);
long try(void);
int place_it(struct taken *t, int *ret_place);
void end_place(int i, int number);
void ended(int i, int wait_status);
int64_t places_on_time(int64_t now);
void reap(void);

/* ---- links.c ---- */

int64_t most_bytes(void);
void left_alone(int i);
void close_links_of(int i);
void pump(int at);
void pump_again(void);
int64_t links_on_time(int64_t now);
int link_it(struct taken *t);

/* ---- datagrams.c ---- */

void from_session(int i);
void take_datagram(int listener);

/* ---- listen.c ---- */

void listen_to(int on, int room);
int has_room(void);
void let_in(struct taken *t);
void take(int listener);
void from_queue(void);
int64_t queue_on_time(void);

/* ---- orders.c ---- */

long configure(const struct nst_message *m, int *fds, int n);
long add_place(const struct nst_message *m, int *fds, int n);
long add_listener(const struct nst_message *m, int *fds, int n);

/* ---- service.c ---- */

void from_peer(int i);
void open_door(void);
void from_place(int i);

#endif
