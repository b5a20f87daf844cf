/* Paths are bytes; metadata and JSON are UTF-8. */
#ifndef IBOT_TRAINER_UTF8_TEXT_H
#define IBOT_TRAINER_UTF8_TEXT_H

#include <stddef.h>

/* bytes as text: what is no UTF-8 becomes \xNN, byte by byte; cut, between characters, where `size`
 * ends. Text that is UTF-8 stays as it is. Returns out. */
char *utf8_text(char *out, size_t size, const char *bytes);

#endif
