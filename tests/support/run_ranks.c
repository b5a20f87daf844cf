/* run_ranks N [RANK:NAME=VALUE …] [--] COMMAND…: the command as N ranks of this machine, each with
 * its place in the environment as torchrun would set it, rank 0 at a free port of the loopback, and
 * variables for one rank alone. The exit status is the greatest of the ranks' (128 + n for a
 * signal). When one is not 0, the others have a minute to end: then they are killed, which is
 * status 255. One that is skipped (77) is the end of all, with that status. */
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 64, GRACE_S = 60, LATE = 255, SKIPPED = 77 };

static pid_t ranks[MOST];
static int n_ranks;
static volatile sig_atomic_t late;

static int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) != 0) {
        perror("run_ranks: a port");
        exit(LATE);
    }
    close(fd);
    return ntohs(address.sin_port);
}

static void set_number(const char *name, int value)
{
    char text[16];
    snprintf(text, sizeof(text), "%d", value);
    setenv(name, text, 1);
}

static void kill_all(int signal_number)
{
    late = signal_number == SIGALRM;
    for (int i = 0; i < n_ranks; i++)
        if (ranks[i] > 0)
            kill(ranks[i], SIGKILL);
}

/* "1:NAME=VALUE" */
static bool is_variable(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    return digits > 0 && text[digits] == ':' && strchr(text, '=') != NULL;
}

static void start(int rank, int port, char **variables, int n_variables, char **command)
{
    char place[32];

    ranks[rank] = fork();
    if (ranks[rank] != 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(place, sizeof(place), "127.0.0.1:%d", port);
    set_number("RANK", rank);
    set_number("LOCAL_RANK", rank);
    set_number("WORLD_SIZE", n_ranks);
    setenv("IBOT_RANKS_AT", place, 0);
    for (int i = 0; i < n_variables; i++)
        if (atoi(variables[i]) == rank)
            putenv(strchr(variables[i], ':') + 1);
    execvp(command[0], command);
    perror(command[0]);
    _exit(127);
}

int main(int argc, char **argv)
{
    int first = 2, status, result = 0, port = free_port();
    bool skipped = false;

    n_ranks = argc > 2 ? atoi(argv[1]) : 0;
    while (first < argc && is_variable(argv[first]))
        first++;
    int n_variables = first - 2;
    if (first < argc && strcmp(argv[first], "--") == 0)
        first++;
    if (n_ranks < 1 || n_ranks > MOST || first >= argc) {
        fprintf(stderr, "usage: run_ranks N [RANK:NAME=VALUE …] [--] COMMAND…\n");
        return 2;
    }
    for (int rank = 0; rank < n_ranks; rank++)
        start(rank, port, argv + 2, n_variables, argv + first);
    signal(SIGTERM, kill_all);
    signal(SIGALRM, kill_all);
    for (int left = n_ranks; left > 0; left--) {
        pid_t ended = wait(&status);
        while (ended < 0)
            ended = wait(&status); /* a signal came */
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        int rank = 0;
        while (ranks[rank] != ended)
            rank++;
        ranks[rank] = 0;
        if (code != 0)
            fprintf(stderr, "run_ranks: rank %d ended with status %d\n", rank, code);
        if (code == SKIPPED)
            skipped = true;
        if (skipped)
            kill_all(SIGKILL);
        if (code != 0 && result == 0)
            alarm(GRACE_S);
        result = code > result ? code : result;
    }
    return skipped ? SKIPPED : late ? LATE : result;
}
