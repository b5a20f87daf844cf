#include "proto/base/first_failure.h"

#include <stdio.h>

void first_failure_note(struct first_failure *failure, int64_t i, enum status status)
{
    if (status == STATUS_OK)
        return;
    pthread_mutex_lock(&failure->lock);
    if (i < failure->at) {
        failure->at = i;
        failure->status = status;
        snprintf(failure->text, sizeof(failure->text), "%s", status_message());
    }
    pthread_mutex_unlock(&failure->lock);
}

enum status first_failure_take(const struct first_failure *failure)
{
    return failure->status == STATUS_OK ? STATUS_OK
                                        : status_set(failure->status, "%s", failure->text);
}
