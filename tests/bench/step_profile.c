#include "tests/bench/step_profile.h"

static struct {
    const struct op_table *ops;
    struct device_timer *timer;
    struct step_profile_row rows[N_STEP_OPS];
    enum step_op calls[STEP_PROFILE_CALLS];
    int n_calls; /* since the last collect */
} profile;

static enum status begin(enum step_op op)
{
    if (profile.timer == NULL)
        return STATUS_OK;
    CHECK(profile.n_calls < STEP_PROFILE_CALLS, "more than %d calls in a step", STEP_PROFILE_CALLS);
    profile.calls[profile.n_calls] = op;
    return device_timer_mark(profile.timer, 2 * profile.n_calls);
}

static enum status end(enum step_op op, struct op_work work)
{
    struct step_profile_row *row = &profile.rows[op];

    row->n_calls++;
    row->work.flop += work.flop;
    row->work.bytes += work.bytes;
    return profile.timer != NULL ? device_timer_mark(profile.timer, 2 * profile.n_calls++ + 1)
                                 : STATUS_OK;
}

#define WRAPPER(slot, type)                                                                        \
    static enum status noted_##slot(struct device *device, const struct type *args)                \
    {                                                                                              \
        TRY(begin(OP_##slot));                                                                     \
        TRY(profile.ops->slot(device, args));                                                      \
        return end(OP_##slot, work_of_##slot(args));                                               \
    }
STEP_OPS(WRAPPER)

struct op_table step_profile_open(const struct op_table *ops, struct device_timer *timer)
{
    struct op_table table = *ops;

    profile.ops = ops;
    profile.timer = timer;
    step_profile_reset();
#define REPLACE(slot, args)                                                                        \
    if (table.slot != NULL)                                                                        \
        table.slot = noted_##slot;
    STEP_OPS(REPLACE)
    return table;
}

void step_profile_reset(void)
{
#define ROW(slot, args) profile.rows[OP_##slot] = (struct step_profile_row){.name = #slot};
    STEP_OPS(ROW)
    profile.n_calls = 0;
}

enum status step_profile_collect(void)
{
    for (int i = 0; i < profile.n_calls; i++) {
        double seconds;
        TRY(device_timer_seconds(profile.timer, 2 * i, 2 * i + 1, &seconds));
        profile.rows[profile.calls[i]].seconds += seconds;
    }
    profile.n_calls = 0;
    return STATUS_OK;
}

const struct step_profile_row *step_profile_rows(void)
{
    return profile.rows;
}
