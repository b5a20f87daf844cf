/* ibot-eval: evaluations of a trained backbone, one sub-command each. */
#include "trainer/eval/commands.h"

static const struct program_command *const entries[] = {
    &knn_command,      &linear_command,    &finetune_command,       &cluster_command,
    &logistic_command, &retrieval_command, &copy_detection_command, &robustness_command,
    &segment_command,  &video_command,     &coco_command,           &curve_command,
};

int main(int argc, char **argv)
{
    const struct command_set commands = {
        .name = "ibot-eval",
        .summary = "Evaluate a trained backbone.",
        .entries = entries,
        .n = sizeof(entries) / sizeof(entries[0]),
    };
    return command_main(&commands, argc, argv);
}
