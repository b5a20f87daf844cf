#include "proto/wire/endpoint_list.h"

#include <stdio.h>
#include <string.h>

static enum status add_one(struct endpoint_list *list, const char *text, int n_text, long port)
{
    if (list->n == PRODUCER_MAX_ENDPOINTS)
        FAIL(STATUS_INVALID, "--connect: more than %d endpoints", PRODUCER_MAX_ENDPOINTS);
    char *out = list->texts[list->n];
    int length = port > 0 ? snprintf(out, ENDPOINT_LIST_TEXT_BYTES, "%.*s:%ld", n_text, text, port)
                          : snprintf(out, ENDPOINT_LIST_TEXT_BYTES, "%s", text);
    if (length >= ENDPOINT_LIST_TEXT_BYTES)
        FAIL(STATUS_INVALID, "--connect: endpoint '%s' is too long", text);
    list->n++;
    return STATUS_OK;
}

enum status endpoint_list_add(struct endpoint_list *list, const char *text)
{
    const char *colon = strrchr(text, ':');
    long first = 0, last = 0;
    char rest;

    if (strncmp(text, "tcp://", 6) != 0 || colon == NULL ||
        sscanf(colon + 1, "%ld-%ld%c", &first, &last, &rest) != 2)
        return add_one(list, text, 0, 0);
    if (first < 1 || last < first || last > 65535)
        FAIL(STATUS_INVALID, "--connect %s: wanted ports FIRST-LAST within 1 to 65535", text);
    for (long port = first; port <= last; port++)
        TRY(add_one(list, text, (int)(colon - text), port));
    return STATUS_OK;
}

void endpoint_list_use(const struct endpoint_list *list, struct producer_options *out)
{
    for (int i = 0; i < list->n; i++)
        out->endpoints[i] = list->texts[i];
    out->n_endpoints = list->n;
}
