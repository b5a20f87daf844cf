/* The sub-commands of ibot-eval. */
#ifndef IBOT_TRAINER_EVAL_COMMANDS_H
#define IBOT_TRAINER_EVAL_COMMANDS_H

#include "trainer/command.h"

extern const struct program_command cluster_command, coco_command, copy_detection_command,
    curve_command, finetune_command, knn_command, linear_command, logistic_command,
    retrieval_command, robustness_command, segment_command, video_command;

#endif
