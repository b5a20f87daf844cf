/* An allowance that fills with time, for each connection in a table. */
#include "proto/wire/strangers.h"

#include "proto/base/hash.h"

static const int64_t refill_ns = 1000000000 / STRANGERS_PER_SECOND; /* one more message */

bool strangers_hear(struct strangers *strangers, const uint8_t *name, size_t n_name, int64_t now_ns)
{
    uint64_t connection = hash_bytes(name, n_name);
    struct stranger *one = &strangers->kept[connection % STRANGERS_KEPT];
    int64_t from_ns = now_ns - (STRANGERS_BURST - 1) * refill_ns; /* its allowance is full */

    if (one->credit_ns == 0 || one->connection != connection)
        *one = (struct stranger){.connection = connection, .credit_ns = from_ns};
    if (one->credit_ns > now_ns)
        return false;
    one->credit_ns = (one->credit_ns > from_ns ? one->credit_ns : from_ns) + refill_ns;
    return true;
}
