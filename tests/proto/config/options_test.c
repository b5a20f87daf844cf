/* Options: the command line, the environment, precedence, help, and every message a user can cause.
 */
#include "proto/config/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/proto/config/options_test.h"

enum { MAX_WORDS = 24 };

static const struct options_program walk = {
    .name = "walk",
    .summary = "Walks.",
    .epilogue = "Examples:\n  walk --epochs 3",
    .specs = walk_specs,
    .n_specs = N_WALK_SPECS,
    .positional = "PLACE",
    .max_positional = 2,
    .run_file = true,
};

/* Parses "a b c" as the words after the program's name. */
static enum status parse(struct options *options, const struct options_program *program,
                         struct walk_options *values, const char *line)
{
    char copy[1024], *words[MAX_WORDS] = {(char[]){"walk"}}, *rest;
    int n = 1;

    snprintf(copy, sizeof(copy), "%s", line);
    for (char *word = strtok_r(copy, " ", &rest); word != NULL; word = strtok_r(NULL, " ", &rest))
        words[n++] = word;
    memset(values, 0xee, sizeof(*values)); /* nothing may be left as it was */
    return options_parse(options, program, values, n, words);
}

static void accept(struct options *options, struct walk_options *values, const char *line)
{
    if (parse(options, &walk, values, line) != STATUS_OK)
        fail_msg("'%s': %s", line, status_message());
}

static void refuse(const char *line, const char *text)
{
    struct walk_options values;
    struct options options;

    if (parse(&options, &walk, &values, line) != STATUS_INVALID)
        fail_msg("'%s' is accepted", line);
    if (strstr(status_message(), text) == NULL)
        fail_msg("'%s': '%s' does not say '%s'", line, status_message(), text);
    assert_int_equal(status_exit_code(STATUS_INVALID), 2);
    assert_null(options.origins); /* released */
}

static void defaults_fill_every_field(void **state)
{
    struct walk_options values;
    struct options options;
    (void)state;

    accept(&options, &values, "");
    assert_null(values.output_dir);
    assert_int_equal(values.epochs, 100);
    assert_int_equal(values.warmup_epochs, 10);
    assert_int_equal(values.seed, 0);
    assert_true(values.momentum == 0.996f);
    assert_true(values.lr == 5e-4);
    assert_true(values.shared_head);
    assert_false(values.dry_run);
    assert_int_equal(values.gait, GAIT_RUN);
    assert_int_equal(values.n_pred_ratio, 2);
    assert_true(values.pred_ratio[0] == 0 && values.pred_ratio[1] == 0.3f);
    assert_int_equal(values.n_connect, 0);
    assert_false(options_is_set(&options, "epochs"));
    assert_false(options.finished);
    options_release(&options);
    options_release(&options);
}

static void names_may_use_dashes_and_be_cut_short(void **state)
{
    struct walk_options values;
    struct options options;
    (void)state;

    accept(&options, &values,
           "--warmup-epochs 3 --mom=0.5 --shared-head=off --seed -7 --out d -e 9 --secret 2");
    assert_int_equal(values.warmup_epochs, 3);
    assert_true(values.momentum == 0.5f);
    assert_false(values.shared_head);
    assert_int_equal(values.seed, -7);
    assert_string_equal(values.output_dir, "d");
    assert_int_equal(values.epochs, 9);
    assert_int_equal(values.secret, 2);
    assert_true(options_is_set(&options, "epochs"));
    options_release(&options);
}

static void lists_take_following_words_commas_or_an_equals_sign(void **state)
{
    static const char *const lines[] = {
        "--pred_ratio 0.1 0.2 0.5 --epochs 2",
        "--pred_ratio 0.1,0.2,0.5",
        "--pred_ratio=0.1,0.2,0.5",
        "--pred_ratio 0.1, 0.2 0.5",
        "--pred_ratio 1 1 --pred_ratio .1 .2 5e-1",
    };
    (void)state;

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct walk_options values;
        struct options options;
        accept(&options, &values, lines[i]);
        assert_int_equal(values.n_pred_ratio, 3);
        assert_true(values.pred_ratio[0] == 0.1f && values.pred_ratio[2] == 0.5f);
        options_release(&options);
    }
}

static void mentions_of_a_text_list_add_up(void **state)
{
    struct walk_options values;
    struct options options;
    (void)state;

    accept(&options, &values, "--connect tcp://a:1,tcp://b:2 c --epochs 2 --connect=d");
    assert_int_equal(values.n_connect, 4);
    assert_string_equal(values.connect[0], "tcp://a:1");
    assert_string_equal(values.connect[1], "tcp://b:2");
    assert_string_equal(values.connect[2], "c");
    assert_string_equal(values.connect[3], "d");
    options_release(&options);
    accept(&options, &values, "--connect=");
    assert_int_equal(values.n_connect, 0);
    options_release(&options);
}

static void booleans_take_a_word_or_none(void **state)
{
    static const struct {
        const char *line;
        bool shared, dry;
    } cases[] = {
        {"--dry_run", true, true},
        {"--dry_run --shared_head false", false, true},
        {"--dry_run TRUE --shared_head=0", false, true},
        {"--dry_run no --shared_head yes", true, false},
        {"--dry_run there --shared_head off", false, true},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct walk_options values;
        struct options options;
        accept(&options, &values, cases[i].line);
        assert_int_equal(values.shared_head, cases[i].shared);
        assert_int_equal(values.dry_run, cases[i].dry);
        options_release(&options);
    }
}

static void words_that_belong_to_no_option_are_positional(void **state)
{
    struct walk_options values;
    struct options options;
    (void)state;

    accept(&options, &values, "here --epochs 3 -- --there");
    assert_int_equal(options.n_positional, 2);
    assert_string_equal(options.positional[0], "here");
    assert_string_equal(options.positional[1], "--there");
    options_release(&options);
}

static void wrong_command_lines_are_refused_with_the_reason(void **state)
{
    (void)state;
    refuse("--warmup_epoch_s 3",
           "unknown option '--warmup_epoch_s'; did you mean '--warmup_epochs'?");
    refuse("--epcohs=3", "did you mean '--epochs'?");
    refuse("--lrr 3", "did you mean '--lr'?");
    refuse("--quite_another_thing", "see walk --help");
    refuse("--s 1", "--s can mean --seed or --shared_head");
    refuse("--lr", "--lr needs a value");
    refuse("--lr --epochs 3", "--lr needs a value, but '--epochs' follows");
    refuse("--output_dir --epochs 3", "--output_dir needs a value");
    refuse("--pred_ratio", "--pred_ratio needs a value");
    refuse("-o", "-o needs a value");
    refuse("-x", "unknown option '-x'");
    refuse("--epochs 0", "--epochs 0 (command line): wanted a whole number of at least 1");
    refuse("--epochs 2.5", "wanted a whole number");
    refuse("--epochs 3x", "wanted a whole number");
    refuse("--epochs=", "wanted a whole number");
    refuse("--epochs 3000000000", "wanted a whole number");
    refuse("--seed 9223372036854775808", "wanted a whole number");
    refuse("--warmup_epochs 1001", "wanted a whole number from 0 to 1000 epochs");
    refuse("--warmup_epochs -1", "wanted a whole number from 0 to 1000 epochs");
    refuse("--lr nan", "wanted a number from 0 to 10");
    refuse("--lr inf", "wanted a number");
    refuse("--lr 0x10", "wanted a number");
    refuse("--lr 1e", "wanted a number");
    refuse("--lr 1e400", "wanted a number");
    refuse("--momentum 1.001", "--momentum 1.001 (command line): wanted a number from 0 to 1");
    refuse("--dry_run=maybe", "--dry_run maybe (command line): wanted on or off");
    refuse("--gait trot", "wanted one of walk, run, gallop");
    refuse("--gait galop", "did you mean 'gallop'?");
    refuse("--pred_ratio 0 2", "--pred_ratio 2 (command line): wanted a number from 0 to 1");
    refuse("--pred_ratio 0 0 0 0 0", "takes at most 4 values, got 5");
    refuse("--connect a,b,c,d,e", "takes at most 4 values, got 5");
    refuse("--connect a,b,c --connect d,e", "takes at most 4 values, got 5");
    refuse("--output_dir a\x01z", "byte 2 (0x01) is not printable UTF-8");
    refuse("--output_dir a\xffz", "byte 2 (0xff) is not printable UTF-8");
    refuse("one two three", "unexpected word 'three'");
    refuse("--help=3", "--help takes no value");
    refuse("--=3", "is not an option");
    refuse("--recipe x", "unknown option '--recipe'");
}

static void needed_words_and_options_are_asked_for(void **state)
{
    struct option_spec needed[N_WALK_SPECS];
    struct options_program program = walk;
    struct walk_options values;
    struct options options;
    (void)state;

    program.min_positional = 1;
    assert_int_equal(parse(&options, &program, &values, "--epochs 3"), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "PLACE is missing"));

    memcpy(needed, walk_specs, sizeof(needed));
    needed[0].flags |= OPTION_REQUIRED;  /* output_dir */
    needed[10].flags |= OPTION_REQUIRED; /* connect */
    program = walk;
    program.specs = needed;
    assert_int_equal(parse(&options, &program, &values, "--connect a"), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "--output_dir is needed: where to put everything"));
    assert_int_equal(parse(&options, &program, &values, "-o x"), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "--connect is needed"));
    assert_int_equal(parse(&options, &program, &values, "-o x --connect a"), STATUS_OK);
    options_release(&options);
    assert_int_equal(parse(&options, &program, &values, "--help"), STATUS_OK);
    options_release(&options);
}

/* Of a table that stands in another one, twice removed. */
struct pace {
    int32_t steps;
    float ratios[2];
    int32_t n_ratios;
};

struct outing {
    char padding[24];
    struct {
        bool warm;
        struct pace pace;
    } kit;
    const char *to;
};

static const struct option_spec pace_specs[] = {
    {.name = "steps",
     .type = OPTION_INT32,
     .offset = offsetof(struct pace, steps),
     .text = "3",
     .help = "how far"},
    {.name = "ratios",
     .type = OPTION_FLOAT_LIST,
     .offset = offsetof(struct pace, ratios),
     .count_offset = offsetof(struct pace, n_ratios),
     .capacity = 2,
     .text = "1"},
};
static const struct option_part pace_rows = {pace_specs, 2};
static const struct option_spec kit_specs[] = {
    {.name = "warm", .type = OPTION_BOOL, .text = "off", .group = "Own"},
    {.part = &pace_rows,
     .offset = offsetof(struct outing, kit.pace) - offsetof(struct outing, kit),
     .text = "4",
     .flags = OPTION_OUTSIDE_DIGEST},
};
static const struct option_part kit_rows = {kit_specs, 2};
static const struct option_spec outing_specs[] = {
    {.part = &kit_rows, .offset = offsetof(struct outing, kit), .group = "Kit"},
    {.name = "to", .type = OPTION_STRING, .offset = offsetof(struct outing, to), .text = "sea"},
};

static enum status parse_outing(struct options *options, struct outing *values, int n,
                                char *const *words)
{
    static const struct options_program program = {
        .name = "outing", .summary = "Goes.", .specs = outing_specs, .n_specs = 2};
    memset(values, 0xee, sizeof(*values));
    return options_parse(options, &program, values, n, words);
}

static void a_table_stands_within_another(void **state)
{
    struct outing values;
    struct options options;
    (void)state;

    assert_int_equal(parse_outing(&options, &values, 4,
                                  (char *[]){"outing", "--steps=7", "--warm", "--ratios=2,3"}),
                     STATUS_OK);
    assert_int_equal(values.kit.pace.steps, 7);
    assert_true(values.kit.warm);
    assert_int_equal(values.kit.pace.n_ratios, 2);
    assert_true(values.kit.pace.ratios[1] == 3.0f);
    assert_string_equal(values.to, "sea");
    assert_int_equal(options.n_specs, 4);
    assert_string_equal(options.specs[0].group, "Kit");
    assert_null(options.specs[1].group);
    assert_true(options_is_set(&options, "ratios"));
    assert_false(options_is_set(&options, "to"));
    uint64_t digest = options_digest(&options);
    options_release(&options);

    /* flags of the row that the part stands in are those of its rows */
    assert_int_equal(
        parse_outing(&options, &values, 3, (char *[]){"outing", "--steps=8", "--warm"}), STATUS_OK);
    assert_true(options_digest(&options) == digest);
    options_release(&options);
    assert_int_equal(parse_outing(&options, &values, 1, (char *[]){"outing"}), STATUS_OK);
    assert_int_equal(values.kit.pace.steps, 4); /* not 3, as elsewhere */
    assert_true(options_digest(&options) != digest);
    options_release(&options);
    assert_int_equal(parse_outing(&options, &values, 2, (char *[]){"outing", "--step=x"}),
                     STATUS_INVALID);
    assert_non_null(strstr(status_message(), "--steps"));
}

static void the_environment_is_weaker_than_the_command_line(void **state)
{
    struct walk_options values;
    struct options options;
    char text[256];
    (void)state;

    setenv("IBOT_EPOCHS", "7", 1);
    setenv("IBOT_WARMUP_EPOCHS", "8", 1);
    setenv("IBOT_PRED_RATIO", "0.5, 1", 1);
    setenv("IBOT_CONNECT", "tcp://a:1,b c", 1);
    setenv("IBOT_THREADS", "99", 1); /* command line only */
    accept(&options, &values, "--epochs 3");
    assert_int_equal(values.epochs, 3);
    assert_int_equal(values.warmup_epochs, 8);
    assert_int_equal(values.n_pred_ratio, 2);
    assert_true(values.pred_ratio[1] == 1);
    assert_int_equal(values.n_connect, 2);
    assert_string_equal(values.connect[1], "b c");
    assert_int_equal(values.threads, 1);
    assert_string_equal(options_describe(&options, "warmup_epochs", text, sizeof(text)),
                        "--warmup_epochs 8 (environment)");
    assert_string_equal(options_describe(&options, "epochs", text, sizeof(text)),
                        "--epochs 3 (command line)");
    assert_string_equal(options_describe(&options, "seed", text, sizeof(text)),
                        "--seed 0 (default)");
    options_release(&options);

    setenv("IBOT_EPOCHS", "0", 1);
    refuse("--epochs 3", "--epochs 0 (environment): wanted");
    unsetenv("IBOT_EPOCHS");
    unsetenv("IBOT_WARMUP_EPOCHS");
    unsetenv("IBOT_PRED_RATIO");
    unsetenv("IBOT_CONNECT");
    unsetenv("IBOT_THREADS");
}

/* What a call prints on stdout. */
static char *printed(const char *line, enum status *status, struct options *options)
{
    struct walk_options values;
    FILE *file = tmpfile();
    int kept = dup(STDOUT_FILENO);

    assert_non_null(file);
    fflush(stdout);
    dup2(fileno(file), STDOUT_FILENO);
    *status = parse(options, &walk, &values, line);
    fflush(stdout);
    dup2(kept, STDOUT_FILENO);
    close(kept);
    long n = ftell(file);
    char *text = calloc(1, (size_t)n + 1);
    rewind(file);
    assert_int_equal(fread(text, 1, (size_t)n, file), n);
    fclose(file);
    return text;
}

static void help_shows_groups_defaults_units_and_choices(void **state)
{
    static const char *const wanted[] = {
        "Usage: walk [OPTION...] [PLACE]",
        "Walks.",
        "Files:",
        "-o, --output_dir=DIR, --out=DIR",
        "Schedule:",
        "number of epochs (default: 100)",
        "(epochs; default: 10)",
        "default: 0 0.3",
        "one of walk, run, gallop; default: run",
        "--dry_run[=on|off]",
        "General:",
        "--config=FILE",
        "-h, --help",
        "--version",
        "IBOT_NAME",
        "  walk --epochs 3\n",
    };
    struct options options;
    enum status status;
    char *text = printed("--help --nonsense-is-not-read", &status, &options);
    (void)state;

    /* Names are checked before anything is answered. */
    assert_int_equal(status, STATUS_INVALID);
    free(text);
    text = printed("-h", &status, &options);
    assert_int_equal(status, STATUS_OK);
    assert_true(options.finished);
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        if (strstr(text, wanted[i]) == NULL)
            fail_msg("'%s' is not in the help:\n%s", wanted[i], text);
    assert_null(strstr(text, "secret"));
    assert_null(strstr(text, "--recipe"));
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1)
        assert_true(end - line < 80);
    free(text);
    options_release(&options);
}

static void version_names_the_program(void **state)
{
    struct options options;
    enum status status;
    (void)state;

    char *text = printed("--version", &status, &options);
    assert_int_equal(status, STATUS_OK);
    assert_true(options.finished);
    assert_string_equal(text, "walk " IBOT_VERSION "\n");
    free(text);
    options_release(&options);
}

static void the_digest_follows_what_changes_results(void **state)
{
    static const char *const same[] = {"--epochs 100", "-o somewhere", "--connect a", "--threads 8",
                                       "--lr 0.0005"};
    static const char *const different[] = {
        "--epochs 101",      "--pred_ratio 0",  "--gait walk", "--seed 1",
        "--shared_head off", "--lr 0.00050001", "--dry_run",   "--pred_ratio 0 0.3 0"};
    struct walk_options values;
    struct options options;
    (void)state;

    accept(&options, &values, "");
    uint64_t digest = options_digest(&options);
    options_release(&options);
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        accept(&options, &values, same[i]);
        assert_int_equal(options_digest(&options), digest);
        options_release(&options);
    }
    for (size_t i = 0; i < sizeof(different) / sizeof(different[0]); i++) {
        accept(&options, &values, different[i]);
        assert_int_not_equal(options_digest(&options), digest);
        options_release(&options);
    }
}

static void sub_commands_are_found_by_their_word(void **state)
{
    static const struct options_program knn = {
        .name = "ibot-eval knn", .summary = "Neighbours.", .specs = walk_specs, .n_specs = 2};
    static const struct options_program linear = {
        .name = "ibot-eval linear", .summary = "A layer.", .specs = walk_specs, .n_specs = 2};
    static const struct options_program *const commands[] = {&knn, &linear};
    char *found[] = {(char[]){"ibot-eval"}, (char[]){"linear"}, NULL};
    char *typo[] = {(char[]){"ibot-eval"}, (char[]){"knnn"}, NULL};
    const struct options_program *chosen;
    (void)state;

    assert_int_equal(options_command(&chosen, "ibot-eval", "Evaluates.", commands, 2, 2, found),
                     STATUS_OK);
    assert_ptr_equal(chosen, &linear);
    assert_int_equal(options_command(&chosen, "ibot-eval", "Evaluates.", commands, 2, 2, typo),
                     STATUS_INVALID);
    assert_string_equal(status_message(), "unknown command 'knnn'; did you mean 'knn'?");
    assert_int_equal(options_command(&chosen, "ibot-eval", "Evaluates.", commands, 2, 1, typo),
                     STATUS_INVALID);
    assert_string_equal(status_message(), "a command is missing; see ibot-eval --help");
    assert_null(chosen);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_fill_every_field),
        cmocka_unit_test(names_may_use_dashes_and_be_cut_short),
        cmocka_unit_test(lists_take_following_words_commas_or_an_equals_sign),
        cmocka_unit_test(mentions_of_a_text_list_add_up),
        cmocka_unit_test(booleans_take_a_word_or_none),
        cmocka_unit_test(words_that_belong_to_no_option_are_positional),
        cmocka_unit_test(wrong_command_lines_are_refused_with_the_reason),
        cmocka_unit_test(needed_words_and_options_are_asked_for),
        cmocka_unit_test(a_table_stands_within_another),
        cmocka_unit_test(the_environment_is_weaker_than_the_command_line),
        cmocka_unit_test(help_shows_groups_defaults_units_and_choices),
        cmocka_unit_test(version_names_the_program),
        cmocka_unit_test(the_digest_follows_what_changes_results),
        cmocka_unit_test(sub_commands_are_found_by_their_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
