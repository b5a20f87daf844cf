/* How well a ranking finds what it should: average precision and precision at k, with images that
 * count neither as right nor as wrong. Source: Radenovic et al. 2018 (revisited Oxford and Paris),
 * Jegou et al. 2008 (Holidays, Copydays): the area under the curve of precision over recall, by
 * trapezoids. */
#ifndef IBOT_TRAINER_EVAL_RANKING_H
#define IBOT_TRAINER_EVAL_RANKING_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

/* ranks [n_found], rising, from 0: where right ones are; n_right: how many there are at all, > 0.
 */
double average_precision(const int64_t *ranks, int64_t n_found, int64_t n_right);

/* What each item of a database is to a query. */
enum relevance { RANK_WRONG, RANK_RIGHT, RANK_JUNK };

enum { RANKING_MAX_K = 8 };

struct ranking_score {
    double average_precision, precision[RANKING_MAX_K];
};

/* order [n]: items, the best first; relevance [n] of each item, not of each place. Junk is passed
 * over. Precision at k counts to the last right one, if that comes before. False: nothing is right,
 * and there is no score. */
bool ranking_score(struct ranking_score *out, const int32_t *order, const uint8_t *relevance,
                   int64_t n, const int32_t *ks, int32_t n_ks);

/* order [n] out: rows of the database [n, dim] by their product with the query [dim], the greatest
 * first, the first of equals. products [n]: scratch, and the products. */
void ranking_order(int32_t *order, float *products, const float *query, const float *database,
                   int64_t n, int32_t dim);

#endif
