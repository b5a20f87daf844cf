/* What rank 0 knows of each rank, and whom it calls gone, late or stuck. The thread of
 * ops/rank_monitor.c alone. */
#ifndef IBOT_OPS_RANK_WATCH_H
#define IBOT_OPS_RANK_WATCH_H

#include "ops/rank_link.h"
#include "ops/rank_monitor.h"

#ifdef __cplusplus
extern "C" {
#endif

struct rank_peer {
    struct rank_peer_name name;
    uint64_t instance, former; /* process that is heard as this rank; the one before it */
    int64_t heard_ns, moved_ns, count, step;
    int64_t cut_ns;      /* its connection ended then, and it has not been heard since; 0: no */
    int64_t begun, done; /* of its device */
    char host[RANK_MESSAGE_HOST];
    char doing[RANK_MESSAGE_DOING];
    bool here, ready, gone, told; /* came; waits for the others; said goodbye; knows of the end */
};

struct rank_watch {
    struct rank_peer *peers; /* of every rank, the own one too */
    int world;
    int64_t silent_ns, cut_ns, late_ns;
};

/* "rank 2 (its host)" */
const char *rank_watch_name(const struct rank_watch *watch, int rank, char *out, size_t size);

/* A message of a rank that counts as alive. */
void rank_watch_hear(struct rank_peer *peer, const struct rank_message *message, int64_t now_ns);

/* The connection has ended: who had it, and is not heard again, is gone. */
void rank_watch_cut(struct rank_watch *watch, int connection, int64_t now_ns);

/* Has a rank that came gone without a word? Fills `text`. */
bool rank_watch_gone(const struct rank_watch *watch, int64_t now_ns, char *text, size_t size);

/* The same, or late, or are all stuck? */
bool rank_watch_judge(const struct rank_watch *watch, int64_t now_ns, char *text, size_t size);

/* "rank 1, rank 4 and 9 more have not come; rank 2 (its host) has, and starts"; empty when all are
 * ready. */
void rank_watch_missing(const struct rank_watch *watch, char *text, size_t size);

#ifdef __cplusplus
}
#endif

#endif
