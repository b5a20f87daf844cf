/* Series after range reduction. */
#include "loader/log_uniform.h"

#include <math.h>

static const double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;

double log_uniform_exp(double x)
{
    double n = rint(x / (ln2_high + ln2_low));
    double rest = x - n * ln2_high - n * ln2_low, sum = 1.0;

    for (int k = 16; k >= 1; k--) /* |rest| <= 0.35: the 17th term is below 1e-22 */
        sum = 1.0 + sum * rest / k;
    return ldexp(sum, (int)n);
}

double log_uniform_log(double x)
{
    int exponent;
    double m = frexp(x, &exponent);

    if (m < 0.70710678118654752) {
        m *= 2.0;
        exponent--;
    }
    double s = (m - 1.0) / (m + 1.0), square = s * s, sum = 0.0;
    for (int k = 23; k >= 1; k -= 2) /* ln m = 2 artanh(s), |s| <= 0.172 */
        sum = sum * square + 1.0 / k;
    return 2.0 * s * sum + exponent * ln2_low + exponent * ln2_high;
}

double log_uniform_draw(struct rng *rng, double low, double high)
{
    double log_low = log_uniform_log(low), log_high = log_uniform_log(high);

    return log_uniform_exp(rng_range(rng, log_low, log_high));
}
