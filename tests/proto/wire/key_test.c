/* Keys as text and files: what is written is read back, what others could have read is refused, and
 * a list says which line is wrong. */
#include "proto/wire/key.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64], path[128];

static int open_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/ibot-key-XXXXXX");
    return mkdtemp(folder) == NULL;
}

static int close_folder(void **state)
{
    char command[128];
    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    return system(command);
}

static const char *in_folder(const char *name)
{
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static void write_text(const char *name, const char *text, mode_t mode)
{
    FILE *file = fopen(in_folder(name), "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    assert_int_equal(chmod(path, mode), 0);
}

static void hex_comes_back_and_nothing_else_is_read(void **state)
{
    struct key_pair pair;
    struct key again;
    char hex[KEY_TEXT_BYTES];
    (void)state;
    assert_int_equal(key_pair_generate(&pair), STATUS_OK);
    key_format(&pair.public_half, hex);
    assert_int_equal(strlen(hex), 64);
    assert_true(key_parse(&again, hex, 64));
    assert_memory_equal(&again, &pair.public_half, sizeof(again));
    for (size_t n = 0; n < 64; n++)
        assert_false(key_parse(&again, hex, n));
    hex[10] = 'g';
    assert_false(key_parse(&again, hex, 64));
    assert_true(
        key_parse(&again, "00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff", 64));
    assert_int_equal(again.bytes[10], 0xaa);
    assert_int_equal(again.bytes[31], 0xff);
}

static void a_pair_is_written_for_its_owner_alone_and_read_back(void **state)
{
    struct key_pair pair, other, again;
    struct key public_half;
    struct stat info;
    char secret[128], public[128];
    (void)state;
    umask(0);
    snprintf(secret, sizeof(secret), "%s/node.secret", folder);
    snprintf(public, sizeof(public), "%s/node.public", folder);
    assert_int_equal(key_pair_generate(&pair), STATUS_OK);
    assert_int_equal(key_pair_write(&pair, in_folder("node"), false), STATUS_OK);
    assert_int_equal(stat(secret, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0600);
    assert_int_equal(key_pair_read(&again, secret), STATUS_OK);
    assert_memory_equal(&again, &pair, sizeof(pair)); /* the public half is computed */
    assert_int_equal(key_read_public(&public_half, public), STATUS_OK);
    assert_memory_equal(&public_half, &pair.public_half, sizeof(public_half));
    /* never over another one, but with force */
    assert_int_equal(key_pair_generate(&other), STATUS_OK);
    assert_memory_not_equal(&other, &pair, sizeof(pair));
    assert_int_equal(key_pair_write(&other, in_folder("node"), false), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "--force"));
    assert_int_equal(unlink(public), 0); /* nor over a lone secret */
    assert_int_equal(key_pair_write(&other, in_folder("node"), false), STATUS_INVALID);
    assert_int_equal(key_pair_read(&again, secret), STATUS_OK);
    assert_memory_equal(&again, &pair, sizeof(pair));
    assert_int_equal(access(public, F_OK), -1);
    assert_int_equal(key_pair_write(&other, in_folder("node"), true), STATUS_OK);
    assert_int_equal(key_pair_read(&again, secret), STATUS_OK);
    assert_memory_equal(&again, &other, sizeof(other));
    assert_int_equal(stat(secret, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0600);
    assert_int_equal(key_pair_write(&pair, in_folder("no/node"), false), STATUS_IO);
    assert_int_equal(key_pair_write(&pair, in_folder("a name"), false), STATUS_INVALID);
    assert_int_equal(key_pair_write(&pair, in_folder(""), false), STATUS_INVALID);
}

static void a_secret_that_others_can_read_is_refused(void **state)
{
    struct key_pair pair, again;
    char secret[128];
    (void)state;
    assert_int_equal(key_pair_generate(&pair), STATUS_OK);
    assert_int_equal(key_pair_write(&pair, in_folder("open"), false), STATUS_OK);
    snprintf(secret, sizeof(secret), "%s/open.secret", folder);
    for (mode_t mode = 0; mode < 0100; mode++) {
        assert_int_equal(chmod(secret, 0600 | mode), 0);
        enum status want = (mode & 037) == 0 ? STATUS_OK : STATUS_INVALID;
        assert_int_equal(key_pair_read(&again, secret), want);
        if (want == STATUS_INVALID)
            assert_non_null(strstr(status_message(), "chmod 600"));
    }
    assert_int_equal(key_pair_read(&again, in_folder("nowhere")), STATUS_NOT_FOUND);
    assert_int_equal(key_pair_read(&again, folder), STATUS_INVALID);
    assert_int_equal(mkfifo(in_folder("fifo"), 0600), 0); /* nobody writes: it must not wait */
    assert_int_equal(key_pair_read(&again, path), STATUS_INVALID);
    write_text("short.secret", "secret:1234\n", 0600);
    assert_int_equal(key_pair_read(&again, path), STATUS_INVALID);
    write_text("bare.secret", "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n",
               0600);
    assert_int_equal(key_pair_read(&again, path), STATUS_INVALID);
}

#define A "00112233445566778899aabbccddeeff00112233445566778899aabbccddee01"
#define B "00112233445566778899aabbccddeeff00112233445566778899aabbccddee02"

static void a_list_has_keys_names_comments_and_blank_lines(void **state)
{
    static const char good[] = "# ours\n\n" A " loader-1\r\n\t" B "   # no name\n   \n";
    struct key_list list = {0};
    struct key key;
    (void)state;
    assert_int_equal(key_list_parse(&list, good, strlen(good), "list"), STATUS_OK);
    assert_int_equal(list.n, 2);
    assert_string_equal(list.keys[0].name, "loader-1");
    assert_string_equal(list.keys[1].name, "");
    assert_true(key_parse(&key, B, 64));
    assert_ptr_equal(key_list_find(&list, &key), &list.keys[1]);
    key.bytes[31] = 3;
    assert_null(key_list_find(&list, &key));
    assert_int_equal(key_list_parse(&list, "", 0, "list"), STATUS_OK);
    assert_int_equal(list.n, 0);
    key_list_release(&list);
}

static void what_is_wrong_in_a_list_is_named_by_its_line(void **state)
{
    static const struct {
        const char *text, *says;
    } wrong[] = {
        {A "\n\nsecret:" B "\n", "list:3: a secret key"},
        {A "\n" A "0\n", "list:2: wanted 64"},
        {"loader " A "\n", "list:1: wanted 64"},
        {A " two names\n", "list:1: after the key"},
        {A " n\x01me\n", "list:1: after the key"},
        {A " 0123456789012345678901234567890123456789012345678901234567890123\n", "list:1: after"},
    };
    struct key_list list = {0};
    char *many = malloc((KEY_LIST_MAX + 1) * 65);
    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(key_list_parse(&list, B "\n", 65, "list"), STATUS_OK);
        assert_int_equal(key_list_parse(&list, wrong[i].text, strlen(wrong[i].text), "list"),
                         STATUS_INVALID);
        if (strstr(status_message(), wrong[i].says) == NULL)
            fail_msg("'%s' does not say '%s'", status_message(), wrong[i].says);
        assert_int_equal(list.n, 1); /* as it was */
    }
    for (int i = 0; i <= KEY_LIST_MAX; i++)
        memcpy(many + i * 65, A "\n", 65);
    assert_int_equal(key_list_parse(&list, many, KEY_LIST_MAX * 65, "list"), STATUS_OK);
    assert_int_equal(key_list_parse(&list, many, (KEY_LIST_MAX + 1) * 65, "list"), STATUS_INVALID);
    free(many);
    key_list_release(&list);
}

static void a_public_key_is_digits_or_a_file_with_one(void **state)
{
    struct key key;
    (void)state;
    assert_int_equal(key_read_public(&key, A), STATUS_OK);
    assert_int_equal(key.bytes[31], 1);
    write_text("two.public", A " a\n" B " b\n", 0644);
    assert_int_equal(key_read_public(&key, path), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "2 public keys"));
    write_text("none.public", "# nothing\n", 0644);
    assert_int_equal(key_read_public(&key, path), STATUS_INVALID);
    write_text("swapped.secret", "secret:" A "\n", 0644);
    assert_int_equal(key_read_public(&key, path), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "secret key"));
    assert_int_equal(key_read_public(&key, in_folder("missing")), STATUS_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hex_comes_back_and_nothing_else_is_read),
        cmocka_unit_test(a_pair_is_written_for_its_owner_alone_and_read_back),
        cmocka_unit_test(a_secret_that_others_can_read_is_refused),
        cmocka_unit_test(a_list_has_keys_names_comments_and_blank_lines),
        cmocka_unit_test(what_is_wrong_in_a_list_is_named_by_its_line),
        cmocka_unit_test(a_public_key_is_digits_or_a_file_with_one),
    };
    return cmocka_run_group_tests(tests, open_folder, close_folder);
}
