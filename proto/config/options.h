/* Options: one table per program, from which come the defaults, the command line, the run file, the
 * environment, --help, the dump in the run folder and the digest.
 *
 *   default  <  recipe  <  run file  <  environment (IBOT_NAME)  <  command line
 *
 *   struct walk_options { double speed; float ratios[8]; int32_t n_ratios; int gait; const char
 * *to; }; static const char *const gaits[] = {"walk", "run", NULL}; static const struct option_spec
 * specs[] = {
 *       {.name = "speed", .type = OPTION_DOUBLE, .offset = offsetof(struct walk_options, speed),
 *        .text = "1.4", .minimum = 0, .maximum = 12, .unit = "m/s", .group = "Pace", .help =
 * "pace"},
 *       {.name = "ratios", .type = OPTION_FLOAT_LIST, .offset = offsetof(struct walk_options,
 * ratios), .count_offset = offsetof(struct walk_options, n_ratios), .capacity = 8, .text = "0
 * 0.3"},
 *       {.name = "gait", .type = OPTION_CHOICE, .offset = offsetof(struct walk_options, gait),
 *        .choices = gaits, .text = "walk"},
 *       {.name = "to", .type = OPTION_STRING, .offset = offsetof(struct walk_options, to),
 *        .flags = OPTION_REQUIRED, .argument = "PLACE", .help = "where to go"},
 *   };
 *   static const struct options_program program = {
 *       .name = "walk", .summary = "Walk.", .specs = specs, .n_specs = 4, .run_file = true};
 *   …
 *   status = options_parse(&options, &program, &values, argc, argv);
 *   if (status != STATUS_OK) { log_error("%s", status_message()); exit code: status_exit_code }
 *   if (options.finished) exit code 0: --help or --version was printed
 *
 * On the command line `-` and `_` are the same in names, unambiguous beginnings of names will do,
 * values follow as `--lr 1e-3` or `--lr=1e-3`, lists as `--ratios 0 0.3`, `--ratios 0,0.3` or
 * `--ratios=0,0.3`, booleans as `--flag`, `--flag off`, `--flag=0` (on true yes 1, off false no 0).
 * A second mention replaces the first, but adds to a list of strings. A run file is a flat YAML
 * mapping. */
#ifndef IBOT_PROTO_CONFIG_OPTIONS_H
#define IBOT_PROTO_CONFIG_OPTIONS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum option_type {                    /* the field at `offset` is: */
                   OPTION_BOOL,       /* bool */
                   OPTION_INT32,      /* int32_t */
                   OPTION_INT64,      /* int64_t */
                   OPTION_FLOAT,      /* float; never infinite or NaN */
                   OPTION_DOUBLE,     /* double; the same */
                   OPTION_STRING,     /* const char *, NULL when there is none */
                   OPTION_CHOICE,     /* int or an enum: the index in `choices` */
                   OPTION_FLOAT_LIST, /* float[capacity], with an int32_t count at `count_offset` */
                   OPTION_STRING_LIST, /* const char *[capacity], the same */
};

enum option_flags {
    OPTION_REQUIRED = 1 << 0,          /* must be given by some source; lists: at least one value */
    OPTION_OUTSIDE_DIGEST = 1 << 1,    /* changes no result: folders, threads, ports, logging */
    OPTION_COMMAND_LINE_ONLY = 1 << 2, /* not in run files, environment, dump or digest */
    OPTION_UNDOCUMENTED = 1 << 3,      /* not in --help */
};

struct option_part;

struct option_spec {
    /* A table that stands here whole, as if its rows were written out, its fields from `offset` on.
     * Of the rest of this row three count: `group` and `text` (unless NULL) become the first row's,
     * `flags` are added to those of each. */
    const struct option_part *part;
    const char *name;  /* lower_snake, the official name where there is one */
    const char *alias; /* another accepted name, or NULL */
    enum option_type type;
    char letter;         /* short form, as in -o; 0 for none */
    size_t offset;       /* offsetof(struct …, field) */
    size_t count_offset; /* lists */
    int32_t capacity;    /* lists */
    const char *text;    /* default, as it would be typed; NULL: no string, an empty list; needed
                            for every other type */
    double minimum, maximum;    /* numbers and list elements, inclusive; both 0: no limits */
    const char *zero;           /* whole numbers: a word for 0, which the limits need not hold */
    const char *const *choices; /* OPTION_CHOICE: names, ended by NULL */
    const char *unit;           /* "px", "s", …: for --help and messages, or NULL */
    const char *argument;       /* what --help calls the value; NULL: by type */
    const char *group;          /* heading in --help and the dump; NULL: that of the row before */
    const char *help;
    unsigned flags; /* enum option_flags */
};

/* Rows that several programs have. */
struct option_part {
    const struct option_spec *specs;
    size_t n_specs;
};

struct options_program {
    const char *name;     /* "ibot-train"; "ibot-eval knn" for a sub-command */
    const char *summary;  /* what the program does: first lines of --help */
    const char *epilogue; /* last lines of --help: examples; or NULL */
    const struct option_spec *specs;
    size_t n_specs;
    const char *positional; /* what --help calls positional words: "DIR"; NULL: "ARG" */
    int min_positional, max_positional;
    bool run_file;              /* offers --config FILE (a run file) */
    const char *recipe_folders; /* offers --recipe NAME, found as FOLDER/NAME.yaml in these folders
                                   (parted by ':'); NULL: none */
};

enum option_source {
    OPTION_FROM_DEFAULT,
    OPTION_FROM_RECIPE,
    OPTION_FROM_RUN_FILE,
    OPTION_FROM_ENVIRONMENT,
    OPTION_FROM_COMMAND_LINE,
};

struct option_origin {
    enum option_source source;
    const char *file; /* recipe and run file: its path, owned by struct options */
    int line;
};

/* What was read. Immutable after options_parse; it owns every string in the caller's struct. */
struct options {
    const struct options_program *program; /* borrowed */
    struct option_spec *specs;             /* its table, parts written out */
    size_t n_specs;
    void *values;                  /* the caller's struct, borrowed */
    struct option_origin *origins; /* one per spec */
    const char *config, *recipe;   /* paths that were read, or NULL */
    const char **positional;
    int n_positional;
    bool finished; /* --help or --version was answered: the program has nothing more to do */
    bool wants_help, wants_version;
    char **texts; /* every string given out */
    size_t n_texts, texts_capacity, positional_capacity;
};

/* Fills `values` from all sources in order. Prints to stdout for --help and --version alone.
 * Errors: STATUS_INVALID with a text for the user (exit status 2), STATUS_NOT_FOUND or STATUS_IO
 * (run file), STATUS_NO_MEMORY. On failure nothing in `values` may be used; options is released. */
enum status options_parse(struct options *options, const struct options_program *program,
                          void *values, int argc, char *const *argv) IBOT_WARN_UNUSED;

/* For programs without a command line of their own (tests, tools): defaults, then one file and no
 * environment. Errors: as above. */
enum status options_parse_file(struct options *options, const struct options_program *program,
                               void *values, const char *path) IBOT_WARN_UNUSED;

/* Frees everything, the strings of `values` included. */
void options_release(struct options *options);

/* Picks a sub-command by argv[1]: parse the rest with argc - 1, argv + 1. *chosen is NULL when
 * --help or --version was answered. A command's own word is what follows the blank in its name.
 * Errors: STATUS_INVALID naming the nearest command. */
enum status options_command(const struct options_program **chosen, const char *program,
                            const char *summary, const struct options_program *const *commands,
                            size_t n_commands, int argc, char *const *argv) IBOT_WARN_UNUSED;

/* "--epochs 5 (run.yaml:12)": for messages about values that contradict each other. `name` must be
 * in the table. Returns `out`. */
const char *options_describe(const struct options *options, const char *name, char *out,
                             size_t n_bytes);

/* Whether any source but the default set it. */
bool options_is_set(const struct options *options, const char *name);

/* Every effective value as a run file that gives the same values back. Errors: STATUS_IO. */
enum status options_dump(const struct options *options, FILE *out) IBOT_WARN_UNUSED;

/* XXH3 over names and values, without those marked OPTION_OUTSIDE_DIGEST. Two runs with the same
 * digest were asked to compute the same thing. */
uint64_t options_digest(const struct options *options);

/* The effective value of one option as text ("0 0.3"), as it could be typed. Returns `out`. */
const char *options_text(const struct options *options, const char *name, char *out,
                         size_t n_bytes);

#ifdef __cplusplus
}
#endif

#endif
