/* Ranks are built from the same sources for the same kind of machine: a message is its struct. */
#include "ops/rank_message.h"

#include <string.h>

enum { MAGIC = 0x69426d32, FRAME_MAGIC = 0x69426532 };

static const int64_t most = INT64_C(1) << 62; /* of a count: sums and differences fit */

void rank_message_init(struct rank_message *out, enum rank_message_kind kind, int rank, int world)
{
    memset(out, 0, sizeof(*out));
    out->magic = MAGIC;
    out->kind = (uint32_t)kind;
    out->rank = (uint32_t)rank;
    out->world = (uint32_t)world;
}

static bool is_count(int64_t value)
{
    return value >= -most && value <= most;
}

static void clean(char *text, size_t size)
{
    text[size - 1] = '\0';
    for (; *text != '\0'; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = ' ';
}

bool rank_message_read(struct rank_message *out, const void *bytes, size_t n_bytes)
{
    struct rank_message message;

    if (n_bytes != sizeof(message))
        return false;
    memcpy(&message, bytes, sizeof(message));
    if (message.magic != MAGIC || message.kind < RANK_HELLO || message.kind >= RANK_MESSAGE_KINDS ||
        message.world < 1 || message.world > RANK_MESSAGE_MAX_RANKS ||
        message.rank >= message.world || message.ready > 1)
        return false;
    if (!is_count(message.count) || !is_count(message.step) || !is_count(message.begun) ||
        !is_count(message.done))
        return false;
    clean(message.host, sizeof(message.host));
    clean(message.doing, sizeof(message.doing));
    if (message.kind != RANK_WELCOME)
        clean(message.text, sizeof(message.text));
    *out = message;
    return true;
}

struct rank_frame rank_frame_of(int rank, uint64_t number, size_t bytes_each)
{
    return (struct rank_frame){FRAME_MAGIC, (uint32_t)rank, number, bytes_each};
}

bool rank_frame_read(struct rank_frame *out, const void *bytes, size_t n_bytes, int world)
{
    struct rank_frame frame;

    if (n_bytes < sizeof(frame))
        return false;
    memcpy(&frame, bytes, sizeof(frame));
    size_t carried = n_bytes - sizeof(frame);
    if (frame.magic != FRAME_MAGIC || frame.rank >= (uint32_t)world || frame.bytes_each < 1 ||
        frame.bytes_each > RANK_EXCHANGE_MOST_BYTES / (uint64_t)world)
        return false;
    if (carried != frame.bytes_each && carried != frame.bytes_each * (uint64_t)world)
        return false;
    *out = frame;
    return true;
}
