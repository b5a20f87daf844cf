/* The consumers that a loader is told to serve: tcp://host:5550-5557 stands for eight of them. */
#ifndef IBOT_PROTO_WIRE_ENDPOINT_LIST_H
#define IBOT_PROTO_WIRE_ENDPOINT_LIST_H

#include "proto/base/status.h"
#include "proto/wire/producer.h"

enum { ENDPOINT_LIST_TEXT_BYTES = 256 };

/* Zeroed is valid and empty. */
struct endpoint_list {
    int n;
    char texts[PRODUCER_MAX_ENDPOINTS][ENDPOINT_LIST_TEXT_BYTES];
};

/* Adds what one --connect says. Errors: STATUS_INVALID names the text. */
enum status endpoint_list_add(struct endpoint_list *list, const char *text) IBOT_WARN_UNUSED;

/* Points a producer to all of them; borrowed from the list. */
void endpoint_list_use(const struct endpoint_list *list, struct producer_options *out);

#endif
