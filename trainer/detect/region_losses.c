#include "trainer/detect/region_losses.h"

#include <math.h>

float region_sigmoid(float x)
{
    return x >= 0.0f ? 1.0f / (1.0f + expf(-x)) : expf(x) / (1.0f + expf(x));
}

float region_binary_loss(float *d_logit, float x, float target)
{
    *d_logit = region_sigmoid(x) - target;
    return fmaxf(x, 0.0f) - x * target + log1pf(expf(-fabsf(x)));
}

float region_smooth_loss(float *d_x, float x, float beta)
{
    if (fabsf(x) < beta) {
        *d_x = x / beta;
        return 0.5f * x * x / beta;
    }
    *d_x = x > 0.0f ? 1.0f : -1.0f;
    return fabsf(x) - 0.5f * beta;
}

/* Probabilities, and the logarithm of what they were divided by. */
static float normalise(float *out, const float *logits, int32_t n)
{
    float most = logits[0], sum = 0.0f;

    for (int32_t i = 1; i < n; i++)
        most = fmaxf(most, logits[i]);
    for (int32_t i = 0; i < n; i++) {
        out[i] = expf(logits[i] - most);
        sum += out[i];
    }
    for (int32_t i = 0; i < n; i++)
        out[i] /= sum;
    return most + logf(sum);
}

void region_softmax(float *out, const float *logits, int32_t n)
{
    (void)normalise(out, logits, n);
}

float region_class_loss(float *d_logits, const float *logits, int32_t n, int32_t label)
{
    float log_sum = normalise(d_logits, logits, n), loss = log_sum - logits[label];

    d_logits[label] -= 1.0f;
    return loss;
}
