/* Tries inside what it is asked to, one question a line, and tells what came of it, one JSON object a line.
 *
 * A question is words with tabs between: what to do, and its arguments. Each is tried in a child, so that what it does
 * to the process is gone with it and a signal that ends it is an answer too. */
#include "probe.h"

#include <dirent.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>

enum { WORDS = 16, PATIENCE = 20 };

struct answer *answer;

long tell(long value)
{
	answer->value = value;
	answer->error = value < 0 ? errno : 0;
	return value;
}

void tell_text(const char *text, size_t size)
{
	size = size < sizeof answer->text ? size : sizeof answer->text;
	memcpy(answer->text, text, size);
	answer->size = size;
}

void add_text(const char *format, ...)
{
	size_t room = sizeof answer->text - answer->size;
	va_list list;
	int size;

	va_start(list, format);
	size = vsnprintf(answer->text + answer->size, room, format, list);
	va_end(list);
	answer->size += size < (int)room ? size : (int)room - 1;
}

/* An argument of a system call: a number, "s:" a string, "b:" so many bytes of zero. */
static long argument(const char *word)
{
	if (!strncmp(word, "s:", 2))
		return (long)(word + 2);
	if (!strncmp(word, "b:", 2))
		return (long)calloc(1, strtoul(word + 2, NULL, 0));
	return (long)strtoull(word, NULL, 0);
}

static void do_call(char **words, int number)
{
	long args[6] = {0};

	for (int i = 2; i < number && i < 8; i++)
		args[i - 2] = argument(words[i]);
	tell(syscall(strtol(words[1], NULL, 0), args[0], args[1], args[2], args[3], args[4], args[5]));
}

static void do_read(char **words, int number)
{
	int fd = open(words[1], O_RDONLY | O_NONBLOCK);
	size_t size = 0;
	ssize_t n = fd;

	(void)number;
	while (fd >= 0 && size < sizeof answer->text &&
	       (n = read(fd, answer->text + size, sizeof answer->text - size)) > 0)
		size += n;
	answer->size = size;
	tell(n < 0 ? -1 : (long)size);
}

static void do_write(char **words, int number)
{
	int fd = open(words[1], O_WRONLY | O_NONBLOCK);

	tell(fd < 0 || number < 3 ? fd : write(fd, words[2], strlen(words[2])));
}

static void do_open(char **words, int number)
{
	tell(open(words[1], number > 2 ? (int)strtol(words[2], NULL, 0) : O_RDONLY, 0644));
}

static void do_link(char **words, int number)
{
	(void)number;
	answer->size = tell(readlink(words[1], answer->text, sizeof answer->text)) > 0 ? answer->value : 0;
}

static void do_list(char **words, int number)
{
	DIR *dir = opendir(words[1]);
	struct dirent *entry;

	(void)number;
	if (tell(dir ? 0 : -1) < 0)
		return;
	while ((entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			add_text("%s ", entry->d_name);
}

static void do_stat(char **words, int number)
{
	struct stat st;

	(void)number;
	if (tell(stat(words[1], &st)) == 0)
		add_text("%o %u %u %lu %lu", st.st_mode, st.st_uid, st.st_gid, (long)st.st_dev, (long)st.st_ino);
}

static const struct action actions[] = {
	{"call", do_call}, {"read", do_read}, {"write", do_write}, {"open", do_open},
	{"link", do_link}, {"list", do_list}, {"stat", do_stat},
};

static void act(char **words, int number)
{
	const struct action *tables[] = {actions, special_actions};
	size_t sizes[] = {sizeof actions / sizeof *actions, special_number};

	for (int t = 0; t < 2; t++)
		for (size_t i = 0; i < sizes[t]; i++)
			if (!strcmp(tables[t][i].name, words[0])) {
				tables[t][i].act(words, number);
				_exit(0);
			}
	fprintf(stderr, "probe: cannot %s\n", words[0]);
	_exit(99);
}

static void print(void)
{
	printf("{\"value\": %ld, \"error\": %d, \"signal\": %d, \"text\": \"", answer->value, answer->error,
	       answer->signal);
	for (size_t i = 0; i < answer->size; i++) {
		unsigned char c = answer->text[i];

		printf(c < ' ' || c > '~' || c == '"' || c == '\\' ? "\\u%04x" : "%c", c);
	}
	printf("\"}\n");
	fflush(stdout);
}

static void ask(char *line)
{
	char *words[WORDS] = {0}, *rest = line;
	int number = 0, status = 0;
	pid_t pid;

	while (number < WORDS - 1 && (words[number] = strsep(&rest, "\t\n")) && (rest || *words[number]))
		number++;
	memset(answer, 0, offsetof(struct answer, text));
	pid = fork();
	if (pid == 0) {
		alarm(PATIENCE);
		act(words, number);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		tell(-1);
	if (WIFSIGNALED(status))
		answer->signal = WTERMSIG(status);
	print();
}

int main(void)
{
	char *line = NULL;
	size_t room = 0;

	answer = mmap(NULL, sizeof *answer, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (answer == MAP_FAILED)
		return 1;
	while (getline(&line, &room, stdin) > 0)
		ask(line);
	return 0;
}
