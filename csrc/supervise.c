/* What stays of `nstool run`: Python launches, then becomes this. Forwards signals, relays the terminal,
 * waits for the end, undoes what was made outside. Raw system calls only; a few pages of memory. */
#include "nstool.h"

#include <asm/ioctls.h>
#include <asm/poll.h>
#include <asm/signal.h>
#include <asm/stat.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/signalfd.h>
#include <linux/time.h>

#include "raw.h"

enum {
	CHUNK = 16 << 10,
	PORTION = 4096, /* PIPE_BUF, pipe(7) */
	LATE = 4096,	/* messages after init's end: its own are among the first, as many as a socket holds; unix(7) */
	TRIES = 200,	/* of a directory that is still busy, 5 ms apart */
	PAUSE_NS = 5000000,
	RUN_DIR_LOCK = 2, /* LOCK_EX, flock(2) */
};

/* One direction between the caller's streams and the sandbox's terminal: what was read and is not written yet. */
struct flow {
	int from; /* -1: nothing more comes */
	int to;
	int begin, end;
	char data[CHUNK];
};

/* The orders in the memfd, followed by their text: NUL-terminated strings, each with a letter before it. */
static struct {
	const struct nst_orders *o;
	int signals;   /* signalfd */
	int terminal;  /* the master, or -1 */
	int asked;     /* a signal by which somebody wants an end was forwarded */
	int cut;       /* output is being dropped, for the log has the size that it may have */
	int unwritten; /* of the log's output, for another reason */
	struct flow in, out;
	char buffer[CHUNK];
} self;

static void say(int fd, const char *text)
{
	long left = (long)nst_length(text), r;

	for (; left > 0; text += r, left -= r) {
		r = nst_raw3(__NR_write, fd, NST_P(text), left);
		if (r == -EINTR)
			r = 0;
		else if (r <= 0)
			return; /* whom it was for has gone, or does not read */
	}
}

/* ---- the terminal ---- */

static void copy_size(void)
{
	char size[8] = {0};

	if (self.terminal >= 0 && nst_raw3(__NR_ioctl, self.o->outer, TIOCGWINSZ, NST_P(size)) == 0)
		nst_raw3(__NR_ioctl, self.terminal, TIOCSWINSZ, NST_P(size));
}

static int is_empty(const struct flow *f)
{
	return f->begin == f->end;
}

/* Read what is there into an empty flow. 0 at the end. */
static int fill(struct flow *f)
{
	long n = nst_raw3(__NR_read, f->from, NST_P(f->data), CHUNK);

	if (n == -EINTR || n == -EAGAIN)
		return 1;
	if (n <= 0) { /* EIO: the last process has closed the other side, pts(4) */
		f->from = -1;
		return 0;
	}
	f->begin = 0;
	f->end = (int)n;
	return 1;
}

/* Write some of it. No more than a pipe takes whole when poll(2) says that it takes something. 0, or -errno. */
static long drain(struct flow *f)
{
	long n = f->end - f->begin, r;

	r = nst_raw3(__NR_write, f->to, NST_P(f->data + f->begin), n < PORTION ? n : PORTION);
	if (r == -EINTR || r == -EAGAIN)
		return 0;
	if (r < 0) {
		f->begin = f->end;
		return r;
	}
	f->begin += (int)r;
	return 0;
}

/* ---- the log ---- */

static int strings(char letter, const char **ret, int max);

/* Write what the log file has room for, and say once where it is cut. Whoever empties the file makes room again. */
static void drain_to_log(struct flow *f)
{
	const char *message[2];
	struct stat st;
	long n = f->end - f->begin, room, r;

	if (nst_raw2(__NR_fstat, f->to, NST_P(&st)) < 0 || st.st_size < 0)
		st.st_size = 0;
	room = (uint64_t)st.st_size < self.o->log_size ? (long)(self.o->log_size - (uint64_t)st.st_size) : 0;
	if (room > 0)
		self.cut = 0;
	if (room <= 0) {
		if (!self.cut && strings('c', message, 2))
			say(f->to, message[0]);
		self.cut = 1;
		f->begin = f->end;
		return;
	}
	r = nst_raw3(__NR_write, f->to, NST_P(f->data + f->begin), n < room ? n : room);
	if (r == -EINTR)
		return;
	if (r <= 0) { /* the disk is full: the command goes on, as with any other reader */
		self.unwritten = 1;
		f->begin = f->end;
		return;
	}
	f->begin += (int)r;
}

/* Nobody takes the output any more: then the command's terminal hangs up, as when its window is closed. */
static int hang_up(long error)
{
	nst_raw1(__NR_close, self.terminal);
	self.terminal = self.in.from = self.out.from = -1;
	self.in.begin = self.in.end = 0;
	if (error == -EPIPE || error == -EIO)
		return 0;
	say(2, "nstool: the command's output cannot be written to standard output: is its file system full?\n");
	return 1;
}

/* ---- the end ---- */

/* The number behind `key` in a file of "key number" lines, or 0; -errno if there is no such file. */
static long number_in(const char *path, const char *key)
{
	long fd = nst_raw4(__NR_openat, AT_FDCWD, NST_P(path), O_RDONLY | O_CLOEXEC, 0), n, value = 0;
	const char *p = self.buffer;
	size_t len = nst_length(key), i;

	if (fd < 0)
		return fd;
	n = nst_raw3(__NR_read, fd, NST_P(self.buffer), CHUNK - 1);
	nst_raw1(__NR_close, fd);
	if (n <= 0)
		return 0;
	self.buffer[n] = 0;
	while (*p) {
		for (i = 0; i < len && p[i] == key[i]; i++)
			;
		if (i == len && p[len] == ' ') {
			for (p += len + 1; *p >= '0' && *p <= '9'; p++)
				value = value * 10 + (*p - '0');
			return value;
		}
		while (*p && *p != '\n')
			p++;
		p += *p == '\n';
	}
	return 0;
}

static long remove_directory(const char *path)
{
	struct timespec pause = {0, PAUSE_NS};
	int i;
	long r;

	for (i = 0; i < TRIES; i++) {
		r = nst_raw3(__NR_unlinkat, AT_FDCWD, NST_P(path), AT_REMOVEDIR);
		if (r != -EBUSY)
			return r;
		nst_raw2(__NR_nanosleep, NST_P(&pause), 0); /* a dying process leaves its cgroup a moment later */
	}
	return r;
}

/* Do the orders that begin with these letters, in order. 0, or the first error that is not ENOENT. */
static long undo(void)
{
	const char *p = (const char *)(self.o + 1), *end = p + self.o->text_size;
	int gone = 0;
	long r = 0;

	for (; p < end && r >= 0; p += nst_length(p) + 1) {
		if (*p == 'l') { /* lock the sandbox's directory, as every process that undoes does */
			long fd = nst_raw4(__NR_openat, AT_FDCWD, NST_P(p + 1), O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);

			r = fd < 0 ? fd : nst_raw2(__NR_flock, fd, RUN_DIR_LOCK);
			gone = r ==
			       -ENOENT; /* another has undone it, or removed it by hand: leases may be others' now */
		} else if (*p == 'd') {
			r = remove_directory(p + 1);
		} else if (*p == 't') { /* what sandboxes share, if this was the last in it */
			nst_raw3(__NR_unlinkat, AT_FDCWD, NST_P(p + 1), AT_REMOVEDIR);
		} else if (*p == 'f' && !gone) {
			r = nst_raw3(__NR_unlinkat, AT_FDCWD, NST_P(p + 1), 0);
		}
		if (r == -ENOENT)
			r = 0;
	}
	return r;
}

/* The strings of one letter as a vector that ends in NULL. */
static int strings(char letter, const char **ret, int max)
{
	const char *p = (const char *)(self.o + 1), *end = p + self.o->text_size;
	int n = 0;

	for (; p < end && n < max - 1; p += nst_length(p) + 1)
		if (*p == letter)
			ret[n++] = p + 1;
	ret[n] = NULL;
	return n;
}

/* Hand the rest to Python: what is not a matter of removing files. The status is its last argument.
 * The signals that were forwarded stay blocked, in what Python runs too: undoing is short, and none may end it halfway. */
_Noreturn static void finish_in_python(int status)
{
	static const char *argv[64], *envp[4096];
	char digits[12];
	int n = strings('p', argv, 62);

	argv[n] = nst_put_number(digits + sizeof digits, (unsigned int)status);
	argv[n + 1] = NULL;
	strings('e', envp, 4096);
	nst_raw3(__NR_execve, NST_P(argv[0]), NST_P(argv), NST_P(envp));
	say(2, "nstool: cannot run Python to undo; `nstool cleanup` does it\n");
	nst_leave(125);
}

/* Say how the command ended, wait_status as of wait(2): in the journal, for who waits for it, and in the log. */
static void tell_end(int wait_status)
{
	const char *journal[2], *name[2];
	char digits[12];
	int signal = wait_status & 0x7f;

	if (strings('j', journal, 2)) {
		long fd = nst_raw4(__NR_openat, AT_FDCWD, NST_P(journal[0]),
				   O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0);

		if (fd >= 0) { /* else somebody has removed it: nobody waits */
			say((int)fd, "{\"ended\":");
			say((int)fd, nst_put_number(digits + sizeof digits, (unsigned int)wait_status));
			say((int)fd, "}\n");
			nst_raw1(__NR_close, fd);
		}
	}
	if (strings('n', name, 2)) {
		say(2, "nstool: ");
		say(2, name[0]);
		say(2, signal ? " was ended by signal " : " ended with exit status ");
		say(2,
		    nst_put_number(digits + sizeof digits, (unsigned int)(signal ? signal : wait_status >> 8 & 0xff)));
		say(2, "\n");
	}
}

/* known: init has told how the command ended; wait_status is the command's then, else init's own. lost: of its output. */
_Noreturn static void finish(int known, int wait_status, int lost)
{
	static const char unknown[] = "nstool: whether the sandbox lacked memory is not known: its memory cgroup was "
				      "removed\n";
	const char *path[2], *key[2], *message[2];
	int status = (wait_status & 0x7f) ? 128 + (wait_status & 0x7f) : wait_status >> 8 & 0xff;

	if (lost)
		status = 125;
	if (self.o->terminal >= 0) /* TCSETS: what the reader has not taken is not waited for */
		nst_raw3(__NR_ioctl, self.o->outer, self.asked ? TCSETS : TCSETSW, NST_P(self.o->termios));
	if (self.terminal >= 0)
		nst_raw1(__NR_close, self.terminal);
	if (strings('o', path, 2) && strings('k', key, 2) && strings('m', message, 2)) {
		long kills = number_in(path[0], key[0]);

		if (kills > 0)
			say(2, message[0]);
		else if (kills < 0)
			say(2, unknown);
	}
	if (self.unwritten)
		say(2, "nstool: some of the output could not be written to the log: was its file system full?\n");
	if (!known && self.o->with_init && (wait_status & 0x7f))
		say(2, "nstool: the sandbox's init was killed from outside\n");
	else if ((wait_status & 0x7f) == SIGSYS && strings('s', message, 2))
		say(2, message[0]);
	tell_end(wait_status);
	if (self.o->in_python || undo() < 0)
		finish_in_python(status);
	nst_leave(status);
}

/* ---- meanwhile ---- */

static void on_signals(void)
{
	struct signalfd_siginfo si;

	while (nst_raw3(__NR_read, self.signals, NST_P(&si), sizeof si) == sizeof si) {
		if (si.ssi_signo == SIGWINCH)
			copy_size();
		else if (si.ssi_signo != SIGCHLD)
			nst_raw4(__NR_pidfd_send_signal, self.o->pidfd, (long)si.ssi_signo, 0, 0);
		if (si.ssi_signo == SIGINT || si.ssi_signo == SIGTERM || si.ssi_signo == SIGHUP ||
		    si.ssi_signo == SIGQUIT)
			self.asked = 1;
	}
}

_Noreturn void nst_supervise(int fd)
{
	enum { SIGNALS, CONTROL, INIT, TERMINAL, INPUT, OUTPUT, COUNT };
	const struct timespec now = {0, 0};
	struct flow *in = &self.in, *out = &self.out;
	struct nst_orders head;
	struct pollfd p[COUNT];
	int status = 0, known = 0, ended = 0, wait_status = 0, late = 0, lost = 0, i, source;
	uint64_t forwarded;
	long map, signals;

	if (nst_raw3(__NR_read, fd, NST_P(&head), sizeof head) != sizeof head || head.magic != NST_MAGIC ||
	    head.text_size > NST_MAX_PLAN)
		nst_leave(125);
	map = nst_raw6(__NR_mmap, 0, (long)(sizeof head + head.text_size), PROT_READ, MAP_PRIVATE, fd, 0);
	if (map < 0 && map > -4096)
		nst_leave(125);
	nst_raw1(__NR_close, fd);
	self.o = (const struct nst_orders *)map;
	forwarded = head.signals;
	/* Only these: the signals of job control and of faults do here what they do to every program. */
	nst_raw4(__NR_rt_sigprocmask, SIG_SETMASK, NST_P(&forwarded), 0, 8);
	signals = nst_raw4(__NR_signalfd4, -1, NST_P(&forwarded), 8, O_CLOEXEC | O_NONBLOCK);
	if (signals < 0)
		nst_leave(125);
	self.signals = (int)signals;
	self.terminal = head.terminal;
	in->from = out->from = -1;
	if (head.terminal >= 0) { /* a command that does not read must not keep us from all else */
		nst_raw3(__NR_fcntl, head.terminal, F_SETFL, O_NONBLOCK);
		in->from = head.input;
		in->to = out->from = head.terminal;
		out->to = head.output;
	} else if (head.log >= 0) {
		out->from = head.log;
		out->to = head.output;
	}
	copy_size();
	source = head.terminal >= 0 ? head.terminal : head.log;
	for (i = 0; i < COUNT; i++)
		p[i] = (struct pollfd){-1, POLLIN, 0};
	p[SIGNALS].fd = (int)signals;
	p[CONTROL].fd = head.control;
	p[INIT].fd = head.pidfd;
	/* Until the command has ended and what it has written is out, or nobody takes that and an end was asked for.
	 * Who holds its terminal then is not waited for. */
	while (!ended || out->from >= 0 || !is_empty(out)) {
		int last = ended && (is_empty(out) || self.asked), ready;

		/* Nothing is waited for that cannot be used: an end of the other side is told again and again. */
		p[TERMINAL].events =
			(short)((out->from >= 0 && is_empty(out) ? POLLIN : 0) | (is_empty(in) ? 0 : POLLOUT));
		p[TERMINAL].fd = p[TERMINAL].events ? source : -1;
		p[INPUT].fd = is_empty(in) ? in->from : -1;
		p[OUTPUT] = (struct pollfd){is_empty(out) ? -1 : out->to, POLLOUT, 0};
		ready = (int)nst_raw5(__NR_ppoll, NST_P(p), COUNT, last ? NST_P(&now) : 0, 0, 8);
		if (last && !p[TERMINAL].revents && !p[OUTPUT].revents)
			break;
		if (ready <= 0)
			continue;
		if (p[SIGNALS].revents)
			on_signals();
		if (p[CONTROL].revents) {
			struct nst_message m;
			long n = nst_raw6(__NR_recvfrom, head.control, NST_P(&m), sizeof m, 0, 0, 0);

			if (n == sizeof m && m.type == NST_MSG_EXITED) {
				known = 1;
				status = m.status;
			} else if (n < 0 ? n != -EINTR : n == 0 && p[CONTROL].revents & POLLHUP) {
				p[CONTROL].fd =
					-1; /* without POLLHUP it is an empty packet, which init does not send */
			}
		}
		if (p[INPUT].revents && !fill(in)) {
			in->begin = 0;
			in->end = 1;
			in->data[0] = 4; /* what the end of input is on a terminal, termios(3) VEOF */
		}
		if (p[OUTPUT].revents && head.log >= 0) {
			drain_to_log(out);
		} else if (p[OUTPUT].revents) {
			long r = drain(out);

			if (r < 0)
				lost |= hang_up(r);
		}
		if (p[TERMINAL].revents && p[TERMINAL].events & POLLOUT && drain(in) < 0)
			in->from = -1; /* nobody has the other side open */
		if (p[TERMINAL].revents & ~POLLOUT && p[TERMINAL].events & POLLIN && out->from >= 0)
			fill(out);
		/* Once init has ended and nothing is left to read: others may hold its end of the socket, and fill it. */
		if (p[INIT].revents && (!p[CONTROL].revents || ++late == LATE)) {
			p[CONTROL].fd = -1;
			while (nst_raw4(__NR_wait4, head.pid, NST_P(&wait_status), 0x40000000 /* __WALL */, 0) ==
			       -EINTR)
				;
			p[INIT].fd = in->from = -1;
			in->begin = in->end = 0;
			ended = 1;
		}
	}
	finish(known, known ? status : wait_status, lost);
}
