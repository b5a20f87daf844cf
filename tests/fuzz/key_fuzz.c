/* Any bytes as a list of keys. What is accepted must say the same again when it is written out. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/wire/key.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    struct key_list list = {0}, again = {0};
    char *text = NULL, hex[KEY_TEXT_BYTES];
    size_t n_text = 0;

    if (key_list_parse(&list, (const char *)bytes, n_bytes, "list") != STATUS_OK) {
        if (list.keys != NULL || list.n != 0)
            abort();
        return 0;
    }
    FILE *stream = open_memstream(&text, &n_text);
    if (stream == NULL)
        abort();
    for (size_t i = 0; i < list.n; i++)
        fprintf(stream, "%s %s\n", key_format(&list.keys[i].key, hex), list.keys[i].name);
    if (fclose(stream) != 0 || key_list_parse(&again, text, n_text, "again") != STATUS_OK ||
        again.n != list.n)
        abort();
    for (size_t i = 0; i < list.n; i++)
        if (memcmp(&list.keys[i], &again.keys[i], sizeof(list.keys[i])) != 0)
            abort();
    free(text);
    key_list_release(&list);
    key_list_release(&again);
    return 0;
}
