/* ibot-analyze: what a trained backbone looks at and what it tells apart, one sub-command each. */
#include "trainer/analysis/commands.h"

static const struct program_command *const entries[] = {&attention_command, &correspondence_command,
                                                        &patterns_command};

int main(int argc, char **argv)
{
    const struct command_set commands = {
        .name = "ibot-analyze",
        .summary = "Look into a trained backbone.",
        .entries = entries,
        .n = sizeof(entries) / sizeof(entries[0]),
    };
    return command_main(&commands, argc, argv);
}
