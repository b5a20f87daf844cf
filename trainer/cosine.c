#include "trainer/cosine.h"

#include <math.h>

double cosine_schedule(double start, double base, double final, int64_t warmup, int64_t n_steps,
                       int64_t step)
{
    if (step < warmup - 1)
        return start + (base - start) / (double)(warmup - 1) * (double)step;
    if (step < warmup)
        return warmup > 1 ? base : start;
    double progress = (double)(step - warmup) / (double)(n_steps - warmup);
    return final + 0.5 * (base - final) * (1.0 + cos(M_PI * progress));
}
