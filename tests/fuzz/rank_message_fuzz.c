/* Any bytes as what another rank says: a message of its monitor, or a frame of an all-gather of
 * some ranks. What is accepted must keep its promises, and say the same when it is read again. */
#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ops/rank_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void expect(bool promise)
{
    if (!promise)
        abort();
}

static void expect_text(const char *text, size_t size)
{
    expect(memchr(text, '\0', size) != NULL);
    for (; *text != '\0'; text++)
        expect(!iscntrl((unsigned char)*text));
}

static void read_message(const uint8_t *bytes, size_t n_bytes)
{
    static struct rank_message message, again;

    if (!rank_message_read(&message, bytes, n_bytes))
        return;
    expect(message.kind >= RANK_HELLO && message.kind < RANK_MESSAGE_KINDS);
    expect(message.rank < message.world && message.world <= RANK_MESSAGE_MAX_RANKS);
    expect_text(message.host, sizeof(message.host));
    expect_text(message.doing, sizeof(message.doing));
    if (message.kind != RANK_WELCOME)
        expect_text(message.text, sizeof(message.text));
    expect(rank_message_read(&again, &message, sizeof(message)));
    expect(memcmp(&message, &again, sizeof(message)) == 0);
}

static void read_frame(const uint8_t *bytes, size_t n_bytes, int world)
{
    struct rank_frame frame;

    if (!rank_frame_read(&frame, bytes, n_bytes, world))
        return;
    size_t carried = n_bytes - sizeof(frame);
    expect(frame.rank < (uint32_t)world && frame.bytes_each > 0);
    expect(frame.bytes_each * (uint64_t)world <= RANK_EXCHANGE_MOST_BYTES);
    expect(carried == frame.bytes_each || carried == frame.bytes_each * (uint64_t)world);
    struct rank_frame same = rank_frame_of((int)frame.rank, frame.number, frame.bytes_each);
    expect(memcmp(&frame, &same, sizeof(frame)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    if (n_bytes == 0)
        return 0;
    read_message(bytes + 1, n_bytes - 1);
    read_frame(bytes + 1, n_bytes - 1, 1 + bytes[0]);
    return 0;
}
