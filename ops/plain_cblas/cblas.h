/* The one function of CBLAS that ops/ calls, for builds where no CBLAS is found (IBOT_PARTIAL):
 * right, and slow. Where there is one, this folder is not looked into. */
#ifndef IBOT_OPS_PLAIN_CBLAS_CBLAS_H
#define IBOT_OPS_PLAIN_CBLAS_CBLAS_H

#ifdef __cplusplus
extern "C" {
#endif

enum CBLAS_ORDER { CblasRowMajor = 101 };
typedef enum CBLAS_TRANSPOSE { CblasNoTrans = 111, CblasTrans = 112 } CBLAS_TRANSPOSE;

/* c [m, n] = beta c + alpha op(a) op(b), row by row; op(a) is [m, k], op(b) is [k, n]. With beta 0
 * what c held is not read. */
void cblas_sgemm(enum CBLAS_ORDER order, CBLAS_TRANSPOSE op_a, CBLAS_TRANSPOSE op_b, int m, int n,
                 int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta,
                 float *c, int ldc);

#ifdef __cplusplus
}
#endif

#endif
