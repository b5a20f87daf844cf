/* What the sources of the options module share; nobody else includes it but its tests.
 *
 *   options.c          sources in order, lookup by name, origins
 *   option_value.c     text <-> value, limits, printing
 *   options_yaml.c     run files, dump
 *   options_argp.c     command line, --help
 *   options_command.c  sub-commands
 *   options_report.c   what programs ask afterwards: texts, origins, digest
 */
#ifndef IBOT_PROTO_CONFIG_OPTIONS_INTERNAL_H
#define IBOT_PROTO_CONFIG_OPTIONS_INTERNAL_H

#include "proto/config/options.h"

enum {
    OPTION_MAX_ELEMENTS = 64,     /* of a list */
    OPTION_MAX_TEXT_BYTES = 4096, /* of a string */
    OPTION_MAX_FILE_BYTES = 1 << 20,
};

/* Options that every program has; they follow the table's rows in numbering, and live in struct
 * options itself. */
enum builtin_option { BUILTIN_CONFIG, BUILTIN_RECIPE, BUILTIN_HELP, BUILTIN_VERSION, N_BUILTINS };

/* One scalar or list element. */
struct option_element {
    bool truth;
    int64_t integer; /* also the index of a choice */
    double real;
    const char *string;
};

struct option_value {
    struct option_element elements[OPTION_MAX_ELEMENTS];
    int32_t n;
};

/* Words as a source gives them. */
struct option_words {
    const char *words[OPTION_MAX_ELEMENTS];
    int n;
    bool null; /* YAML null: no string, an empty list */
    bool add;  /* to what the same source gave before: lists of strings */
};

size_t options_count(const struct options *options); /* rows and built-in ones */
const struct option_spec *options_spec(const struct options *options, size_t index);
bool options_offered(const struct options *options, size_t index); /* by this program */
void *options_base(const struct options *options, size_t index);   /* the struct of its field */
bool option_is_list(const struct option_spec *spec);

/* Index of a whole name or alias, - as _; SIZE_MAX when unknown. */
size_t options_find(const struct options *options, const char *name);
/* The same for a name that our own code uses: it must exist. */
size_t options_own_index(const struct options *options, const char *name);

/* "; did you mean '--lr'?" or "; see --help", with `prefix` before the name. Returns `out`. */
const char *options_hint(const struct options *options, const char *name, const char *prefix,
                         char *out, size_t n_bytes);

/* Reads the words as this option's value and stores it unless a stronger source has spoken; it is
 * checked in any case. Errors: STATUS_INVALID, STATUS_NO_MEMORY. */
enum status options_set(struct options *options, size_t index, const struct option_words *words,
                        struct option_origin origin) IBOT_WARN_UNUSED;

/* The same from one text: lists are cut at commas (numbers at blanks, too). */
enum status options_set_text(struct options *options, size_t index, const char *text, bool add,
                             struct option_origin origin) IBOT_WARN_UNUSED;

/* Keeps a copy of a string as long as the options live. */
enum status options_keep(struct options *options, const char **out,
                         const char *text) IBOT_WARN_UNUSED;

/* "command line", "run.yaml:12", "environment", "default". Returns `out`. */
const char *option_origin_text(struct option_origin origin, char *out, size_t n_bytes);

/* option_value.c */

/* Errors: STATUS_INVALID; `where` (an origin's text) is named in it. Strings are borrowed. */
enum status option_value_read(struct option_value *out, const struct option_spec *spec,
                              const struct option_words *words, const char *where) IBOT_WARN_UNUSED;
/* `base` is the struct that holds the field. */
void option_value_store(const struct option_spec *spec, void *base,
                        const struct option_value *value);
void option_value_load(struct option_value *out, const struct option_spec *spec, const void *base);

/* Prints one element as it would be typed, numbers so that they read back exactly. */
void option_element_print(FILE *out, const struct option_spec *spec,
                          const struct option_element *element);
/* "a whole number from 1 to 10 px": what is wanted. Returns `out`. */
const char *option_wanted_text(const struct option_spec *spec, char *out, size_t n_bytes);

/* options_yaml.c */
enum status options_read_yaml(struct options *options, const void *bytes, size_t n_bytes,
                              const char *path, enum option_source source) IBOT_WARN_UNUSED;
enum status options_read_file(struct options *options, const char *path,
                              enum option_source source) IBOT_WARN_UNUSED;

/* options_argp.c */
enum status options_read_command_line(struct options *options, int argc,
                                      char *const *argv) IBOT_WARN_UNUSED;
enum status options_print_help(struct options *options) IBOT_WARN_UNUSED;

#endif
