/* Times of repeats, and what is said of them. */
#ifndef IBOT_TESTS_BENCH_SAMPLES_H
#define IBOT_TESTS_BENCH_SAMPLES_H

struct quartiles {
    double least, first, median, third, most;
};

/* Sorts the values. Of a median between two: their mean; other quartiles: the value at n/4, 3n/4.
 */
struct quartiles samples_quartiles(double *values, int n);

#endif
