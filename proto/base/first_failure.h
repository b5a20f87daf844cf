/* The failure of a loop that several threads share: of all that failed, the one that comes first in
 * the loop, whichever thread had it and whenever, so that every run says the same.
 *
 *   struct first_failure failure = FIRST_FAILURE_NONE;
 *   #pragma omp parallel for
 *   for (int64_t i = 0; i < n; i++)
 *       first_failure_note(&failure, i, one(i));
 *   return first_failure_take(&failure);
 */
#ifndef IBOT_PROTO_BASE_FIRST_FAILURE_H
#define IBOT_PROTO_BASE_FIRST_FAILURE_H

#include <pthread.h>
#include <stdint.h>

#include "proto/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct first_failure {
    pthread_mutex_t lock;
    int64_t at;
    enum status status;
    char text[1024];
};

#define FIRST_FAILURE_NONE                                                                         \
    {                                                                                              \
        .lock = PTHREAD_MUTEX_INITIALIZER, .at = INT64_MAX, .status = STATUS_OK                    \
    }

/* What came of turn i, whose text is still this thread's status_message(). Any thread. */
void first_failure_note(struct first_failure *failure, int64_t i, enum status status);

/* After the loop: its first failure as this thread's own, or STATUS_OK. */
enum status first_failure_take(const struct first_failure *failure) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
