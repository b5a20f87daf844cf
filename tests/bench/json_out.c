#include "tests/bench/json_out.h"

#include <inttypes.h>
#include <math.h>

#include "proto/base/status.h"

static void quote(struct json_out *json, const char *text)
{
    fputc('"', json->file);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20)
            fprintf(json->file, "\\u%04x", c);
        else if (c == '"' || c == '\\')
            fprintf(json->file, "\\%c", c);
        else
            fputc(c, json->file);
    }
    fputc('"', json->file);
}

static void begin(struct json_out *json, const char *name)
{
    if (json->depth > 0 && json->any[json->depth - 1])
        fputs(", ", json->file);
    if (json->depth > 0)
        json->any[json->depth - 1] = true;
    if (name == NULL)
        return;
    quote(json, name);
    fputs(": ", json->file);
}

static void open_with(struct json_out *json, const char *name, char open, char close)
{
    begin(json, name);
    CHECK(json->depth < JSON_OUT_DEPTH, "JSON nested %d deep", json->depth);
    fputc(open, json->file);
    json->any[json->depth] = false;
    json->close[json->depth++] = close;
}

void json_object(struct json_out *json, const char *name)
{
    open_with(json, name, '{', '}');
}

void json_list(struct json_out *json, const char *name)
{
    open_with(json, name, '[', ']');
}

void json_end(struct json_out *json)
{
    CHECK(json->depth > 0, "nothing is open");
    fputc(json->close[--json->depth], json->file);
    if (json->depth == 0)
        fputc('\n', json->file);
}

void json_number(struct json_out *json, const char *name, double value)
{
    begin(json, name);
    if (isfinite(value))
        fprintf(json->file, "%.8g", value);
    else
        fputs("null", json->file);
}

void json_integer(struct json_out *json, const char *name, int64_t value)
{
    begin(json, name);
    fprintf(json->file, "%" PRId64, value);
}

void json_bool(struct json_out *json, const char *name, bool value)
{
    begin(json, name);
    fputs(value ? "true" : "false", json->file);
}

void json_text(struct json_out *json, const char *name, const char *value)
{
    begin(json, name);
    if (value == NULL)
        fputs("null", json->file);
    else
        quote(json, value);
}
