/* A loader that makes nothing: it allocates, hashes and sends slices with pixels as they lie in
 * memory and masks of zeros. In a process of its own, for benchmarks of what takes slices in. */
#ifndef IBOT_TESTS_BENCH_STAND_IN_LOADER_H
#define IBOT_TESTS_BENCH_STAND_IN_LOADER_H

#include <sys/types.h>

#include "proto/wire/producer.h"

/* Ends the process, with the message on stderr, unless all is well. */
void bench_stop_on(enum status status);

/* Processor time of this process. */
double bench_cpu_seconds(void);

/* Serves the endpoint until its process is killed, at the latest with the one that called. keys and
 * server_key: NULL, or those of an encrypted endpoint. To be called before there are threads: it
 * forks. */
pid_t stand_in_loader_start(const char *endpoint, int32_t credit, const struct key_pair *keys,
                            const struct key *server_key);

#endif
