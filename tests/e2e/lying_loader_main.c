/* A loader that is wrong in every way there is, for tests: lying_loader DATA ENDPOINT SEED. It
 * introduces itself as a sound one, with the true data set and self test, answers each lease with
 * some lie, and comes back under another name when it is refused. Ends with SIGTERM, printing how
 * often it was refused. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <zmq.h>

#include "loader/index.h"
#include "loader/order.h"
#include "loader/self_test.h"
#include "loader/view.h"
#include "proto/base/clock.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "proto/base/rng.h"
#include "proto/config/stop.h"
#include "proto/wire/message.h"

enum lie {
    LIE_PIXEL,   /* a bit of an image is not what was hashed */
    LIE_HASH,    /* a hash is not the image's */
    LIE_PLACE,   /* positions that nobody asked for */
    LIE_SHORT,   /* an image too few */
    LIE_TORN,    /* half an image */
    LIE_SPEC,    /* made by another specification */
    LIE_LABEL,   /* a class that there is not */
    LIE_LEASE,   /* a slice that it has no lease for */
    LIE_GARBAGE, /* no message at all */
    LIE_FAILURE, /* says that it can't */
    LIE_ROLE,    /* what only consumers say */
    LIE_SILENCE, /* takes the lease and says nothing */
    LIE_TRUTH,   /* a good slice: it must be taken, too */
    N_LIES
};

struct liar {
    struct index index;
    struct order *order;
    struct view_maker maker;
    struct message in, out;
    struct message_hello hello;
    struct data_spec spec;
    uint64_t session;
    struct rng rng;
    void *context, *socket;
    const char *endpoint;
    uint8_t *payload;
    size_t payload_bytes;
    uint64_t n_lies[N_LIES], n_refused;
};

static void connect_again(struct liar *liar)
{
    int linger = 0;

    if (liar->socket != NULL)
        zmq_close(liar->socket);
    liar->socket = zmq_socket(liar->context, ZMQ_DEALER);
    zmq_setsockopt(liar->socket, ZMQ_LINGER, &linger, sizeof(linger));
    if (zmq_connect(liar->socket, liar->endpoint) != 0)
        exit(2);
}

static void say(struct liar *liar, enum message_kind kind, const uint8_t *payload, size_t n_bytes)
{
    static uint8_t bytes[MESSAGE_MAX_BYTES];

    liar->out.kind = kind;
    liar->out.session = kind == MESSAGE_HELLO ? 0 : liar->session;
    size_t n = message_pack(&liar->out, bytes);
    zmq_send(liar->socket, bytes, n, ZMQ_DONTWAIT | (payload != NULL ? ZMQ_SNDMORE : 0));
    if (payload != NULL)
        zmq_send(liar->socket, payload, n_bytes, ZMQ_DONTWAIT);
}

/* Another process, as far as anybody can see. */
static void introduce(struct liar *liar)
{
    connect_again(liar);
    liar->hello.instance =
        (uint64_t)rng_below(&liar->rng, UINT32_MAX) << 32 | rng_below(&liar->rng, UINT32_MAX);
    liar->hello.credit = 1 + (int32_t)rng_below(&liar->rng, 16);
    liar->session = 0;
    liar->out.hello = liar->hello;
    say(liar, MESSAGE_HELLO, NULL, 0);
}

/* The slice as it should be; false when that fails. */
static bool make(struct liar *liar, const struct lease_item *lease)
{
    struct message_slice *slice = &liar->out.slice;
    size_t record = data_spec_record_bytes(&liar->spec), n = (size_t)lease->n_samples;

    if (memory_grow(&liar->payload, &liar->payload_bytes, n * record, 1, "payload") != STATUS_OK)
        return false;
    slice->lease = *lease;
    slice->spec_digest = data_spec_digest(&liar->spec);
    slice->n_bad_images = 0;
    for (size_t i = 0; i < n; i++) {
        struct batch_sample sample;
        uint8_t *out = liar->payload + i * record;
        if (view_make(&liar->maker, &liar->spec, lease->epoch,
                      lease->first_position + (uint64_t)i * lease->stride, out, &sample, NULL,
                      NULL) != STATUS_OK)
            return false;
        slice->index[i] = sample.index;
        slice->label[i] = sample.label;
        slice->n_substituted[i] = sample.n_substituted;
        slice->n_repaired[i] = sample.n_repaired;
        slice->hash[i] = hash_bytes(out, record);
    }
    return true;
}

static void answer(struct liar *liar, const struct lease_item *lease)
{
    enum lie lie = (enum lie)rng_below(&liar->rng, N_LIES);
    struct message_slice *slice = &liar->out.slice;
    size_t record = data_spec_record_bytes(&liar->spec);
    size_t n_bytes = (size_t)lease->n_samples * record;
    uint32_t which = rng_below(&liar->rng, (uint32_t)lease->n_samples);
    uint8_t noise[256];

    liar->n_lies[lie]++;
    if (lie == LIE_SILENCE)
        return;
    if (lie == LIE_FAILURE) {
        liar->out.failure.slice_id = lease->slice_id;
        strcpy(liar->out.failure.reason, "the disk is gone, or so it says");
        say(liar, MESSAGE_FAILURE, NULL, 0);
        return;
    }
    if (lie == LIE_ROLE) {
        say(liar, MESSAGE_FINISHED, NULL, 0);
        return;
    }
    if (lie == LIE_GARBAGE) {
        for (size_t i = 0; i < sizeof(noise); i++)
            noise[i] = (uint8_t)rng_below(&liar->rng, 256);
        zmq_send(liar->socket, noise, sizeof(noise), ZMQ_DONTWAIT);
        return;
    }
    if (!make(liar, lease))
        return;
    if (lie == LIE_PIXEL)
        liar->payload[rng_below(&liar->rng, (uint32_t)n_bytes)] ^= 1;
    if (lie == LIE_HASH)
        slice->hash[which]++;
    if (lie == LIE_PLACE)
        slice->lease.first_position++;
    if (lie == LIE_SHORT)
        n_bytes -= record;
    if (lie == LIE_TORN)
        n_bytes -= record / 2;
    if (lie == LIE_SPEC)
        slice->spec_digest ^= 1;
    if (lie == LIE_LABEL)
        slice->label[which] = liar->hello.n_classes;
    if (lie == LIE_LEASE)
        slice->lease.slice_id += 1000;
    say(liar, MESSAGE_SLICE, liar->payload, n_bytes);
}

static void handle(struct liar *liar)
{
    switch (liar->in.kind) {
    case MESSAGE_SPEC:
        liar->session = liar->in.session;
        liar->spec = liar->in.spec.data_spec;
        break;
    case MESSAGE_LEASE:
        for (int32_t i = 0; i < liar->in.lease.n_items && liar->session != 0; i++)
            answer(liar, &liar->in.lease.items[i]);
        break;
    case MESSAGE_REJECT:
        liar->n_refused++;
        introduce(liar);
        break;
    case MESSAGE_HELLO_WANTED:
    case MESSAGE_GOODBYE:
        introduce(liar);
        break;
    default:
        if (liar->session != 0)
            say(liar, MESSAGE_ALIVE, NULL, 0);
        break;
    }
}

static enum status run(struct liar *liar, const char *data, const atomic_int *stop)
{
    TRY(index_load(&liar->index, data, NULL, NULL, NULL));
    TRY(order_open(&liar->order, (uint32_t)liar->index.header->n_samples));
    TRY(view_maker_open(&liar->maker, &liar->index, liar->order));
    liar->hello = (struct message_hello){
        .version = WIRE_VERSION,
        .attempt = 1,
        .index_digest = liar->index.header->digest,
        .n_samples = liar->index.header->n_samples,
        .n_classes = (int32_t)liar->index.header->n_classes,
        .n_threads = 1,
        .name = "liar",
    };
    TRY(self_test_pixels(&liar->hello.self_test));
    liar->context = zmq_ctx_new();
    introduce(liar);
    int64_t heard_ns = clock_monotonic_ns();
    while (atomic_load(stop) == 0) {
        zmq_pollitem_t item = {.socket = liar->socket, .events = ZMQ_POLLIN};
        zmq_msg_t part;
        int64_t now_ns = clock_monotonic_ns();
        if (zmq_poll(&item, 1, 50) <= 0) {
            if (now_ns - heard_ns > 1000000000) { /* the consumer is gone, or was restarted */
                heard_ns = now_ns;
                introduce(liar);
            }
            continue;
        }
        heard_ns = now_ns;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, liar->socket, ZMQ_DONTWAIT) >= 0 &&
            message_unpack(&liar->in, zmq_msg_data(&part), zmq_msg_size(&part)) == STATUS_OK)
            handle(liar);
        zmq_msg_close(&part);
    }
    return STATUS_OK;
}

int main(int argc, char **argv)
{
    static struct liar liar;
    const atomic_int *stop = stop_on_signals();

    if (argc != 4 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        return 2;
    liar.endpoint = argv[2];
    liar.rng = rng_open((struct rng_key){.seed = strtoull(argv[3], NULL, 10), .purpose = RNG_TEST});
    enum status status = run(&liar, argv[1], stop);
    if (status != STATUS_OK)
        fprintf(stderr, "lying_loader: %s\n", status_message());
    uint64_t n = 0;
    for (int i = 0; i < N_LIES; i++)
        n += liar.n_lies[i];
    printf("%llu slices answered, %llu of them well; refused %llu times\n", (unsigned long long)n,
           (unsigned long long)liar.n_lies[LIE_TRUTH], (unsigned long long)liar.n_refused);
    if (liar.socket != NULL)
        zmq_close(liar.socket);
    if (liar.context != NULL)
        zmq_ctx_term(liar.context);
    memory_free(liar.payload);
    view_maker_close(&liar.maker);
    order_close(&liar.order);
    index_close(&liar.index);
    return status == STATUS_OK ? 0 : 1;
}
