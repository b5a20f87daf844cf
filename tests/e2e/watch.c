#include "tests/e2e/watch.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "tests/e2e/scene.h"

void watch_open(struct watch *watch, const char *path, const char *text)
{
    *watch = (struct watch){.fifo = scene_fifo(path), .n_steps = scene_count_lines(text)};
    watch->wanted = calloc((size_t)watch->n_steps, sizeof(uint64_t));
    assert_non_null(watch->wanted);
    for (int64_t i = 0; i < watch->n_steps; i++) {
        char *end;
        assert_int_equal(strtoll(text, &end, 10), i);
        watch->wanted[i] = strtoull(end, &end, 16);
        text = end + 1;
    }
    watch_mark(watch);
}

void watch_mark(struct watch *watch)
{
    watch->last_ns = clock_monotonic_ns();
    watch->longest_ns = 0;
}

static void take_line(struct watch *watch)
{
    char *end;
    long long step = strtoll(watch->line, &end, 10);
    uint64_t digest = strtoull(end, NULL, 16);
    int64_t now_ns = clock_monotonic_ns();

    assert_in_range(step, 0, watch->n_steps - 1);
    if (digest != watch->wanted[step])
        fail_msg("step %lld: batch %016llx, in the calm run %016llx", step,
                 (unsigned long long)digest, (unsigned long long)watch->wanted[step]);
    if (watch->next_step >= 0)
        assert_int_equal(step, watch->next_step);
    watch->next_step = step + 1;
    if (now_ns - watch->last_ns > watch->longest_ns)
        watch->longest_ns = now_ns - watch->last_ns;
    watch->last_ns = now_ns;
    watch->n_lines++;
}

/* Lines that are there now, at most n. */
static int take_lines(struct watch *watch, int n)
{
    int count = 0;
    char byte;

    while (count < n && read(watch->fifo, &byte, 1) == 1) {
        if (byte != '\n') {
            assert_true(watch->n_line < (int)sizeof(watch->line) - 1);
            watch->line[watch->n_line++] = byte;
            continue;
        }
        watch->line[watch->n_line] = '\0';
        watch->n_line = 0;
        take_line(watch);
        count++;
    }
    return count;
}

int watch_lines(struct watch *watch, struct process *trainer, int n, int seconds)
{
    int64_t deadline = clock_monotonic_ns() + (int64_t)seconds * 1000000000;
    int count = take_lines(watch, n);

    while (count < n && !trainer->ended) {
        if (clock_monotonic_ns() > deadline) {
            print_error("%d of %d batches after %d s:\n%s\n", count, n, seconds, trainer->text);
            fail_msg("too few batches");
        }
        struct pollfd event = {watch->fifo, POLLIN, 0};
        poll(&event, 1, 20);
        process_look(trainer);
        count += take_lines(watch, n - count);
    }
    return count;
}

void watch_restart(struct watch *watch)
{
    take_lines(watch, INT32_MAX);
    assert_int_equal(watch->n_line, 0); /* a line is written whole */
    watch->next_step = -1;
}

void watch_close(struct watch *watch)
{
    close(watch->fifo);
    free(watch->wanted);
    *watch = (struct watch){.fifo = -1};
}

long watch_memory_kib(pid_t pid, const char *name)
{
    char path[64], line[256];
    long kib = 0;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        if (strncmp(line, name, strlen(name)) == 0)
            kib = strtol(line + strlen(name), NULL, 10);
    if (file != NULL)
        fclose(file);
    return kib;
}
