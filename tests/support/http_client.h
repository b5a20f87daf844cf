/* As much of HTTP as tests need: one request, one answer, on loopback. */
#ifndef IBOT_TESTS_SUPPORT_HTTP_CLIENT_H
#define IBOT_TESTS_SUPPORT_HTTP_CLIENT_H

/* Sends `request` ("GET /metrics" or the like) to "HOST:PORT" and reads to the end. Returns the
 * status code, 0 when there is no answer within ten seconds; *body (free it) is what follows the
 * header. */
int http_request(const char *address, const char *request, char **body);

/* A connection to "HOST:PORT" for what is no HTTP; -1 when there is none. */
int http_connect(const char *address);

#endif
