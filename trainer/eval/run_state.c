#include "trainer/eval/run_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/memory.h"
#include "trainer/checkpoint.h"
#include "trainer/rank_agreement.h"
#include "trainer/state_file.h"

enum { NUMBER_BYTES = 32, OPTION_BYTES = CHECKPOINT_MAX_PATH, NAME_BYTES = 64, MAX_PAIRS = 192 };

static const char option_prefix[] = "option.";

/* ------------------------------------------------------------------------------ writing */

static void number_text(const struct run_number *number, char *out)
{
    if (number->real != NULL)
        snprintf(out, NUMBER_BYTES, "%.17g", *number->real);
    else
        snprintf(out, NUMBER_BYTES, "%" PRId64,
                 number->whole != NULL ? *number->whole : *number->count);
}

static void take_number(const struct run_number *number, const char *text)
{
    if (number->real != NULL)
        *number->real = strtod(text, NULL);
    else if (number->whole != NULL)
        *number->whole = strtoll(text, NULL, 10);
    else
        *number->count = (int32_t)strtol(text, NULL, 10);
}

/* Pairs of name and text for the metadata. */
struct pairs {
    const char *pointers[2 * MAX_PAIRS];
    char keys[MAX_PAIRS][NAME_BYTES], texts[MAX_PAIRS][OPTION_BYTES];
    size_t n;
};

static void add_pair(struct pairs *pairs, const char *prefix, const char *name, const char *text)
{
    CHECK(pairs->n < MAX_PAIRS);
    snprintf(pairs->keys[pairs->n], NAME_BYTES, "%s%s", prefix, name);
    snprintf(pairs->texts[pairs->n], OPTION_BYTES, "%s", text);
    pairs->pointers[2 * pairs->n] = pairs->keys[pairs->n];
    pairs->pointers[2 * pairs->n + 1] = pairs->texts[pairs->n];
    pairs->n++;
}

/* Options that a result depends on, as text. */
static bool decides(const struct option_spec *spec)
{
    return (spec->flags & (OPTION_OUTSIDE_DIGEST | OPTION_COMMAND_LINE_ONLY)) == 0;
}

static const char *path_in(const struct run_state *state, const char *name, char *out)
{
    snprintf(out, CHECKPOINT_MAX_PATH, "%s/%s", state->folder, name);
    return out;
}

static bool is_first_rank(const struct run_state *state)
{
    return state->ranks == NULL || state->ranks->rank == 0;
}

static int n_ranks(const struct run_state *state)
{
    return state->ranks != NULL ? state->ranks->world : 1;
}

/* After what rank 0 did alone: all go on, or none. */
static enum status all_know(const struct run_state *state, enum status status)
{
    struct rank_word word = {0};

    return state->ranks != NULL ? rank_agree(state->ranks, status, &word) : status;
}

static enum status write_state(const struct run_state *state, const struct state_view *view,
                               struct device *device)
{
    const struct options *parsed = state->parsed;
    struct state_file_options options = {0};
    char path[CHECKPOINT_MAX_PATH], text[OPTION_BYTES];
    struct pairs *pairs;

    TRY(memory_alloc(&pairs, 1, sizeof(*pairs), "state"));
    for (size_t i = 0; i < state->n_numbers; i++) {
        number_text(&state->numbers[i], text);
        add_pair(pairs, "", state->numbers[i].name, text);
    }
    add_pair(pairs, "", "data", state->data);
    add_pair(pairs, "", "weights", state->weights);
    snprintf(text, sizeof(text), "%d", n_ranks(state));
    add_pair(pairs, "", "ranks", text);
    for (size_t i = 0; i < parsed->n_specs; i++)
        if (decides(&parsed->specs[i]))
            add_pair(pairs, option_prefix, parsed->specs[i].name,
                     options_text(parsed, parsed->specs[i].name, text, sizeof(text)));
    options.metadata = pairs->pointers;
    options.n_pairs = pairs->n;
    enum status status =
        state_file_write(path_in(state, "state.safetensors", path), view, device, &options);
    memory_free(pairs);
    return status;
}

enum status run_state_write(const struct run_state *state, const struct state_view *view,
                            struct device *device)
{
    return all_know(state, is_first_rank(state) ? write_state(state, view, device) : STATUS_OK);
}

/* ------------------------------------------------------------------------------ reading */

static enum status compare_options(const struct run_state *state, const struct safetensors *file)
{
    const struct options *parsed = state->parsed;
    char key[NAME_BYTES], now[OPTION_BYTES], differ[1024] = "";
    size_t used = 0;

    for (size_t i = 0; i < parsed->n_specs; i++) {
        const char *name = parsed->specs[i].name;
        snprintf(key, sizeof(key), "%s%s", option_prefix, name);
        const char *then = safetensors_metadata(file, key);
        options_text(parsed, name, now, sizeof(now));
        if (!decides(&parsed->specs[i]) || then == NULL || strcmp(then, now) == 0)
            continue;
        int n = snprintf(differ + used, sizeof(differ) - used, "%s--%s %s (the run has %s)",
                         used > 0 ? ", " : "", name, now, then);
        used += n > 0 && used + (size_t)n < sizeof(differ) ? (size_t)n : 0;
    }
    if (used > 0)
        FAIL(STATUS_MISMATCH,
             "'%s' holds a run with other options: %s; give the same, or another --output_dir",
             state->folder, differ);
    return STATUS_OK;
}

/* A run of one process once said nothing about it. */
static enum status compare_ranks(const struct run_state *state, const struct safetensors *file)
{
    const char *text = safetensors_metadata(file, "ranks");
    long then = text != NULL ? strtol(text, NULL, 10) : 1;

    if (then != n_ranks(state))
        FAIL(STATUS_MISMATCH,
             "'%s' holds a run of %ld ranks, and here are %d: start as many, or give another "
             "--output_dir",
             state->folder, then, n_ranks(state));
    return STATUS_OK;
}

static enum status read_numbers(const struct run_state *state, const struct safetensors *file,
                                const char *path)
{
    TRY(compare_options(state, file));
    TRY(compare_ranks(state, file));
    const char *data = safetensors_metadata(file, "data");
    if (data == NULL || strcmp(data, state->data) != 0)
        FAIL(
            STATUS_MISMATCH,
            "'%s' was begun with other images or crops (%s, now %s): give another --output_dir, or "
            "the same ones",
            state->folder, data != NULL ? data : "-", state->data);
    for (size_t i = 0; i < state->n_numbers; i++) {
        const char *text = safetensors_metadata(file, state->numbers[i].name);
        if (text == NULL)
            FAIL(STATUS_CORRUPT,
                 "%s: no '%s' in its metadata: it is not what ibot-eval %s writes; remove it, or "
                 "give another --output_dir",
                 path, state->numbers[i].name, state->command);
        take_number(&state->numbers[i], text);
    }
    return STATUS_OK;
}

static enum status read_state(const struct run_state *state, const struct state_view *view,
                              struct device *device, const char *path)
{
    struct state_counts counts;
    struct safetensors file;
    enum status status;

    TRY(safetensors_open(&file, path));
    TRY_OUT(read_numbers(state, &file, path));
    TRY_OUT(state_file_restore(&file, path, view, device, "", &counts));
out:
    safetensors_release(&file);
    return status;
}

static enum status write_options(const struct run_state *state)
{
    char path[CHECKPOINT_MAX_PATH];
    FILE *file = fopen(path_in(state, "run.yaml", path), "we");

    if (file == NULL)
        FAIL(STATUS_IO, "cannot write '%s': %s", path, strerror(errno));
    enum status status = options_dump(state->parsed, file);
    if (fclose(file) != 0 && status == STATUS_OK)
        status = status_set(STATUS_IO, "cannot write '%s': %s", path, strerror(errno));
    return status;
}

static enum status make_folder(const struct run_state *state)
{
    if (mkdir(state->folder, 0777) != 0 && errno != EEXIST)
        FAIL(STATUS_IO, "cannot make folder '%s': %s", state->folder, strerror(errno));
    return STATUS_OK;
}

enum status run_state_open(const struct run_state *state, const struct state_view *view,
                           struct device *device, bool *resumed)
{
    char path[CHECKPOINT_MAX_PATH];
    enum status status = STATUS_OK;
    bool first = is_first_rank(state);

    TRY(all_know(state, first ? make_folder(state) : STATUS_OK));
    *resumed = access(path_in(state, "state.safetensors", path), F_OK) == 0;
    if (*resumed)
        status = read_state(state, view, device, path);
    TRY(all_know(state, status));
    return all_know(state, first ? write_options(state) : STATUS_OK);
}
