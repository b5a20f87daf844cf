/* A stream for tests: samples that are a formula instead of images, a consumer and loaders in this
 * process, loaders in processes of their own (to be killed), and raw connections that say what they
 * like. */
#ifndef IBOT_TESTS_PROTO_WIRE_FLEET_H
#define IBOT_TESTS_PROTO_WIRE_FLEET_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/base/queue.h"
#include "proto/wire/consumer.h"
#include "proto/wire/message.h"
#include "proto/wire/producer.h"

enum { FLEET_SAMPLES = 1003, FLEET_CLASSES = 10, FLEET_MAX_THREADS = 4 };

/* What the loaders have. */
struct dataset_info fleet_dataset(void);

/* Small crops of two sizes, and a mask grid of 3 x 3. */
struct data_spec fleet_spec(void);

/* The sample at a position, and its image record. */
struct batch_sample fleet_sample(int32_t epoch, uint64_t position);
void fleet_record(const struct data_spec *spec, int32_t epoch, uint64_t position, uint8_t *out);

/* A whole batch as the consumer must hand it on; compares every byte and the digest. */
void fleet_check_batch(const struct data_spec *spec, const struct batch *batch, int32_t rank,
                       int32_t world, int64_t first_local);

/* ---- a consumer in this process; what fails ends the test, every wait after a minute ---- */

enum { FLEET_BATCH = 16, FLEET_SLICE = 4 };

/* One rank of one, with batches of that size, the last one dropped. */
struct consumer_options fleet_consumer_options(const char *endpoint);
struct consumer *fleet_consumer_open(const struct consumer_options *options);

/* Waits for a loader, then begins. */
void fleet_consumer_start(struct consumer *consumer, int64_t step, int32_t n_epochs);
struct batch *fleet_next(struct consumer *consumer);

/* Takes steps [first, first + n), which are one rank's of one, and compares every byte. */
void fleet_check_batches(struct consumer *consumer, const struct data_spec *spec, int64_t first,
                         int64_t n);

/* ---- a loader in this process ---- */

struct fleet_options {
    const char *endpoints[4];
    int n_endpoints, n_threads, credit;
    struct dataset_info dataset; /* n_samples 0: fleet_dataset() */
    uint64_t self_test;
    bool exit_when_done;
    bool reports_bad_images;     /* says of every index that is a multiple of 100 that it was bad */
    int64_t fail_position;       /* this position cannot be made; -1: none */
    const struct key_pair *keys; /* NULL: none */
    const struct key *server_key;
};

struct fleet_loader {
    struct fleet_options options;
    struct producer *producer;
    struct queue *jobs;
    pthread_t run_thread, threads[FLEET_MAX_THREADS];
    atomic_int stop;
    bool joined;
    enum status result; /* of producer_run, after join */
    char text[512];
    pthread_mutex_t lock;
    pthread_cond_t noticed;
    char notices[8192]; /* guarded by lock: what it would log, a line each */
};

struct fleet_options fleet_options(const char *endpoint);
struct fleet_loader *fleet_loader_open(const struct fleet_options *options);
struct fleet_loader *
fleet_loader_open_sound(struct consumer *consumer);         /* for its first endpoint */
enum status fleet_loader_join(struct fleet_loader *loader); /* waits until producer_run returns */
void fleet_loader_close(struct fleet_loader **loader);      /* asks it to stop first */

/* Waits until it has said this in a notice; fails the test after a minute. */
void fleet_loader_expect(struct fleet_loader *loader, const char *text);

/* ---- a loader in a process of its own ---- */

/* Starts bin/fleet_loader for the endpoints; it never ends by itself. */
pid_t fleet_spawn(const char *endpoint, const char *second_endpoint);
void fleet_kill(pid_t pid);

/* ---- a raw connection ---- */

struct raw_peer {
    void *context, *socket;
    uint64_t session;
    struct data_spec spec;
    struct message in, out;
};

void raw_peer_open(struct raw_peer *peer, const char *endpoint);
void raw_peer_close(struct raw_peer *peer);

/* Sends peer->out and frames after it; frames[i] NULL ends them. */
struct raw_frame {
    const void *data;
    size_t n_bytes;
};
void raw_peer_send(struct raw_peer *peer, const struct raw_frame *frames, int n_frames);

/* Waits for the next message of this kind, leaving out others; false after a minute. */
bool raw_peer_receive(struct raw_peer *peer, enum message_kind kind);

/* Fills peer->out with a sound Hello. */
void raw_peer_hello(struct raw_peer *peer, int32_t credit);

/* Says a sound Hello and waits for the Spec. */
void raw_peer_join(struct raw_peer *peer, int32_t credit);

/* Fills peer->out with a sound header for a lease and `payload` (n_samples records) with its
 * pixels. */
void raw_peer_make(struct raw_peer *peer, const struct lease_item *lease, uint8_t *payload);

#endif
