/* The sub-commands of ibot-analyze. */
#ifndef IBOT_TRAINER_ANALYSIS_COMMANDS_H
#define IBOT_TRAINER_ANALYSIS_COMMANDS_H

#include "trainer/command.h"

extern const struct program_command attention_command, correspondence_command, patterns_command;

#endif
