/* Losses of single values and rows, with their gradients. */
#ifndef IBOT_TRAINER_DETECT_REGION_LOSSES_H
#define IBOT_TRAINER_DETECT_REGION_LOSSES_H

#include <stdint.h>

/* Cross-entropy of a logit with a target of 0 to 1, in nats. */
float region_binary_loss(float *d_logit, float logit, float target);

/* x*x/(2*beta) below beta, |x| - beta/2 beyond (Girshick 2015, Fast R-CNN; beta: Huber 1964). */
float region_smooth_loss(float *d_x, float x, float beta);

/* Cross-entropy of n logits with a label, in nats. */
float region_class_loss(float *d_logits, const float *logits, int32_t n, int32_t label);

/* Probabilities of n logits. */
void region_softmax(float *out, const float *logits, int32_t n);
float region_sigmoid(float logit);

#endif
