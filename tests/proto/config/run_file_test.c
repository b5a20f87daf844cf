/* Run files and recipes: every type, precedence, the dump that comes back the same, and every way
 * in which a file can be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/config/options.h"
#include "tests/proto/config/options_test.h"

struct fixture {
    char folder[64], run_file[96], recipe[96];
    struct options_program walk;
};

static int fixture_open(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));

    strcpy(fixture->folder, "/tmp/ibot-options-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    snprintf(fixture->run_file, sizeof(fixture->run_file), "%s/run.yaml", fixture->folder);
    snprintf(fixture->recipe, sizeof(fixture->recipe), "%s/vit_small.yaml", fixture->folder);
    fixture->walk = (struct options_program){.name = "walk",
                                             .specs = walk_specs,
                                             .n_specs = N_WALK_SPECS,
                                             .run_file = true,
                                             .recipe_folders = fixture->folder};
    *state = fixture;
    return 0;
}

static int fixture_close(void **state)
{
    struct fixture *fixture = *state;

    unlink(fixture->run_file);
    unlink(fixture->recipe);
    int removed = rmdir(fixture->folder);
    free(fixture);
    return removed;
}

static void put(const char *path, const char *text, size_t n_bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n_bytes, file), n_bytes);
    assert_int_equal(fclose(file), 0);
}

static enum status parse(const struct fixture *fixture, struct options *options,
                         struct walk_options *values, int n_words, const char *const *words)
{
    char *argv[16] = {(char[]){"walk"}};

    for (int i = 0; i < n_words; i++)
        argv[i + 1] = (char *)words[i];
    memset(values, 0xee, sizeof(*values));
    return options_parse(options, &fixture->walk, values, n_words + 1, argv);
}

static void refuse_bytes(const struct fixture *fixture, const char *text, size_t n_bytes,
                         const char *reason)
{
    const char *words[] = {"--config", fixture->run_file};
    struct walk_options values;
    struct options options;

    put(fixture->run_file, text, n_bytes);
    if (parse(fixture, &options, &values, 2, words) != STATUS_INVALID)
        fail_msg("'%s' is accepted", text);
    if (strstr(status_message(), reason) == NULL)
        fail_msg("'%s': '%s' does not say '%s'", text, status_message(), reason);
    if (strstr(status_message(), fixture->run_file) == NULL)
        fail_msg("'%s' does not name the file", status_message());
}

static void refuse(const struct fixture *fixture, const char *text, const char *reason)
{
    refuse_bytes(fixture, text, strlen(text), reason);
}

static void a_run_file_sets_every_type(void **state)
{
    struct fixture *fixture = *state;
    struct walk_options values;
    struct options options;
    static const char text[] = "# a run\n"
                               "output_dir: \"runs/\\\"a\\\" \\u00e4\"\n"
                               "epochs: 7\n"
                               "warmup-epochs: '3'\n"
                               "seed: -9000000000\n"
                               "momentum: 0.5\n"
                               "lr: 1e-3\n"
                               "shared_head: no\n"
                               "dry_run: True\n"
                               "gait: gallop\n"
                               "pred_ratio: [0, 0.25, 1]\n"
                               "connect:\n  - tcp://a:1,2\n  - b\n";

    put(fixture->run_file, text, strlen(text));
    assert_int_equal(options_parse_file(&options, &fixture->walk, &values, fixture->run_file),
                     STATUS_OK);
    assert_string_equal(values.output_dir, "runs/\"a\" \xc3\xa4");
    assert_int_equal(values.epochs, 7);
    assert_int_equal(values.warmup_epochs, 3);
    assert_true(values.seed == -9000000000);
    assert_true(values.momentum == 0.5f);
    assert_true(values.lr == 1e-3);
    assert_false(values.shared_head);
    assert_true(values.dry_run);
    assert_int_equal(values.gait, GAIT_GALLOP);
    assert_int_equal(values.n_pred_ratio, 3);
    assert_true(values.pred_ratio[1] == 0.25f);
    assert_int_equal(values.n_connect, 2);
    assert_string_equal(values.connect[0], "tcp://a:1,2"); /* items of a YAML list are not cut */
    options_release(&options);
}

static void stronger_sources_win_in_any_order(void **state)
{
    struct fixture *fixture = *state;
    const char *words[] = {"--config", fixture->run_file, "--seed", "4", "--recipe", "vit_small"};
    static const char recipe[] = "epochs: 1\nwarmup_epochs: 1\nseed: 1\nlr: 1\nmomentum: 0.1\n";
    static const char run_file[] = "warmup_epochs: 2\nseed: 2\nlr: 2\n";
    struct walk_options values;
    struct options options;
    char text[256], wanted[256];

    put(fixture->recipe, recipe, strlen(recipe));
    put(fixture->run_file, run_file, strlen(run_file));
    setenv("IBOT_SEED", "3", 1);
    setenv("IBOT_LR", "3", 1);
    assert_int_equal(parse(fixture, &options, &values, 6, words), STATUS_OK);
    unsetenv("IBOT_SEED");
    unsetenv("IBOT_LR");
    assert_int_equal(values.epochs, 1);        /* recipe over default */
    assert_int_equal(values.warmup_epochs, 2); /* run file over recipe */
    assert_true(values.lr == 3);               /* environment over run file */
    assert_int_equal(values.seed, 4);          /* command line over environment */
    snprintf(wanted, sizeof(wanted), "--warmup_epochs 2 (%s:1)", fixture->run_file);
    assert_string_equal(options_describe(&options, "warmup_epochs", text, sizeof(text)), wanted);
    snprintf(wanted, sizeof(wanted), "--momentum 0.1 (%s:5)", fixture->recipe);
    assert_string_equal(options_describe(&options, "momentum", text, sizeof(text)), wanted);
    options_release(&options);
}

static void a_run_file_may_name_its_recipe(void **state)
{
    struct fixture *fixture = *state;
    static const char recipe[] = "epochs: 1\nseed: 1\n";
    char run_file[256];
    struct walk_options values;
    struct options options;

    put(fixture->recipe, recipe, strlen(recipe));
    snprintf(run_file, sizeof(run_file), "seed: 2\nrecipe: %s\n", fixture->recipe);
    put(fixture->run_file, run_file, strlen(run_file));
    assert_int_equal(options_parse_file(&options, &fixture->walk, &values, fixture->run_file),
                     STATUS_OK);
    assert_int_equal(values.epochs, 1);
    assert_int_equal(values.seed, 2);
    options_release(&options);
}

static void a_dump_comes_back_the_same(void **state)
{
    struct fixture *fixture = *state;
    const char *words[] = {"--lr=0.1",
                           "--momentum=0.1",
                           "--pred_ratio=1e-7,0.3,1",
                           "--gait=walk",
                           "--seed=-5",
                           "--connect=no,1,null",
                           "--out=a: #b",
                           "--dry_run",
                           "--warmup_epochs=0",
                           "--epochs=12",
                           "--output_dir=\"\\ \xc3\xa4"};
    struct walk_options values, again;
    struct options options, from_dump;
    char text[256];

    assert_int_equal(parse(fixture, &options, &values, 11, words), STATUS_OK);
    FILE *file = fopen(fixture->run_file, "w");
    assert_non_null(file);
    assert_int_equal(options_dump(&options, file), STATUS_OK);
    assert_int_equal(fclose(file), 0);
    if (options_parse_file(&from_dump, &fixture->walk, &again, fixture->run_file) != STATUS_OK)
        fail_msg("%s", status_message());
    assert_true(again.lr == values.lr && again.momentum == values.momentum);
    assert_memory_equal(again.pred_ratio, values.pred_ratio, 3 * sizeof(float));
    for (size_t i = 0; i < N_WALK_SPECS; i++) {
        char other[256];
        if (!(walk_specs[i].flags & OPTION_COMMAND_LINE_ONLY))
            assert_string_equal(options_text(&from_dump, walk_specs[i].name, other, sizeof(other)),
                                options_text(&options, walk_specs[i].name, text, sizeof(text)));
    }
    assert_string_equal(options_text(&options, "pred_ratio", text, sizeof(text)), "1.0e-07 0.3 1");
    assert_string_equal(options_text(&options, "connect", text, sizeof(text)), "no,1,null");
    assert_string_equal(again.output_dir, "\"\\ \xc3\xa4");
    assert_int_equal(options_digest(&from_dump), options_digest(&options));
    options_release(&options);
    options_release(&from_dump);
}

static void null_means_no_text_or_an_empty_list(void **state)
{
    struct fixture *fixture = *state;
    static const char text[] = "output_dir: null\npred_ratio:\nconnect: ~\n";
    struct walk_options values;
    struct options options;

    put(fixture->run_file, text, strlen(text));
    assert_int_equal(options_parse_file(&options, &fixture->walk, &values, fixture->run_file),
                     STATUS_OK);
    assert_null(values.output_dir);
    assert_int_equal(values.n_pred_ratio, 0);
    assert_int_equal(values.n_connect, 0);
    options_release(&options);
    put(fixture->run_file, "# nothing\n", 10);
    assert_int_equal(options_parse_file(&options, &fixture->walk, &values, fixture->run_file),
                     STATUS_OK);
    options_release(&options);
}

static void wrong_files_are_refused_with_their_line(void **state)
{
    struct fixture *fixture = *state;

    refuse(fixture, "seed: 1\nepoch: 3\n",
           "run.yaml:2: unknown option 'epoch'; did you mean 'epochs'?");
    refuse(fixture, "zzzzzzzzzzzz: 3\n",
           "run.yaml:1: unknown option 'zzzzzzzzzzzz'; see walk --help");
    refuse(fixture, "seed: 1\n\nepochs: 0\n", "run.yaml:3): wanted a whole number of at least 1");
    refuse(fixture, "epochs: many\n", "run.yaml:1): wanted a whole number");
    refuse(fixture, "epochs:\n", "wanted a whole number");
    refuse(fixture, "epochs: [1, 2]\n", "run.yaml:1: found a list; wanted one value");
    refuse(fixture, "pred_ratio: [0, [1]]\n", "found a list; wanted a value in the list");
    refuse(fixture, "pred_ratio: [0, ~]\n", "an empty value in a list");
    refuse(fixture, "pred_ratio: [0, 0, 0, 0, 0]\n", "takes at most 4 values, got 5");
    refuse(fixture, "pred_ratio: [0,\n 3]\n", "run.yaml:1): wanted a number from 0 to 1");
    refuse(fixture, "seed: 1\nseed: 2\n", "run.yaml:2: 'seed' was set on line 1 already");
    refuse(fixture, "out: a\noutput_dir: b\n", "was set on line 1 already");
    refuse(fixture, "data:\n", "unknown option 'data'");
    refuse(fixture, "seed: {a: 1}\n", "found a nested mapping");
    refuse(fixture, "[seed, 1]\n", "found a list; wanted lines of the form");
    refuse(fixture, "only words\n", "found a value; wanted lines of the form");
    refuse(fixture, "? [seed]\n: 1\n", "wanted an option's name");
    refuse(fixture, "seed: &a 1\nepochs: *a\n", "anchors (&) and tags (!)");
    refuse(fixture, "epochs: *a\n", "alias");
    refuse(fixture, "seed: !!int 1\n", "anchors (&) and tags (!)");
    refuse(fixture, "seed: 1\n---\nseed: 2\n", "found another document");
    refuse(fixture, "seed: \"1\n", "not valid YAML");
    refuse(fixture, "seed: 1\n\tlr: 1\n", "run.yaml:2: not valid YAML");
    refuse(fixture, "output_dir: \"a\\0b\"\n", "a zero byte");
    refuse(fixture, "output_dir: \"a\\nb\"\n", "is not printable");
    refuse(fixture, "config: x\n", "'config' cannot stand in a run file");
    refuse(fixture, "threads: 3\n", "'threads' cannot stand in a run file");
    refuse(fixture, "help: on\n", "'help' cannot stand in a run file");
    refuse_bytes(fixture, "seed: \xff\n", 8, "run.yaml");
    refuse_bytes(fixture, "seed: 1\0\n", 9, "run.yaml");
    static char large[(1 << 20) + 1];
    memset(large, '\n', sizeof(large));
    refuse_bytes(fixture, large, sizeof(large), "is longer than 1048576 bytes");
}

static void missing_files_and_recipes_are_named(void **state)
{
    struct fixture *fixture = *state;
    const char *missing[] = {"--config", "/nowhere/run.yaml"};
    const char *folder[] = {"--config", fixture->folder};
    const char *typo[] = {"--recipe", "vit_smal"};
    static const char recursive[] = "recipe: vit_small\n";
    const char *own[] = {"--recipe", "vit_small"};
    struct walk_options values;
    struct options options;

    assert_int_equal(parse(fixture, &options, &values, 2, missing), STATUS_NOT_FOUND);
    assert_string_equal(status_message(),
                        "run file '/nowhere/run.yaml': No such file or directory");
    assert_int_equal(parse(fixture, &options, &values, 2, folder), STATUS_IO);
    assert_non_null(strstr(status_message(), "Is a directory"));
    put(fixture->recipe, recursive, strlen(recursive));
    assert_int_equal(parse(fixture, &options, &values, 2, typo), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "no such recipe; did you mean 'vit_small'? there are: "
                                             "vit_small (in "));
    assert_int_equal(parse(fixture, &options, &values, 2, own), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "'recipe' cannot stand in a recipe"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_run_file_sets_every_type, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(stronger_sources_win_in_any_order, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(a_run_file_may_name_its_recipe, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(a_dump_comes_back_the_same, fixture_open, fixture_close),
        cmocka_unit_test_setup_teardown(null_means_no_text_or_an_empty_list, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(wrong_files_are_refused_with_their_line, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(missing_files_and_recipes_are_named, fixture_open,
                                        fixture_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
