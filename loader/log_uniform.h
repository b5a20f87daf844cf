/* Aspect ratios: uniform in their logarithm. exp and log are computed here, from sums, products and
 * quotients alone, since those of C libraries differ in their last bits, and two loaders must draw
 * the same crop. */
#ifndef IBOT_LOADER_LOG_UNIFORM_H
#define IBOT_LOADER_LOG_UNIFORM_H

#include "proto/base/rng.h"

/* exp(uniform(ln low, ln high)); 0 < low <= high. */
double log_uniform_draw(struct rng *rng, double low, double high);

/* Within 2e-15 of the true value, relative (exp) or absolute (log). */
double log_uniform_exp(double x); /* |x| <= 700 */
double log_uniform_log(double x); /* x > 0, normal */

#endif
