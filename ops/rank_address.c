/* Where rank 0 is, and the key of the run, from what launchers set. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/rank_monitor.h"

enum { FIRST_PORT = 20000, PORTS = 20000, DEFAULT_MASTER_PORT = 29500 };

static const int64_t second_ns = 1000000000;

static const char *variable(const char *name)
{
    const char *text = getenv(name);
    return text != NULL && text[0] != '\0' ? text : NULL;
}

static enum status number(const char *name, const char *text, long least, long most, long *out)
{
    char *end;
    long value = strtol(text, &end, 10);

    if (end == text || *end != '\0' || value < least || value > most)
        FAIL(STATUS_INVALID, "environment variable %s: got '%s', wanted a number from %ld to %ld",
             name, text, least, most);
    *out = value;
    return STATUS_OK;
}

static enum status set_host(struct rank_monitor_options *out, const char *name, const char *text,
                            size_t n)
{
    if (n == 0 || n >= sizeof(out->host))
        FAIL(STATUS_INVALID, "environment variable %s: '%.64s' is no host name", name, text);
    memcpy(out->host, text, n);
    out->host[n] = '\0';
    return STATUS_OK;
}

static enum status from_own(struct rank_monitor_options *out, const char *text)
{
    const char *colon = strrchr(text, ':');
    long port = 0;

    if (colon == NULL)
        FAIL(STATUS_INVALID,
             "environment variable IBOT_RANKS_AT: got '%s', wanted HOST:PORT of rank 0", text);
    TRY(set_host(out, "IBOT_RANKS_AT", text, (size_t)(colon - text)));
    TRY(number("IBOT_RANKS_AT", colon + 1, 1, 65535, &port));
    out->port = (int)port;
    return STATUS_OK;
}

static enum status from_master(struct rank_monitor_options *out, const char *host)
{
    const char *text = variable("MASTER_PORT"), *agent = variable("TORCHELASTIC_USE_AGENT_STORE");
    long port = DEFAULT_MASTER_PORT;

    TRY(set_host(out, "MASTER_ADDR", host, strlen(host)));
    if (text != NULL)
        TRY(number("MASTER_PORT", text, 1, 65534, &port));
    out->port = (int)port + (agent != NULL && strcmp(agent, "True") == 0 ? 1 : 0);
    return STATUS_OK;
}

/* "node[03-04,07],other" begins with node03; "node7,node9" with node7. */
static enum status from_slurm(struct rank_monitor_options *out, const char *nodes)
{
    const char *job = variable("SLURM_JOB_ID");
    size_t stem = strcspn(nodes, ",[");
    char host[256];
    long id = 0;

    if (job != NULL)
        TRY(number("SLURM_JOB_ID", job, 0, 1L << 40, &id));
    if (nodes[stem] == '[')
        snprintf(host, sizeof(host), "%.*s%.*s", (int)stem, nodes,
                 (int)strcspn(nodes + stem + 1, "-,]"), nodes + stem + 1);
    else
        snprintf(host, sizeof(host), "%.*s", (int)stem, nodes);
    out->port = FIRST_PORT + (int)(id % PORTS);
    return set_host(out, "SLURM_STEP_NODELIST", host, strlen(host));
}

/* All ranks on this machine: loopback, and a port that another job is unlikely to have. */
static enum status from_open_mpi(struct rank_monitor_options *out)
{
    const char *job = variable("PMIX_NAMESPACE");
    unsigned hash = 0;

    for (; job != NULL && *job != '\0'; job++)
        hash = hash * 31 + (unsigned char)*job;
    out->port = FIRST_PORT + (int)(hash % PORTS);
    return set_host(out, "PMIX_NAMESPACE", "127.0.0.1", 9);
}

static bool is_all_local(void)
{
    const char *world = variable("OMPI_COMM_WORLD_SIZE");
    const char *local = variable("OMPI_COMM_WORLD_LOCAL_SIZE");
    return world != NULL && local != NULL && strcmp(world, local) == 0;
}

/* ------------------------------------------------------------------------------ the key */

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef", *at = c != '\0' ? strchr(digits, c | 0x20) : NULL;
    return at != NULL ? (int)(at - digits) : -1;
}

static enum status key_from_text(unsigned char key[RANK_KEY_BYTES], const char *text)
{
    bool ok = strlen(text) == (size_t)2 * RANK_KEY_BYTES;

    for (int i = 0; ok && i < RANK_KEY_BYTES; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
        ok = high >= 0 && low >= 0;
        key[i] = (unsigned char)(16 * (high & 15) + (low & 15));
    }
    if (!ok)
        FAIL(STATUS_INVALID,
             "environment variable IBOT_RANKS_KEY: wanted %d hex digits (openssl rand -hex %d "
             "makes some)",
             2 * RANK_KEY_BYTES, RANK_KEY_BYTES);
    return STATUS_OK;
}

/* Spreads a text over the key: FNV-1a, once for each eight bytes, and a final mix. No secret. */
static void key_from_job(unsigned char key[RANK_KEY_BYTES], const char *text)
{
    for (int lane = 0; lane < RANK_KEY_BYTES / 8; lane++) {
        uint64_t hash = UINT64_C(0xcbf29ce484222325) + (uint64_t)lane;
        for (const char *at = text; *at != '\0'; at++)
            hash = (hash ^ (unsigned char)*at) * UINT64_C(0x100000001b3);
        hash = (hash ^ hash >> 33) * UINT64_C(0xff51afd7ed558ccd);
        hash ^= hash >> 33;
        memcpy(key + 8 * lane, &hash, 8);
    }
}

/* What tells this run from others, and is the same for all of its ranks. */
static enum status read_key(unsigned char key[RANK_KEY_BYTES],
                            const struct collective_environment *ranks)
{
    static const char *const names[] = {"TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT",
                                        "SLURM_JOB_ID", "SLURM_STEP_ID", "PMIX_NAMESPACE"};
    const char *own = variable("IBOT_RANKS_KEY");
    char job[1024];

    if (own != NULL)
        return key_from_text(key, own);
    int n = snprintf(job, sizeof(job), "ibot ranks 2|%d|%s", ranks->world, ranks->source);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *text = variable(names[i]);
        n += snprintf(job + n, sizeof(job) - (size_t)n, "|%.150s", text != NULL ? text : "");
    }
    key_from_job(key, job);
    return STATUS_OK;
}

enum status rank_monitor_options_read(struct rank_monitor_options *out,
                                      const struct collective_environment *ranks)
{
    const char *own = variable("IBOT_RANKS_AT"), *master = variable("MASTER_ADDR");
    const char *nodes = variable("SLURM_STEP_NODELIST"), *late = variable("IBOT_RANK_DEADLINE");
    const char *join = variable("IBOT_RANK_JOIN_DEADLINE");
    long seconds = 1800, join_seconds = 600;

    *out = (struct rank_monitor_options){
        .rank = ranks->rank,
        .world = ranks->world,
        .told_ns = 30 * second_ns,
        .say_ns = 15 * second_ns,
        .silent_ns = 30 * second_ns,
        .cut_ns = 3 * second_ns,
        .fail = rank_monitor_end_process,
    };
    TRY(read_key(out->key, ranks));
    if (join != NULL)
        TRY(number("IBOT_RANK_JOIN_DEADLINE", join, 1, 1000000, &join_seconds));
    out->join_ns = join_seconds * second_ns;
    if (late != NULL)
        TRY(number("IBOT_RANK_DEADLINE", late, 1, 1000000, &seconds));
    out->late_ns = seconds * second_ns;
    if (out->late_ns / 2 < out->silent_ns) /* who is gone is late, too: it is called gone */
        out->silent_ns = out->late_ns / 2;
    if (out->silent_ns < out->cut_ns)
        out->cut_ns = out->silent_ns;
    if (own != NULL)
        return from_own(out, own);
    if (master != NULL)
        return from_master(out, master);
    if (nodes != NULL && strcmp(ranks->source, "Slurm") == 0)
        return from_slurm(out, nodes);
    if (is_all_local())
        return from_open_mpi(out);
    FAIL(STATUS_INVALID,
         "%d ranks (%s), but nothing says where rank 0 is: set MASTER_ADDR and MASTER_PORT, or "
         "IBOT_RANKS_AT=HOST:PORT",
         ranks->world, ranks->source);
}
