/* The command line, through GNU argp, and --help, which argp formats from the same table. Before
 * argp sees the words, every `--name` is replaced by the table's own spelling (so `-` and `_` are
 * the same), and an unknown one is refused with the nearest known name. Lists and booleans then
 * take the words that follow them. */
#include "proto/config/options_internal.h"

#include <argp.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "proto/base/memory.h"

enum { FIRST_KEY = 1000 }; /* argp keys of options without a letter: above every character */

struct command_line {
    struct options *options;
    struct argp_option *rows;
    char **words; /* argv with names replaced; the ones we made are kept by the options */
    enum status status;
};

/* Whether a word can only be an option: -x, --name; not -, -3, -.5. */
static bool is_option_word(const char *word)
{
    return word[0] == '-' && word[1] != '\0' && !isdigit((unsigned char)word[1]) && word[1] != '.';
}

static bool is_bool_word(const char *word)
{
    static const char *const words[] = {"on", "off", "true", "false", "yes", "no", "1", "0"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcasecmp(word, words[i]) == 0)
            return true;
    return false;
}

/* Whether `name` is the beginning of an option's name or alias. */
static bool begins(const char *full, const char *name)
{
    for (; *name != '\0'; full++, name++)
        if (*full == '\0' || (*full == '-' ? '_' : *full) != (*name == '-' ? '_' : *name))
            return false;
    return true;
}

/* The option that a name on the command line means: whole, or an unambiguous beginning. */
static enum status resolve(const struct options *options, const char *name, size_t *out)
{
    size_t found = options_find(options, name);
    char hint[256];

    for (size_t i = 0; found == SIZE_MAX && name[0] != '\0' && i < options_count(options); i++) {
        const struct option_spec *spec = options_spec(options, i);
        if (!options_offered(options, i))
            continue;
        if (!begins(spec->name, name) && (spec->alias == NULL || !begins(spec->alias, name)))
            continue;
        for (size_t k = i + 1; k < options_count(options); k++) {
            const struct option_spec *other = options_spec(options, k);
            if (options_offered(options, k) &&
                (begins(other->name, name) || (other->alias != NULL && begins(other->alias, name))))
                FAIL(STATUS_INVALID, "--%s can mean --%s or --%s; write it out", name, spec->name,
                     other->name);
        }
        found = i;
    }
    if (found == SIZE_MAX)
        FAIL(STATUS_INVALID, "unknown option '--%.100s'; %s", name,
             options_hint(options, name, "--", hint, sizeof(hint)));
    *out = found;
    return STATUS_OK;
}

/* --warmup-ep=5 becomes --warmup_epochs=5. */
static enum status spell_names(struct command_line *line, int argc, char *const *argv)
{
    char name[128];
    const char *kept;
    char *text;
    size_t index = 0;

    for (int i = 0; i < argc; i++)
        line->words[i] = argv[i];
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strncmp(argv[i], "--", 2) != 0)
            continue;
        const char *rest = argv[i] + 2;
        size_t length = strcspn(rest, "=");
        if (length == 0 || length >= sizeof(name))
            FAIL(STATUS_INVALID, "'%.100s' is not an option; see %s --help", argv[i],
                 line->options->program->name);
        snprintf(name, sizeof(name), "%.*s", (int)length, rest);
        TRY(resolve(line->options, name, &index));
        const struct option_spec *spec = options_spec(line->options, index);
        size_t n_bytes = strlen(spec->name) + strlen(rest + length) + 3;
        TRY(memory_alloc(&text, n_bytes, 1, "command line"));
        snprintf(text, n_bytes, "--%s%s", spec->name, rest + length);
        enum status status = options_keep(line->options, &kept, text);
        memory_free(text);
        TRY(status);
        line->words[i] = (char *)kept;
    }
    return STATUS_OK;
}

/* `--ratios 0 0.3`: the list goes on until the next option. */
static enum status take_list(struct command_line *line, size_t index, const char *first,
                             struct argp_state *state)
{
    static const struct option_origin origin = {.source = OPTION_FROM_COMMAND_LINE};
    bool joined = state->next >= 1 && state->argv[state->next - 1] != first; /* --ratios=… */
    bool strings = options_spec(line->options, index)->type == OPTION_STRING_LIST;

    /* A second mention replaces numbers, the words of one mention add up. */
    struct option_words none = {.null = true};
    if (!strings || line->options->origins[index].source != OPTION_FROM_COMMAND_LINE)
        TRY(options_set(line->options, index, &none, origin));
    size_t n_bytes = strlen(first) + 1;
    for (int i = state->next; !joined && i < state->argc && !is_option_word(state->argv[i]); i++)
        n_bytes += strlen(state->argv[i]) + 1;
    char *text;
    TRY(memory_alloc(&text, n_bytes, 1, "command line"));
    strcpy(text, first);
    while (!joined && state->next < state->argc && !is_option_word(state->argv[state->next])) {
        strcat(text, ",");
        strcat(text, state->argv[state->next++]);
    }
    enum status status = options_set_text(line->options, index, text, true, origin);
    memory_free(text);
    return status;
}

static enum status take_option(struct command_line *line, size_t index, const char *value,
                               struct argp_state *state)
{
    static const struct option_origin origin = {.source = OPTION_FROM_COMMAND_LINE};
    const struct option_spec *spec = options_spec(line->options, index);

    if (spec->type == OPTION_BOOL) {
        bool follows = value == NULL && state->next < state->argc &&
                       index < line->options->n_specs && is_bool_word(state->argv[state->next]);
        if (follows)
            value = state->argv[state->next++];
        return options_set_text(line->options, index, value != NULL ? value : "true", false,
                                origin);
    }
    /* getopt takes any word as the value; one that looks like an option is a forgotten value. */
    if (state->argv[state->next - 1] == value && is_option_word(value))
        FAIL(STATUS_INVALID, "--%s needs a value, but '%s' follows", spec->name, value);
    if (option_is_list(spec))
        return take_list(line, index, value, state);
    return options_set_text(line->options, index, value, false, origin);
}

static enum status take_positional(struct options *options, const char *word)
{
    const struct options_program *program = options->program;

    if (options->n_positional >= program->max_positional)
        FAIL(STATUS_INVALID, "unexpected word '%.200s'; see %s --help", word, program->name);
    TRY(memory_grow(&options->positional, &options->positional_capacity,
                    (size_t)options->n_positional + 1, sizeof(*options->positional), "options"));
    TRY(options_keep(options, &options->positional[options->n_positional], word));
    options->n_positional++;
    return STATUS_OK;
}

static error_t take_key(int key, char *value, struct argp_state *state)
{
    struct command_line *line = state->input;
    struct options *options = line->options;

    if (key == ARGP_KEY_ARG) {
        line->status = take_positional(options, value);
    } else if (key > 0 && key < ARGP_KEY_END) {
        for (size_t i = 0; i < options_count(options); i++) {
            const struct option_spec *spec = options_spec(options, i);
            if (options_offered(options, i) &&
                key == (spec->letter != 0 ? spec->letter : FIRST_KEY + (int)i)) {
                line->status = take_option(line, i, value, state);
                break;
            }
        }
    } else {
        return ARGP_ERR_UNKNOWN;
    }
    if (options->wants_help || options->wants_version)
        state->next = state->argc; /* nothing after it matters */
    return line->status == STATUS_OK ? 0 : EINVAL;
}

static const char *argument_name(const struct option_spec *spec)
{
    static const char *const names[] = {
        [OPTION_BOOL] = "on|off", [OPTION_INT32] = "N",         [OPTION_INT64] = "N",
        [OPTION_FLOAT] = "X",     [OPTION_DOUBLE] = "X",        [OPTION_STRING] = "TEXT",
        [OPTION_CHOICE] = "NAME", [OPTION_FLOAT_LIST] = "X...", [OPTION_STRING_LIST] = "TEXT...",
    };
    return spec->argument != NULL ? spec->argument : names[spec->type];
}

/* Help text, unit or choices, default: one paragraph that argp wraps. */
static enum status row_text(struct options *options, const struct option_spec *spec,
                            const char **out)
{
    char text[2048], default_text[160] = "", what[600] = "";

    if (spec->type == OPTION_CHOICE)
        option_wanted_text(spec, what, sizeof(what));
    else if (spec->unit != NULL)
        snprintf(what, sizeof(what), "%s", spec->unit);
    if (spec->text != NULL && spec->text[0] != '\0')
        snprintf(default_text, sizeof(default_text), "default: %s", spec->text);
    const char *gap = what[0] != '\0' && default_text[0] != '\0' ? "; " : "";
    bool details = what[0] != '\0' || default_text[0] != '\0';
    snprintf(text, sizeof(text), "%s%s%s%s%s%s", spec->help != NULL ? spec->help : "",
             details ? " (" : "", what, gap, default_text, details ? ")" : "");
    return options_keep(options, out, text);
}

/* argp's table: headings, options, aliases, the end. */
static enum status build_rows(struct command_line *line)
{
    struct options *options = line->options;
    size_t n = options_count(options), n_rows = 0;
    int group = 0;

    TRY(memory_alloc(&line->rows, 3 * n + 2, sizeof(*line->rows), "command line"));
    for (size_t i = 0; i < n; i++) {
        const struct option_spec *spec = options_spec(options, i);
        const char *heading = i == options->n_specs ? "General" : spec->group;
        if (heading != NULL) {
            const char *text;
            char with_colon[160];
            snprintf(with_colon, sizeof(with_colon), "%s:", heading);
            TRY(options_keep(options, &text, with_colon));
            line->rows[n_rows++] = (struct argp_option){.doc = text, .group = ++group};
        }
        if (!options_offered(options, i))
            continue;
        bool flag = spec->type == OPTION_BOOL;
        bool builtin = i >= options->n_specs;
        struct argp_option *row = &line->rows[n_rows++];
        *row = (struct argp_option){
            .name = spec->name,
            .key = spec->letter != 0 ? spec->letter : FIRST_KEY + (int)i,
            .arg = flag && builtin ? NULL : argument_name(spec),
            .flags = (flag && !builtin ? OPTION_ARG_OPTIONAL : 0) |
                     (spec->flags & OPTION_UNDOCUMENTED ? OPTION_HIDDEN : 0),
            .group = group,
        };
        TRY(row_text(options, spec, &row->doc));
        if (spec->alias != NULL)
            line->rows[n_rows++] =
                (struct argp_option){.name = spec->alias, .flags = OPTION_ALIAS, .group = group};
    }
    return STATUS_OK;
}

/* Whether the program has an option of this letter; *out is its row. */
static bool find_letter(const struct options *options, char letter, size_t *out)
{
    for (size_t i = 0; i < options_count(options); i++)
        if (options_offered(options, i) && options_spec(options, i)->letter == letter) {
            *out = i;
            return true;
        }
    return false;
}

/* What getopt itself could not place: an unknown letter, a missing value, or one too many. */
static enum status explain(const struct options *options, int argc, char *const *words)
{
    const char *last = words[argc - 1];
    size_t index = 0;
    char name[128];

    for (int i = 1; i < argc && strcmp(words[i], "--") != 0; i++) {
        const char *word = words[i];
        size_t length = strcspn(word, "=");
        if (word[0] == '-' && isalpha((unsigned char)word[1])) {
            if (!find_letter(options, word[1], &index))
                FAIL(STATUS_INVALID, "unknown option '%.100s'; see %s --help", word,
                     options->program->name);
        } else if (strncmp(word, "--", 2) == 0 && word[length] == '=' && length < sizeof(name)) {
            snprintf(name, sizeof(name), "%.*s", (int)length, word);
            index = options_find(options, name + 2);
            if (index != SIZE_MAX && index >= options->n_specs &&
                options_spec(options, index)->type == OPTION_BOOL)
                FAIL(STATUS_INVALID, "%s takes no value", name);
        }
    }
    if (is_option_word(last))
        FAIL(STATUS_INVALID, "%.100s needs a value", last);
    FAIL(STATUS_INVALID, "'%.100s' is not understood; see %s --help", last, options->program->name);
}

static enum status command_line_open(struct command_line *line, struct options *options, int argc)
{
    *line = (struct command_line){.options = options};
    TRY(memory_alloc(&line->words, (size_t)argc + 1, sizeof(*line->words), "command line"));
    return build_rows(line);
}

static void command_line_release(struct command_line *line)
{
    memory_free(line->words);
    memory_free(line->rows);
}

enum status options_read_command_line(struct options *options, int argc, char *const *argv)
{
    const struct options_program *program = options->program;
    const unsigned flags = ARGP_IN_ORDER | ARGP_NO_ERRS | ARGP_NO_EXIT | ARGP_NO_HELP;
    struct command_line line;
    enum status status;

    if (argc < 1)
        return STATUS_OK;
    TRY_OUT(command_line_open(&line, options, argc));
    TRY_OUT(spell_names(&line, argc, argv));
    struct argp argp = {.options = line.rows, .parser = take_key};
    if (argp_parse(&argp, argc, line.words, flags, NULL, &line) != 0) {
        status = line.status;
        if (status == STATUS_OK)
            status = explain(options, argc, line.words);
        goto out;
    }
    if (!options->wants_help && !options->wants_version &&
        options->n_positional < program->min_positional)
        FAIL_OUT(STATUS_INVALID, "%s is missing; see %s --help",
                 program->positional != NULL ? program->positional : "a word", program->name);
out:
    command_line_release(&line);
    return status;
}

enum status options_print_help(struct options *options)
{
    const struct options_program *program = options->program;
    const char *closing =
        program->run_file
            ? "Every option also has a line in the run file (name: value) and an environment "
              "variable "
              "(IBOT_NAME). Default < recipe < run file < environment < command line."
            : "Every option also has an environment variable (IBOT_NAME); the command line wins.";
    struct command_line line;
    char text[4096], positional[128] = "";
    enum status status;

    TRY_OUT(command_line_open(&line, options, 0));
    snprintf(text, sizeof(text), "%s\v%s%s%s", program->summary != NULL ? program->summary : "",
             closing, program->epilogue != NULL ? "\n\n" : "",
             program->epilogue != NULL ? program->epilogue : "");
    const char *word = program->positional != NULL ? program->positional : "ARG";
    if (program->max_positional > 0)
        snprintf(positional, sizeof(positional), program->min_positional > 0 ? "%s" : "[%s]", word);
    struct argp argp = {
        .options = line.rows, .parser = take_key, .args_doc = positional, .doc = text};
    char name[128];
    snprintf(name, sizeof(name), "%s", program->name);
    /* Without argp's remark on short options, which says nothing here; the user's layout stands. */
    setenv("ARGP_HELP_FMT", "no-dup-args-note", 0);
    argp_help(&argp, stdout, ARGP_HELP_STD_HELP & ~(unsigned)ARGP_HELP_EXIT_OK, name);
out:
    command_line_release(&line);
    return status;
}
