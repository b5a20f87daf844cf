/* Any bytes as the first frame of a message, as loaders and consumers read them. What is accepted
 * must say the same again after it was packed. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/wire/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    static struct message message, again;
    static uint8_t packed[MESSAGE_MAX_BYTES], packed_again[MESSAGE_MAX_BYTES];

    if (message_unpack(&message, bytes, n_bytes) != STATUS_OK)
        return 0;
    size_t n_packed = message_pack(&message, packed);
    if (message_unpack(&again, packed, n_packed) != STATUS_OK) {
        fprintf(stderr, "%s\n", status_message());
        abort();
    }
    if (message_pack(&again, packed_again) != n_packed ||
        memcmp(packed, packed_again, n_packed) != 0)
        abort();
    return 0;
}
