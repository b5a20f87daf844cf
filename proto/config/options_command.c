/* Programs with sub-commands: which table the rest of the words belongs to. */
#include <string.h>

#include "proto/config/nearest.h"
#include "proto/config/options.h"

/* The word of a sub-command: "knn" of "ibot-eval knn". */
static const char *command_word(const struct options_program *program)
{
    const char *blank = strrchr(program->name, ' ');
    return blank != NULL ? blank + 1 : program->name;
}

enum status options_command(const struct options_program **chosen, const char *program,
                            const char *summary, const struct options_program *const *commands,
                            size_t n_commands, int argc, char *const *argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    struct nearest nearest = nearest_open(word);

    *chosen = NULL;
    for (size_t i = 0; i < n_commands; i++) {
        if (strcmp(command_word(commands[i]), word) == 0) {
            *chosen = commands[i];
            return STATUS_OK;
        }
        nearest_offer(&nearest, command_word(commands[i]));
    }
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) {
        printf("%s %s\n", program, IBOT_VERSION);
        return STATUS_OK;
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        printf("Usage: %s COMMAND [OPTION...]\n%s\n\nCommands:\n", program, summary);
        for (size_t i = 0; i < n_commands; i++)
            printf("  %-16s %.*s\n", command_word(commands[i]),
                   (int)strcspn(commands[i]->summary, "\n"), commands[i]->summary);
        printf("\n%s COMMAND --help lists the options of each.\n", program);
        return STATUS_OK;
    }
    if (argc < 2)
        FAIL(STATUS_INVALID, "a command is missing; see %s --help", program);
    if (nearest_result(&nearest) != NULL)
        FAIL(STATUS_INVALID, "unknown command '%.100s'; did you mean '%s'?", word,
             nearest_result(&nearest));
    FAIL(STATUS_INVALID, "unknown command '%.100s'; see %s --help", word, program);
}
