/* Judging ranks by what they told last. */
#include "ops/rank_watch.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MOST_NAMED = 8, NAME = 96 };

static const int64_t second_ns = 1000000000;

/* What was on its way when a connection ended does not say that the rank lives. */
static const int64_t under_way_ns = 500000000;

const char *rank_watch_name(const struct rank_watch *watch, int rank, char *out, size_t size)
{
    const char *host = watch->peers[rank].host;

    snprintf(out, size, host[0] != '\0' ? "rank %d (%s)" : "rank %d", rank, host);
    return out;
}

void rank_watch_hear(struct rank_peer *peer, const struct rank_message *message, int64_t now_ns)
{
    peer->heard_ns = now_ns;
    if (now_ns - peer->cut_ns > under_way_ns)
        peer->cut_ns = 0;
    memcpy(peer->host, message->host, sizeof(peer->host));
    if (message->kind != RANK_STATE && message->kind != RANK_HELLO)
        return;
    if (message->count != peer->count || peer->moved_ns == 0)
        peer->moved_ns = now_ns;
    peer->count = message->count;
    peer->step = message->step;
    peer->begun = message->begun;
    peer->done = message->done;
    memcpy(peer->doing, message->doing, sizeof(peer->doing));
}

void rank_watch_cut(struct rank_watch *watch, int connection, int64_t now_ns)
{
    for (int rank = 1; rank < watch->world; rank++) {
        struct rank_peer *peer = &watch->peers[rank];
        if (peer->here && peer->name.connection == connection && peer->cut_ns == 0)
            peer->cut_ns = now_ns;
    }
}

bool rank_watch_gone(const struct rank_watch *watch, int64_t now_ns, char *text, size_t size)
{
    char name[NAME];

    for (int rank = 1; rank < watch->world; rank++) {
        const struct rank_peer *peer = &watch->peers[rank];
        if (!peer->here || peer->gone)
            continue;
        if (peer->cut_ns != 0 && now_ns - peer->cut_ns > watch->cut_ns) {
            snprintf(text, size,
                     "%s has ended without a word (step %lld, it %s): its process was killed or "
                     "has crashed, or its machine is down; see its log",
                     rank_watch_name(watch, rank, name, sizeof(name)), (long long)peer->step,
                     peer->doing);
            return true;
        }
        if (now_ns - peer->heard_ns > watch->silent_ns) {
            snprintf(text, size,
                     "%s has not been heard of for %lld s (step %lld, it %s): its process or "
                     "machine is stopped or cut off; see its log",
                     rank_watch_name(watch, rank, name, sizeof(name)),
                     (long long)((now_ns - peer->heard_ns) / second_ns), (long long)peer->step,
                     peer->doing);
            return true;
        }
    }
    return false;
}

/* All hosts stand at the same place for still_ns: `peer`, whose device has come least far? */
static void judge_devices(const struct rank_watch *watch, int rank, int64_t still_ns, char *text,
                          size_t size)
{
    const struct rank_peer *peer = &watch->peers[rank];
    int64_t most = INT64_MIN;
    int last = rank;
    char name[NAME];

    for (int other = 0; other < watch->world; other++) {
        if (watch->peers[other].gone)
            continue;
        most = watch->peers[other].begun > most ? watch->peers[other].begun : most;
        last = watch->peers[other].begun < watch->peers[last].begun ? other : last;
    }
    const struct rank_peer *behind = &watch->peers[last];
    if (behind->begun < most)
        snprintf(text, size,
                 "%s is late: for %lld s its device has not come to collective %lld, in which "
                 "the others wait for it (step %lld, it %s)",
                 rank_watch_name(watch, last, name, sizeof(name)),
                 (long long)(still_ns / second_ns), (long long)behind->begun + 1,
                 (long long)behind->step, behind->doing);
    else
        snprintf(text, size,
                 "no rank has moved for %lld s: all are at step %lld (rank %d %s), their devices "
                 "have begun %lld collectives and rank %d's has finished %lld; the network between "
                 "them may be cut",
                 (long long)(still_ns / second_ns), (long long)peer->step, rank, peer->doing,
                 (long long)behind->begun, last, (long long)behind->done);
}

bool rank_watch_judge(const struct rank_watch *watch, int64_t now_ns, char *text, size_t size)
{
    int64_t most = INT64_MIN;
    int behind = -1;
    bool all_still = true;
    char name[NAME];

    if (rank_watch_gone(watch, now_ns, text, size))
        return true;
    for (int rank = 0; rank < watch->world; rank++) {
        const struct rank_peer *peer = &watch->peers[rank];
        if (peer->gone)
            continue;
        most = peer->count > most ? peer->count : most;
        if (behind < 0 || peer->count < watch->peers[behind].count)
            behind = rank;
        all_still = all_still && now_ns - peer->moved_ns > watch->late_ns;
    }
    if (behind < 0)
        return false;
    const struct rank_peer *peer = &watch->peers[behind];
    int64_t still_ns = now_ns - peer->moved_ns;
    if (peer->count < most && still_ns > watch->late_ns) {
        snprintf(text, size,
                 "%s is late: for %lld s it has been at step %lld (it %s), and the others wait for "
                 "it",
                 rank_watch_name(watch, behind, name, sizeof(name)),
                 (long long)(still_ns / second_ns), (long long)peer->step, peer->doing);
        return true;
    }
    if (!all_still || strcmp(peer->doing, RANK_WAITS_FOR_DATA) == 0)
        return false;
    judge_devices(watch, behind, still_ns, text, size);
    return true;
}

/* Appends to a text that may be full. */
IBOT_PRINTF(3, 4)
static void append(char *text, size_t size, const char *format, ...)
{
    size_t n = strlen(text);
    va_list list;

    va_start(list, format);
    vsnprintf(text + n, size - n, format, list);
    va_end(list);
}

/* Those that have come or not, and are not ready: their number. */
static int list_ranks(const struct rank_watch *watch, bool here, char *text, size_t size)
{
    char name[NAME];
    int n = 0;

    for (int rank = 0; rank < watch->world; rank++) {
        const struct rank_peer *peer = &watch->peers[rank];
        if (peer->here != here || peer->ready || ++n > MOST_NAMED)
            continue;
        append(text, size, "%s%s", n > 1 ? ", " : "",
               rank_watch_name(watch, rank, name, sizeof(name)));
        if (here)
            append(text, size, ", which %s", peer->doing);
    }
    if (n > MOST_NAMED)
        append(text, size, " and %d more", n - MOST_NAMED);
    return n;
}

void rank_watch_missing(const struct rank_watch *watch, char *text, size_t size)
{
    char here[RANK_MESSAGE_TEXT / 2] = "";

    text[0] = '\0';
    int n_missing = list_ranks(watch, false, text, size);
    if (n_missing > 0)
        append(text, size, " %s not come", n_missing == 1 ? "has" : "have");
    if (list_ranks(watch, true, here, sizeof(here)) > 0)
        append(text, size, "%s%s is not ready", n_missing > 0 ? "; " : "", here);
}
