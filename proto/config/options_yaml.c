/* Run files: a flat YAML mapping from option names to values or lists, read as libyaml events, so
 * that every message has its line. Anchors, tags, nesting and repeated keys are refused: a run file
 * says each thing once. The dump is written by hand in the same form. */
#include "proto/config/options_internal.h"

#include <errno.h>
#include <string.h>
#include <yaml.h>

#include "proto/base/memory.h"

enum { FIRST_READ_BYTES = 4096 };

struct run_file {
    struct options *options;
    const char *path; /* kept by the options */
    enum option_source source;
    yaml_parser_t parser;
    yaml_event_t event;
    bool event_held;
    int *seen; /* line of each option, 0 when not met yet */
};

static int line_of(yaml_mark_t mark)
{
    return mark.line < INT32_MAX ? (int)mark.line + 1 : INT32_MAX;
}

/* Replaces the current event by the next one. */
static enum status next_event(struct run_file *file)
{
    if (file->event_held)
        yaml_event_delete(&file->event);
    file->event_held = false;
    if (!yaml_parser_parse(&file->parser, &file->event)) {
        const yaml_parser_t *parser = &file->parser;
        if (parser->error == YAML_MEMORY_ERROR)
            FAIL(STATUS_NO_MEMORY, "%s: no memory to read it", file->path);
        if (parser->error == YAML_READER_ERROR)
            FAIL(STATUS_INVALID, "%s: byte %zu: %s", file->path, parser->problem_offset,
                 parser->problem);
        FAIL(STATUS_INVALID, "%s:%d: not valid YAML: %s", file->path, line_of(parser->problem_mark),
             parser->problem);
    }
    file->event_held = true;
    return STATUS_OK;
}

static enum status refuse_event(const struct run_file *file, const char *wanted)
{
    static const char *const names[] = {
        [YAML_NO_EVENT] = "nothing",
        [YAML_STREAM_START_EVENT] = "the start",
        [YAML_STREAM_END_EVENT] = "the end of the file",
        [YAML_DOCUMENT_START_EVENT] = "another document",
        [YAML_DOCUMENT_END_EVENT] = "the end of the document",
        [YAML_ALIAS_EVENT] = "an alias (*name)",
        [YAML_SCALAR_EVENT] = "a value",
        [YAML_SEQUENCE_START_EVENT] = "a list",
        [YAML_SEQUENCE_END_EVENT] = "the end of a list",
        [YAML_MAPPING_START_EVENT] = "a nested mapping",
        [YAML_MAPPING_END_EVENT] = "the end of a mapping",
    };

    FAIL(STATUS_INVALID, "%s:%d: found %s; wanted %s", file->path, line_of(file->event.start_mark),
         names[file->event.type], wanted);
}

/* The current event's text; anchors, tags and zero bytes are refused. */
static enum status scalar_text(const struct run_file *file, const char **out, bool *null)
{
    const char *text = (const char *)file->event.data.scalar.value;
    bool plain = file->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    int line = line_of(file->event.start_mark);

    if (file->event.data.scalar.anchor != NULL || file->event.data.scalar.tag != NULL)
        FAIL(STATUS_INVALID, "%s:%d: anchors (&) and tags (!) are not understood; quote the text",
             file->path, line);
    if (strlen(text) != file->event.data.scalar.length)
        FAIL(STATUS_INVALID, "%s:%d: a value with a zero byte", file->path, line);
    *null = plain && (text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
    *out = text;
    return STATUS_OK;
}

/* The option a key names. Errors: unknown, not for run files, met before. */
static enum status read_key(struct run_file *file, size_t *out)
{
    struct options *options = file->options;
    int line = line_of(file->event.start_mark);
    const char *name;
    char hint[256];
    bool null;

    if (file->event.type != YAML_SCALAR_EVENT)
        return refuse_event(file, "an option's name");
    TRY(scalar_text(file, &name, &null));
    size_t index = options_find(options, name);
    size_t n = options->n_specs;
    if (index == SIZE_MAX)
        FAIL(STATUS_INVALID, "%s:%d: unknown option '%.100s'; %s", file->path, line, name,
             options_hint(options, name, "", hint, sizeof(hint)));
    if ((options_spec(options, index)->flags & OPTION_COMMAND_LINE_ONLY) ||
        index == n + BUILTIN_CONFIG ||
        (index == n + BUILTIN_RECIPE && file->source == OPTION_FROM_RECIPE))
        FAIL(STATUS_INVALID, "%s:%d: '%s' cannot stand in a %s", file->path, line, name,
             file->source == OPTION_FROM_RECIPE ? "recipe" : "run file");
    if (file->seen[index] != 0)
        FAIL(STATUS_INVALID, "%s:%d: '%s' was set on line %d already", file->path, line, name,
             file->seen[index]);
    file->seen[index] = line;
    *out = index;
    return STATUS_OK;
}

/* [a, b, c]: the words are copied, since each lives only as long as its event. */
static enum status read_list(struct run_file *file, size_t index, struct option_origin origin)
{
    struct option_words words = {.n = 0};
    const char *text;
    bool null;

    if (!option_is_list(options_spec(file->options, index)))
        return refuse_event(file, "one value");
    if (file->event.data.sequence_start.anchor != NULL ||
        file->event.data.sequence_start.tag != NULL)
        FAIL(STATUS_INVALID, "%s:%d: anchors (&) and tags (!) are not understood", file->path,
             origin.line);
    for (;;) {
        TRY(next_event(file));
        if (file->event.type == YAML_SEQUENCE_END_EVENT)
            return options_set(file->options, index, &words, origin);
        if (file->event.type != YAML_SCALAR_EVENT)
            return refuse_event(file, "a value in the list");
        TRY(scalar_text(file, &text, &null));
        if (null)
            FAIL(STATUS_INVALID, "%s:%d: an empty value in a list", file->path,
                 line_of(file->event.start_mark));
        if (words.n == OPTION_MAX_ELEMENTS)
            FAIL(STATUS_INVALID, "%s:%d: a list of more than %d values", file->path,
                 line_of(file->event.start_mark), OPTION_MAX_ELEMENTS);
        TRY(options_keep(file->options, &words.words[words.n], text));
        words.n++;
    }
}

static enum status read_value(struct run_file *file, size_t index)
{
    struct option_origin origin = {file->source, file->path, line_of(file->event.start_mark)};
    struct option_words words = {.n = 0};
    const char *text;

    if (file->event.type == YAML_SEQUENCE_START_EVENT)
        return read_list(file, index, origin);
    if (file->event.type != YAML_SCALAR_EVENT)
        return refuse_event(file, "a value or a list");
    TRY(scalar_text(file, &text, &words.null));
    if (!words.null)
        words.words[words.n++] = text;
    return options_set(file->options, index, &words, origin);
}

static enum status read_document(struct run_file *file)
{
    size_t index = 0;

    TRY(next_event(file));
    if (file->event.type != YAML_STREAM_START_EVENT)
        return refuse_event(file, "the start");
    TRY(next_event(file));
    if (file->event.type == YAML_STREAM_END_EVENT)
        return STATUS_OK; /* an empty file sets nothing */
    TRY(next_event(file));
    bool nothing = file->event.type == YAML_SCALAR_EVENT &&
                   file->event.data.scalar.length == 0; /* comments alone */
    if (!nothing && file->event.type != YAML_MAPPING_START_EVENT)
        return refuse_event(file, "lines of the form 'option: value'");
    if (!nothing && (file->event.data.mapping_start.anchor != NULL ||
                     file->event.data.mapping_start.tag != NULL))
        FAIL(STATUS_INVALID, "%s:%d: anchors (&) and tags (!) are not understood", file->path,
             line_of(file->event.start_mark));
    while (!nothing) {
        TRY(next_event(file));
        if (file->event.type == YAML_MAPPING_END_EVENT)
            break;
        TRY(read_key(file, &index));
        TRY(next_event(file));
        TRY(read_value(file, index));
    }
    TRY(next_event(file)); /* end of the document */
    TRY(next_event(file));
    if (file->event.type != YAML_STREAM_END_EVENT)
        return refuse_event(file, "one document");
    return STATUS_OK;
}

enum status options_read_yaml(struct options *options, const void *bytes, size_t n_bytes,
                              const char *path, enum option_source source)
{
    struct run_file file = {.options = options, .source = source};
    enum status status = STATUS_OK;

    TRY(options_keep(options, &file.path, path));
    TRY(memory_alloc(&file.seen, options_count(options), sizeof(*file.seen), "run file"));
    if (!yaml_parser_initialize(&file.parser)) {
        memory_free(file.seen);
        FAIL(STATUS_NO_MEMORY, "%s: no memory to read it", path);
    }
    yaml_parser_set_input_string(&file.parser, bytes, n_bytes);
    yaml_parser_set_encoding(&file.parser, YAML_UTF8_ENCODING);
    status = read_document(&file);
    if (file.event_held)
        yaml_event_delete(&file.event);
    yaml_parser_delete(&file.parser);
    memory_free(file.seen);
    return status;
}

enum status options_read_file(struct options *options, const char *path, enum option_source source)
{
    const char *what = source == OPTION_FROM_RECIPE ? "recipe" : "run file";
    size_t n_bytes = 0, capacity = 0, n_read;
    enum status status = STATUS_OK;
    char *bytes = NULL;

    FILE *stream = fopen(path, "rb");
    if (stream == NULL)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s '%s': %s", what, path,
             strerror(errno));
    do {
        TRY_OUT(memory_grow(&bytes, &capacity, n_bytes + FIRST_READ_BYTES, 1, what));
        n_read = fread(bytes + n_bytes, 1, capacity - n_bytes, stream);
        n_bytes += n_read;
    } while (n_read > 0 && n_bytes <= OPTION_MAX_FILE_BYTES);
    if (ferror(stream))
        FAIL_OUT(STATUS_IO, "%s '%s': %s", what, path, strerror(errno));
    if (n_bytes > OPTION_MAX_FILE_BYTES)
        FAIL_OUT(STATUS_INVALID, "%s '%s' is longer than %d bytes; is it the right file?", what,
                 path, OPTION_MAX_FILE_BYTES);
    TRY_OUT(options_read_yaml(options, bytes, n_bytes, path, source));
out:
    memory_free(bytes);
    fclose(stream);
    return status;
}

/* Texts are always quoted, so that "no", "1" and "null" stay texts. */
static void dump_string(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            fputc('\\', out);
        fputc(*text, out);
    }
    fputc('"', out);
}

static void dump_element(FILE *out, const struct option_spec *spec,
                         const struct option_element *element)
{
    if (spec->type == OPTION_STRING || spec->type == OPTION_STRING_LIST)
        dump_string(out, element->string);
    else
        option_element_print(out, spec, element);
}

enum status options_dump(const struct options *options, FILE *out)
{
    struct option_value value;
    char where[512];

    fprintf(out, "# %s %s: every option in force.\n", options->program->name, IBOT_VERSION);
    for (size_t i = 0; i < options->n_specs; i++) {
        const struct option_spec *spec = options_spec(options, i);
        if (spec->group != NULL)
            fprintf(out, "\n# %s\n", spec->group);
        if (spec->flags & OPTION_COMMAND_LINE_ONLY)
            continue;
        option_value_load(&value, spec, options->values);
        fprintf(out, "%s: ", spec->name);
        if (option_is_list(spec))
            fputc('[', out);
        else if (value.n == 0)
            fputs("null", out);
        for (int32_t k = 0; k < value.n; k++) {
            if (k > 0)
                fputs(", ", out);
            dump_element(out, spec, &value.elements[k]);
        }
        if (option_is_list(spec))
            fputc(']', out);
        if (options->origins[i].source != OPTION_FROM_DEFAULT)
            fprintf(out, "  # %s", option_origin_text(options->origins[i], where, sizeof(where)));
        fputc('\n', out);
    }
    if (fflush(out) != 0 || ferror(out))
        FAIL(STATUS_IO, "writing the options: %s", strerror(errno));
    return STATUS_OK;
}
