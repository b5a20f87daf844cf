/* The sources in order of strength, lookup by name, and where each value came from. A value is
 * stored when its source is at least as strong as the one that spoke last, so that sources can be
 * read in any order: the command line is read first, because it may name the run file. */
#include "proto/config/options_internal.h"

#include <ctype.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/memory.h"
#include "proto/config/nearest.h"

static const struct option_spec builtins[N_BUILTINS] = {
    [BUILTIN_CONFIG] = {.name = "config",
                        .type = OPTION_STRING,
                        .letter = 'c',
                        .offset = offsetof(struct options, config),
                        .argument = "FILE",
                        .help = "run file (YAML) with any of these options"},
    [BUILTIN_RECIPE] = {.name = "recipe",
                        .type = OPTION_STRING,
                        .offset = offsetof(struct options, recipe),
                        .argument = "NAME",
                        .help = "published or own recipe: a name, or the path of a YAML file"},
    [BUILTIN_HELP] = {.name = "help",
                      .type = OPTION_BOOL,
                      .letter = 'h',
                      .offset = offsetof(struct options, wants_help),
                      .flags = OPTION_COMMAND_LINE_ONLY,
                      .help = "print this and stop"},
    [BUILTIN_VERSION] = {.name = "version",
                         .type = OPTION_BOOL,
                         .letter = 'V',
                         .offset = offsetof(struct options, wants_version),
                         .flags = OPTION_COMMAND_LINE_ONLY,
                         .help = "print the version and stop"},
};

size_t options_count(const struct options *options)
{
    return options->n_specs + N_BUILTINS;
}

const struct option_spec *options_spec(const struct options *options, size_t index)
{
    size_t n = options->n_specs;
    return index < n ? &options->specs[index] : &builtins[index - n];
}

bool options_offered(const struct options *options, size_t index)
{
    size_t n = options->n_specs;

    if (index == n + BUILTIN_CONFIG)
        return options->program->run_file;
    if (index == n + BUILTIN_RECIPE)
        return options->program->recipe_folders != NULL;
    return true;
}

void *options_base(const struct options *options, size_t index)
{
    return index < options->n_specs ? options->values : (void *)options;
}

static bool same_name(const char *a, const char *b)
{
    for (; *a != '\0' && *b != '\0'; a++, b++)
        if ((*a == '-' ? '_' : *a) != (*b == '-' ? '_' : *b))
            return false;
    return *a == *b;
}

size_t options_find(const struct options *options, const char *name)
{
    for (size_t i = 0; i < options_count(options); i++) {
        const struct option_spec *spec = options_spec(options, i);
        if (options_offered(options, i) &&
            (same_name(spec->name, name) || (spec->alias != NULL && same_name(spec->alias, name))))
            return i;
    }
    return SIZE_MAX;
}

size_t options_own_index(const struct options *options, const char *name)
{
    size_t index = options_find(options, name);
    CHECK(index != SIZE_MAX, "%s has no option '%s'", options->program->name, name);
    return index;
}

const char *options_hint(const struct options *options, const char *name, const char *prefix,
                         char *out, size_t n_bytes)
{
    struct nearest nearest = nearest_open(name);

    for (size_t i = 0; i < options_count(options); i++) {
        const struct option_spec *spec = options_spec(options, i);
        if (!options_offered(options, i) || (spec->flags & OPTION_UNDOCUMENTED))
            continue;
        nearest_offer(&nearest, spec->name);
        if (spec->alias != NULL)
            nearest_offer(&nearest, spec->alias);
    }
    if (nearest_result(&nearest) != NULL)
        snprintf(out, n_bytes, "did you mean '%s%s'?", prefix, nearest_result(&nearest));
    else
        snprintf(out, n_bytes, "see %s --help", options->program->name);
    return out;
}

enum status options_keep(struct options *options, const char **out, const char *text)
{
    char *copy;

    TRY(memory_grow(&options->texts, &options->texts_capacity, options->n_texts + 1,
                    sizeof(*options->texts), "options"));
    TRY(memory_strdup(&copy, text));
    options->texts[options->n_texts++] = copy;
    *out = copy;
    return STATUS_OK;
}

const char *option_origin_text(struct option_origin origin, char *out, size_t n_bytes)
{
    static const char *const names[] = {
        [OPTION_FROM_DEFAULT] = "default",           [OPTION_FROM_RECIPE] = "recipe",
        [OPTION_FROM_RUN_FILE] = "run file",         [OPTION_FROM_ENVIRONMENT] = "environment",
        [OPTION_FROM_COMMAND_LINE] = "command line",
    };

    if (origin.file != NULL)
        snprintf(out, n_bytes, "%s:%d", origin.file, origin.line);
    else
        snprintf(out, n_bytes, "%s", names[origin.source]);
    return out;
}

enum status options_set(struct options *options, size_t index, const struct option_words *words,
                        struct option_origin origin)
{
    const struct option_spec *spec = options_spec(options, index);
    bool strings = spec->type == OPTION_STRING || spec->type == OPTION_STRING_LIST;
    struct option_words all = {.null = words->null};
    struct option_value value, before;
    char where[512];

    if (words->add && spec->type == OPTION_STRING_LIST &&
        options->origins[index].source == origin.source) {
        option_value_load(&before, spec, options_base(options, index));
        for (int32_t i = 0; i < before.n; i++)
            all.words[all.n++] = before.elements[i].string;
    }
    for (int i = 0; i < words->n && all.n < OPTION_MAX_ELEMENTS; i++)
        all.words[all.n++] = words->words[i];
    option_origin_text(origin, where, sizeof(where));
    TRY(option_value_read(&value, spec, &all, where));
    if (origin.source < options->origins[index].source)
        return STATUS_OK;
    for (int32_t i = 0; strings && i < value.n; i++)
        TRY(options_keep(options, &value.elements[i].string, value.elements[i].string));
    option_value_store(spec, options_base(options, index), &value);
    options->origins[index] = origin;
    return STATUS_OK;
}

enum status options_set_text(struct options *options, size_t index, const char *text, bool add,
                             struct option_origin origin)
{
    const struct option_spec *spec = options_spec(options, index);
    const char *separators = spec->type == OPTION_FLOAT_LIST ? ", \t" : ",";
    struct option_words words = {.n = 0, .add = add};
    enum status status = STATUS_OK;
    char where[512], *copy, *rest;

    if (!option_is_list(spec)) {
        words.words[words.n++] = text;
        return options_set(options, index, &words, origin);
    }
    TRY(memory_strdup(&copy, text));
    rest = copy;
    for (char *word = strtok_r(copy, separators, &rest); word != NULL;
         word = strtok_r(NULL, separators, &rest)) {
        if (words.n == OPTION_MAX_ELEMENTS)
            FAIL_OUT(STATUS_INVALID, "--%s (%s): takes at most %d values, got more", spec->name,
                     option_origin_text(origin, where, sizeof(where)), spec->capacity);
        words.words[words.n++] = word;
    }
    status = options_set(options, index, &words, origin);
out:
    memory_free(copy);
    return status;
}

/* A table that cannot be right is a bug of the program. */
static void check_spec(const struct option_spec *spec)
{
    bool list = option_is_list(spec);

    CHECK(spec->name != NULL && spec->name[0] != '\0', "an option without a name");
    CHECK(!list || (spec->capacity > 0 && spec->capacity <= OPTION_MAX_ELEMENTS),
          "--%s holds %d values", spec->name, spec->capacity);
    CHECK(list || spec->type == OPTION_STRING || spec->text != NULL, "--%s has no default",
          spec->name);
    CHECK((spec->type == OPTION_CHOICE) == (spec->choices != NULL), "--%s and its choices",
          spec->name);
}

static enum status set_defaults(struct options *options)
{
    static const struct option_origin origin = {.source = OPTION_FROM_DEFAULT};

    for (size_t i = 0; i < options->n_specs; i++) {
        const struct option_spec *spec = options_spec(options, i);
        struct option_words none = {.null = true};
        check_spec(spec);
        enum status status = spec->text == NULL
                                 ? options_set(options, i, &none, origin)
                                 : options_set_text(options, i, spec->text, false, origin);
        CHECK(status != STATUS_INVALID, "%s", status_message());
        TRY(status);
    }
    return STATUS_OK;
}

static enum status read_environment(struct options *options)
{
    static const struct option_origin origin = {.source = OPTION_FROM_ENVIRONMENT};
    char name[128];

    for (size_t i = 0; i < options_count(options); i++) {
        const struct option_spec *spec = options_spec(options, i);
        if (!options_offered(options, i) || (spec->flags & OPTION_COMMAND_LINE_ONLY))
            continue;
        snprintf(name, sizeof(name), "IBOT_%s", spec->name);
        for (char *at = name; *at != '\0'; at++)
            *at = *at == '-' ? '_' : (char)toupper((unsigned char)*at);
        const char *text = getenv(name);
        if (text != NULL)
            TRY(options_set_text(options, i, text, false, origin));
    }
    return STATUS_OK;
}

/* The names of the recipes in all folders, for messages, and the nearest to a mistyped one. */
static void list_recipes(const char *folders, FILE *out, const char *wanted)
{
    struct nearest nearest = nearest_open(wanted);
    char pattern[OPTION_MAX_TEXT_BYTES];
    const char *gap = "";
    glob_t found = {0};

    for (const char *at = folders; *at != '\0';) {
        int length = (int)strcspn(at, ":");
        snprintf(pattern, sizeof(pattern), "%.*s/*.yaml", length, at);
        glob(pattern, at != folders ? GLOB_APPEND : 0, NULL, &found);
        at += length + (at[length] == ':');
    }
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char *name = strrchr(found.gl_pathv[i], '/') + 1;
        *strrchr(name, '.') = '\0';
        nearest_offer(&nearest, name);
    }
    if (nearest_result(&nearest) != NULL)
        fprintf(out, "did you mean '%s'? ", nearest_result(&nearest));
    fputs("there are: ", out);
    for (size_t i = 0; i < found.gl_pathc; i++, gap = ", ")
        fprintf(out, "%s%s", gap, strrchr(found.gl_pathv[i], '/') + 1);
    globfree(&found);
}

/* FOLDER/NAME.yaml in one of the recipe folders; a path stands for itself. */
static enum status recipe_path(struct options *options, const char **out)
{
    const char *folders = options->program->recipe_folders, *name = options->recipe;
    char path[2 * OPTION_MAX_TEXT_BYTES], names[600];

    *out = name;
    if (strchr(name, '/') != NULL || strstr(name, ".yaml") != NULL || strstr(name, ".yml") != NULL)
        return STATUS_OK;
    for (const char *at = folders; *at != '\0';) {
        int length = (int)strcspn(at, ":");
        snprintf(path, sizeof(path), "%.*s/%s.yaml", length, at, name);
        if (access(path, R_OK) == 0)
            return options_keep(options, out, path);
        at += length + (at[length] == ':');
    }
    FILE *text = fmemopen(names, sizeof(names), "w");
    if (text != NULL) {
        list_recipes(folders, text, name);
        fclose(text);
    }
    names[text != NULL ? sizeof(names) - 1 : 0] = '\0';
    FAIL(STATUS_INVALID, "--recipe %.100s: no such recipe; %s (in %s; a path works as well)", name,
         names, folders);
}

static enum status read_files(struct options *options)
{
    const char *path;

    if (options->config != NULL)
        TRY(options_read_file(options, options->config, OPTION_FROM_RUN_FILE));
    if (options->recipe != NULL) {
        TRY(recipe_path(options, &path));
        TRY(options_read_file(options, path, OPTION_FROM_RECIPE));
    }
    return STATUS_OK;
}

static enum status check_required(const struct options *options)
{
    struct option_value value;

    for (size_t i = 0; i < options->n_specs; i++) {
        const struct option_spec *spec = options_spec(options, i);
        if (!(spec->flags & OPTION_REQUIRED))
            continue;
        option_value_load(&value, spec, options->values);
        bool empty =
            value.n == 0 || (spec->type == OPTION_STRING && value.elements[0].string[0] == '\0');
        if (empty || (options->origins[i].source == OPTION_FROM_DEFAULT && spec->text == NULL))
            FAIL(STATUS_INVALID, "--%s is needed%s%s; see %s --help", spec->name,
                 spec->help != NULL ? ": " : "", spec->help != NULL ? spec->help : "",
                 options->program->name);
    }
    return STATUS_OK;
}

static size_t count_rows(const struct option_spec *specs, size_t n_specs)
{
    size_t n = 0;

    for (size_t i = 0; i < n_specs; i++)
        n += specs[i].part == NULL ? 1 : count_rows(specs[i].part->specs, specs[i].part->n_specs);
    return n;
}

/* Returns the place behind the last row that was written. */
static struct option_spec *write_rows(struct option_spec *out, const struct option_spec *specs,
                                      size_t n_specs, size_t offset, unsigned flags)
{
    for (size_t i = 0; i < n_specs; i++) {
        const struct option_spec *spec = &specs[i];
        size_t at = offset + spec->offset;
        if (spec->part != NULL) {
            struct option_spec *first = out;
            out = write_rows(out, spec->part->specs, spec->part->n_specs, at, flags | spec->flags);
            if (spec->group != NULL)
                first->group = spec->group;
            if (spec->text != NULL)
                first->text = spec->text;
            continue;
        }
        *out = *spec;
        out->offset = at;
        out->count_offset += offset;
        out->flags |= flags;
        out++;
    }
    return out;
}

static enum status options_open(struct options *options, const struct options_program *program,
                                void *values)
{
    *options = (struct options){.program = program, .values = values};
    options->n_specs = count_rows(program->specs, program->n_specs);
    TRY(memory_alloc(&options->specs, options->n_specs, sizeof(*options->specs), "options"));
    write_rows(options->specs, program->specs, program->n_specs, 0, 0);
    TRY(memory_alloc(&options->origins, options_count(options), sizeof(*options->origins),
                     "options"));
    return set_defaults(options);
}

enum status options_parse(struct options *options, const struct options_program *program,
                          void *values, int argc, char *const *argv)
{
    enum status status;

    TRY_OUT(options_open(options, program, values));
    TRY_OUT(options_read_command_line(options, argc, argv));
    if (options->wants_help) {
        TRY_OUT(options_print_help(options));
        options->finished = true;
    } else if (options->wants_version) {
        printf("%s %s\n", program->name, IBOT_VERSION);
        options->finished = true;
    } else {
        TRY_OUT(read_environment(options));
        TRY_OUT(read_files(options));
        TRY_OUT(check_required(options));
    }
out:
    if (status != STATUS_OK)
        options_release(options);
    return status;
}

enum status options_parse_file(struct options *options, const struct options_program *program,
                               void *values, const char *path)
{
    enum status status;

    TRY_OUT(options_open(options, program, values));
    TRY_OUT(options_read_file(options, path, OPTION_FROM_RUN_FILE));
    options->config = NULL; /* only --config and --recipe name files here */
    TRY_OUT(read_files(options));
    TRY_OUT(check_required(options));
out:
    if (status != STATUS_OK)
        options_release(options);
    return status;
}

void options_release(struct options *options)
{
    if (options == NULL)
        return;
    for (size_t i = 0; i < options->n_texts; i++)
        memory_free(options->texts[i]);
    memory_free(options->texts);
    memory_free(options->positional);
    memory_free(options->origins);
    memory_free(options->specs);
    *options = (struct options){.program = NULL};
}
