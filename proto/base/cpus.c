#include "proto/base/cpus.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int cpus_of_quota(const char *text)
{
    long long quota, period;

    if (sscanf(text, "%lld %lld", &quota, &period) != 2 || quota < 1 || period < 1)
        return INT_MAX;
    long long n = quota / period + (quota % period != 0);
    return n < INT_MAX ? (int)n : INT_MAX;
}

/* Of the group that a container sees as its root. */
static int of_control_group(void)
{
    char text[64] = "";
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");

    if (file == NULL)
        return INT_MAX;
    char *line = fgets(text, sizeof(text), file);
    fclose(file);
    return line != NULL ? cpus_of_quota(line) : INT_MAX;
}

static int of_affinity(void)
{
    enum { MOST = 1 << 16 };

    for (int n = CPU_SETSIZE; n <= MOST; n *= 2) { /* a set that is too small is refused */
        cpu_set_t *set = CPU_ALLOC((size_t)n);
        size_t size = CPU_ALLOC_SIZE((size_t)n);
        if (set == NULL)
            break;
        int count = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (count > 0)
            return count;
    }
    return (int)sysconf(_SC_NPROCESSORS_ONLN);
}

int cpus_usable(void)
{
    int affinity = of_affinity(), quota = of_control_group();
    int n = affinity < quota ? affinity : quota;

    return n < 1 ? 1 : n;
}

int cpus_share(int n_processes)
{
    long long all = sysconf(_SC_NPROCESSORS_ONLN);
    long long on_each = (long long)of_affinity() * n_processes / (all < 1 ? 1 : all);
    long long n = cpus_usable() / (on_each < 1 ? 1 : on_each);

    return n < 1 ? 1 : (int)n;
}
