/* Lines of text; and the few numbers about a process, from /proc. */
#include "proto/monitor/exposition.h"

#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "proto/base/memory.h"

static const double bounds[HISTOGRAM_BOUNDS] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                                2.5,  5,     10,   30,  60,   120, 300};

/* ---- text ---- */

IBOT_PRINTF(2, 3) static void add(struct exposition *e, const char *format, ...)
{
    va_list arguments;

    if (e->status != STATUS_OK)
        return;
    va_start(arguments, format);
    int n = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    e->status = memory_grow(&e->text, &e->capacity, e->n_bytes + (size_t)n + 1, 1, "metrics");
    if (e->status != STATUS_OK)
        return;
    va_start(arguments, format);
    vsnprintf(e->text + e->n_bytes, (size_t)n + 1, format, arguments);
    va_end(arguments);
    e->n_bytes += (size_t)n;
}

/* Adds it with backslashes before what would end it: a line, and in a label value a quote. */
static void add_escaped(struct exposition *e, const char *text, bool quotes)
{
    for (; *text != '\0'; text++) {
        if (*text == '\n')
            add(e, "\\n");
        else if (*text == '\\' || (quotes && *text == '"'))
            add(e, "\\%c", *text);
        else
            add(e, "%c", *text);
    }
}

/* The shortest of the usual forms that gives the same number back. */
static void add_number(struct exposition *e, double value)
{
    char text[40];

    if (isnan(value) || isinf(value)) {
        add(e, "%s", isnan(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf");
        return;
    }
    snprintf(text, sizeof(text), "%.15g", value);
    if (strtod(text, NULL) != value)
        snprintf(text, sizeof(text), "%.17g", value);
    for (char *at = text; *at != '\0'; at++)
        if (*at == ',') /* some library has set a locale */
            *at = '.';
    add(e, "%s", text);
}

static bool is_name(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz_0123456789");
    return n > 0 && name[n] == '\0' && (name[0] < '0' || name[0] > '9') &&
           n < EXPOSITION_NAME_BYTES;
}

void exposition_release(struct exposition *e)
{
    memory_free(e->text);
    *e = (struct exposition){0};
}

/* ---- families ---- */

void exposition_family(struct exposition *e, const char *name, enum exposition_type type,
                       const char *help)
{
    static const char *const types[] = {"counter", "gauge", "histogram"};
    size_t n = strlen(name);
    bool is_total = n > 6 && strcmp(name + n - 6, "_total") == 0;

    CHECK(is_name(name) && is_total == (type == EXPOSITION_COUNTER), "metric '%s'", name);
    snprintf(e->family, sizeof(e->family), "%s", name);
    add(e, "# HELP %s ", name);
    add_escaped(e, help, false);
    add(e, "\n# TYPE %s %s\n", name, types[type]);
}

static void add_sample(struct exposition *e, const char *suffix, const char *label,
                       const char *label_value, double value)
{
    CHECK(e->family[0] != '\0' && (label == NULL || is_name(label)));
    add(e, "%s%s", e->family, suffix);
    if (label != NULL) {
        add(e, "{%s=\"", label);
        add_escaped(e, label_value, true);
        add(e, "\"}");
    }
    add(e, " ");
    add_number(e, value);
    add(e, "\n");
}

void exposition_sample(struct exposition *e, const char *label, const char *label_value,
                       double value)
{
    add_sample(e, "", label, label_value, value);
}

void exposition_gauge(struct exposition *e, const char *name, const char *help, double value)
{
    exposition_family(e, name, EXPOSITION_GAUGE, help);
    add_sample(e, "", NULL, NULL, value);
}

void exposition_counter(struct exposition *e, const char *name, const char *help, double value)
{
    exposition_family(e, name, EXPOSITION_COUNTER, help);
    add_sample(e, "", NULL, NULL, value);
}

/* ---- histograms ---- */

void histogram_add(struct histogram *histogram, double seconds)
{
    int i = 0;

    while (i < HISTOGRAM_BOUNDS && seconds > bounds[i])
        i++;
    histogram->counts[i]++;
    histogram->sum += seconds;
}

void exposition_histogram(struct exposition *e, const char *name, const char *help,
                          const struct histogram *histogram)
{
    uint64_t n = 0;
    char text[32];

    exposition_family(e, name, EXPOSITION_HISTOGRAM, help);
    for (int i = 0; i <= HISTOGRAM_BOUNDS; i++) {
        n += histogram->counts[i];
        if (i < HISTOGRAM_BOUNDS)
            snprintf(text, sizeof(text), "%g", bounds[i]);
        add_sample(e, "_bucket", "le", i < HISTOGRAM_BOUNDS ? text : "+Inf", (double)n);
    }
    add_sample(e, "_sum", NULL, NULL, histogram->sum);
    add_sample(e, "_count", NULL, NULL, (double)n);
}

/* ---- the process ---- */

static double count_files(void)
{
    DIR *folder = opendir("/proc/self/fd");
    double n = -1.0; /* the folder itself */

    if (folder == NULL)
        return NAN;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(folder);
    return n;
}

/* Pages in memory; since boot, ticks until the start. */
static bool read_stat(double *resident_pages, double *start_ticks)
{
    FILE *file = fopen("/proc/self/stat", "re");
    char text[1024] = "";

    if (file == NULL)
        return false;
    size_t n = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[n] = '\0';
    char *at = strrchr(text, ')'); /* after the name, which may hold anything */
    for (int field = 2; at != NULL && field < 24; field++) {
        at = strchr(at + 1, ' ');
        if (at != NULL && field == 21)
            *start_ticks = strtod(at, NULL);
        if (at != NULL && field == 23)
            *resident_pages = strtod(at, NULL);
    }
    return at != NULL;
}

static double boot_time(void)
{
    FILE *file = fopen("/proc/stat", "re");
    char *line = NULL;
    size_t capacity = 0;
    double seconds = NAN;

    while (file != NULL && getline(&line, &capacity, file) > 0)
        if (strncmp(line, "btime ", 6) == 0)
            seconds = strtod(line + 6, NULL);
    free(line);
    if (file != NULL)
        fclose(file);
    return seconds;
}

void exposition_process(struct exposition *e)
{
    double pages = NAN, ticks = NAN;
    struct rusage usage;
    struct rlimit limit;

    if (getrusage(RUSAGE_SELF, &usage) == 0)
        exposition_counter(e, "process_cpu_seconds_total", "User and system CPU time spent.",
                           (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                               1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec));
    if (read_stat(&pages, &ticks)) {
        exposition_gauge(e, "process_resident_memory_bytes", "Memory in use.",
                         pages * (double)sysconf(_SC_PAGESIZE));
        exposition_gauge(e, "process_start_time_seconds", "Start, in seconds since 1970.",
                         boot_time() + ticks / (double)sysconf(_SC_CLK_TCK));
    }
    exposition_gauge(e, "process_open_fds", "Open file descriptors.", count_files());
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        exposition_gauge(e, "process_max_fds", "File descriptors that may be open.",
                         (double)limit.rlim_cur);
}
