/* Runs a fuzz target over files and folders of files, once each, in builds without libFuzzer: the
 * committed corpus as an ordinary test. A folder without files fails, since it would test nothing.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static int run_file(const char *path)
{
    uint8_t *bytes = NULL;
    size_t n_bytes = 0, capacity = 0, n_read;
    FILE *file = fopen(path, "rb");

    if (file == NULL) {
        perror(path);
        return -1;
    }
    do {
        capacity = capacity * 2 + 4096;
        bytes = realloc(bytes, capacity);
        if (bytes == NULL)
            abort();
        n_read = fread(bytes + n_bytes, 1, capacity - n_bytes, file);
        n_bytes += n_read;
    } while (n_read > 0);
    fclose(file);
    /* An exact copy, so that the address sanitizer sees a read past the end. */
    uint8_t *exact = malloc(n_bytes > 0 ? n_bytes : 1);
    if (exact == NULL)
        abort();
    memcpy(exact, bytes, n_bytes);
    free(bytes);
    LLVMFuzzerTestOneInput(exact, n_bytes);
    free(exact);
    return 1;
}

/* Number of files run; -1 when one could not be read. */
static int run_path(const char *path)
{
    struct stat info;
    char child[4096];
    int n = 0;

    if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
        return run_file(path);
    DIR *folder = opendir(path);
    if (folder == NULL) {
        perror(path);
        return -1;
    }
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(child, sizeof(child), "%s/%s", path, entry->d_name);
        if (run_file(child) < 0) {
            n = -1;
            break;
        }
        n++;
    }
    closedir(folder);
    return n;
}

int main(int argc, char **argv)
{
    int n_files = 0;

    if (argc < 2) {
        fprintf(stderr, "usage: %s FILE|FOLDER...\n", argv[0]);
        return 2;
    }
    for (int i = 1; i < argc; i++) {
        int n = run_path(argv[i]);
        if (n <= 0) {
            fprintf(stderr, "%s: no inputs\n", argv[i]);
            return 1;
        }
        n_files += n;
    }
    printf("%d inputs\n", n_files);
    return 0;
}
