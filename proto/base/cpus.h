/* How many processors this process may use: not those of the machine, of which a batch system or a
 * container may have given it a few. */
#ifndef IBOT_PROTO_BASE_CPUS_H
#define IBOT_PROTO_BASE_CPUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* The least of what its affinity and its control group's quota allow; at least 1. */
int cpus_usable(void);

/* Of those, what falls to each of n processes that do the same on this machine (ranks); at least 1.
 * A process that is bound to a part of the machine shares that part with those that are bound to it
 * too: as many as there are when all parts are alike. */
int cpus_share(int n_processes);

/* Processors that a quota makes, rounded up: the content of cpu.max, "QUOTA PERIOD" or "max
 * PERIOD". INT_MAX: no limit, or no such text. */
int cpus_of_quota(const char *text);

#ifdef __cplusplus
}
#endif

#endif
