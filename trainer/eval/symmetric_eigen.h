/* Eigenvalues and eigenvectors of a symmetric matrix, in double precision. Source: Golub & Van
 * Loan, Matrix Computations, 8.3: Householder's reduction to a tridiagonal matrix, then implicit QR
 * steps with Wilkinson's shift. */
#ifndef IBOT_TRAINER_EVAL_SYMMETRIC_EIGEN_H
#define IBOT_TRAINER_EVAL_SYMMETRIC_EIGEN_H

#include <stdint.h>

#include "proto/base/status.h"

/* values [n] out, in no order; vectors [n, n] out: one of unit length in each row; matrix [n, n]
 * in, all of it, overwritten. Errors are about as large as the greatest value times 1e-15 n, of
 * small values too. The result does not depend on the number of threads. Errors: STATUS_NOT_FINITE
 * (an element is not finite), STATUS_NO_MEMORY. */
enum status symmetric_eigen(double *values, double *vectors, double *matrix,
                            int32_t n) IBOT_WARN_UNUSED;

#endif
