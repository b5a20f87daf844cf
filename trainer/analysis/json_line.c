#include "trainer/analysis/json_line.h"

#include <stdio.h>

enum status json_line_print(json_t *json)
{
    bool printed = json != NULL &&
                   json_dumpf(json, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0 &&
                   putchar('\n') != EOF;

    json_decref(json);
    if (!printed)
        FAIL(STATUS_IO, "the result can't be written as JSON");
    return STATUS_OK;
}

json_t *json_line_path(const char *path)
{
    json_t *json = json_string(path);

    return json != NULL ? json : json_null();
}
