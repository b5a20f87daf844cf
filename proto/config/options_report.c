/* What programs ask about values that were read: texts, origins, the digest. */
#include <string.h>

#include "proto/base/hash.h"
#include "proto/config/options_internal.h"

/* Name and value of one row as "0 0.3" onto a stream. */
static void print_value(const struct options *options, size_t index, FILE *out)
{
    const struct option_spec *spec = options_spec(options, index);
    struct option_value value;

    option_value_load(&value, spec, options_base(options, index));
    for (int32_t i = 0; i < value.n; i++) {
        if (i > 0)
            fputc(spec->type == OPTION_STRING_LIST ? ',' : ' ', out);
        option_element_print(out, spec, &value.elements[i]);
    }
}

const char *options_text(const struct options *options, const char *name, char *out, size_t n_bytes)
{
    FILE *text = fmemopen(out, n_bytes, "w");

    CHECK(text != NULL, "no stream for a text of %zu bytes", n_bytes);
    out[0] = '\0';
    print_value(options, options_own_index(options, name), text);
    fclose(text);
    out[n_bytes - 1] = '\0';
    return out;
}

const char *options_describe(const struct options *options, const char *name, char *out,
                             size_t n_bytes)
{
    struct option_origin origin = options->origins[options_own_index(options, name)];
    char value[512], where[512];

    snprintf(out, n_bytes, "--%s %s (%s)", name, options_text(options, name, value, sizeof(value)),
             option_origin_text(origin, where, sizeof(where)));
    return out;
}

bool options_is_set(const struct options *options, const char *name)
{
    return options->origins[options_own_index(options, name)].source != OPTION_FROM_DEFAULT;
}

uint64_t options_digest(const struct options *options)
{
    uint64_t digest = 0;

    for (size_t i = 0; i < options->n_specs; i++) {
        const struct option_spec *spec = options_spec(options, i);
        struct option_value value;
        if (spec->flags & (OPTION_OUTSIDE_DIGEST | OPTION_COMMAND_LINE_ONLY))
            continue;
        digest = hash_bytes_seeded(spec->name, strlen(spec->name) + 1, digest);
        option_value_load(&value, spec, options->values);
        digest = hash_bytes_seeded(&value.n, sizeof(value.n), digest);
        for (int32_t k = 0; k < value.n; k++) {
            char text[OPTION_MAX_TEXT_BYTES + 2] = "";
            FILE *stream = fmemopen(text, sizeof(text), "w");
            CHECK(stream != NULL, "no stream for an option's text");
            option_element_print(stream, spec, &value.elements[k]);
            fclose(stream);
            digest = hash_bytes_seeded(text, strlen(text) + 1, digest);
        }
    }
    return digest;
}
