/* Images inside tar archives, and the classes that archives tell. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loader/index_internal.h"
#include "loader/tar.h"
#include "proto/base/memory.h"

enum { MAX_CLASS = 1000000, LABEL_BYTES = 32, SYNSET_BYTES = 13 /* n01440764.tar */ };

/* An image in an archive. */
struct image_member {
    char *name;       /* in the archive; of one in an archive in it, "outer.tar:inner" */
    char *class_name; /* NULL: none known */
    uint64_t path;    /* offset in strings: the archive */
    uint64_t offset, size;
    int64_t label; /* of a `.cls` file; -1: none */
};

struct walk {
    struct index_builder *builder;
    struct image_member *members;
    size_t n_members, capacity;
    /* the archive in work */
    int file;
    uint64_t path;
    const char *class_name;         /* of all that is in it, or NULL */
    char inner[TAR_MAX_NAME_BYTES]; /* name of the archive in the archive, or "" */
    char key[TAR_MAX_NAME_BYTES];   /* WebDataset: name up to the first dot of its last part */
    size_t key_first;               /* members with this key: from here on */
    int64_t key_label;              /* of the key's `.cls`; -1: not yet seen */
};

static const char *last_part(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash != NULL ? slash + 1 : name;
}

static bool ends_with(const char *name, const char *ending)
{
    size_t n = strlen(name), n_ending = strlen(ending);
    return n > n_ending && strcmp(name + n - n_ending, ending) == 0;
}

/* Files of one sample follow each other and share the name up to the first dot. */
static void note_key(struct walk *walk, const char *name)
{
    size_t n = (size_t)(last_part(name) - name);
    n += strcspn(name + n, ".");

    if (strlen(walk->key) == n && memcmp(walk->key, name, n) == 0)
        return;
    memcpy(walk->key, name, n);
    walk->key[n] = '\0';
    walk->key_first = walk->n_members;
    walk->key_label = -1;
}

static enum status read_label(struct walk *walk, const struct tar_member *member)
{
    char text[LABEL_BYTES + 1], *end;
    size_t n_read = 0, wanted = member->size < LABEL_BYTES ? (size_t)member->size : LABEL_BYTES;

    TRY(tar_read(walk->file, member->offset, text, wanted, &n_read));
    text[n_read] = '\0';
    errno = 0;
    long label = strtol(text, &end, 10);
    while (*end == ' ' || *end == '\n' || *end == '\r')
        end++;
    if (end == text || *end != '\0' || errno != 0 || label < 0 || label >= MAX_CLASS)
        FAIL(STATUS_INVALID, "'%s' says '%.20s'; wanted a class number from 0 to %d", member->name,
             text, MAX_CLASS - 1);
    walk->key_label = label;
    for (size_t i = walk->key_first; i < walk->n_members; i++)
        walk->members[i].label = label;
    return STATUS_OK;
}

static enum status add_image(struct walk *walk, const struct tar_member *member)
{
    char name[2 * TAR_MAX_NAME_BYTES + 1];

    snprintf(name, sizeof(name), "%s%s%s", walk->inner, walk->inner[0] != '\0' ? ":" : "",
             member->name);
    TRY(index_note_progress(walk->builder, 1));
    TRY(memory_grow(&walk->members, &walk->capacity, walk->n_members + 1, sizeof(*walk->members),
                    "members of archives"));
    struct image_member *image = &walk->members[walk->n_members];
    *image = (struct image_member){.path = walk->path,
                                   .offset = member->offset,
                                   .size = member->size,
                                   .label = walk->key_label};
    TRY(memory_strdup(&image->name, name));
    walk->n_members++;
    return walk->class_name != NULL ? memory_strdup(&image->class_name, walk->class_name)
                                    : STATUS_OK;
}

static enum status take(void *context, const struct tar_member *member);

/* An archive in the archive: its name is the class of what is in it. */
static enum status take_archive(struct walk *walk, const struct tar_member *member)
{
    char class_name[TAR_MAX_NAME_BYTES];
    const char *outer_class = walk->class_name;

    if (walk->inner[0] != '\0')
        FAIL(STATUS_UNSUPPORTED, "'%s' is an archive in an archive in an archive", member->name);
    snprintf(walk->inner, sizeof(walk->inner), "%s", member->name);
    snprintf(class_name, sizeof(class_name), "%s", last_part(member->name));
    class_name[strlen(class_name) - 4] = '\0'; /* .tar */
    walk->class_name = class_name;
    enum status status = tar_walk(walk->file, member->offset, member->size, take, walk);
    if (status != STATUS_OK && status != STATUS_INTERRUPTED)
        status = status_set(status, "'%s': %s", walk->inner, status_message());
    walk->class_name = outer_class;
    walk->inner[0] = '\0';
    return status;
}

static enum status take(void *context, const struct tar_member *member)
{
    struct walk *walk = context;
    const char *name = last_part(member->name);

    if (ends_with(name, ".tar"))
        return take_archive(walk, member);
    note_key(walk, member->name);
    if (ends_with(name, ".cls"))
        return read_label(walk, member);
    return index_is_image_name(name) ? add_image(walk, member) : STATUS_OK;
}

/* n01440764.tar */
static bool is_synset(const char *name)
{
    return strlen(name) == SYNSET_BYTES && name[0] == 'n' &&
           strspn(name + 1, "0123456789") == SYNSET_BYTES - 5;
}

static enum status read_archive(struct walk *walk, const char *folder, const char *name,
                                bool synsets)
{
    char path[INDEX_MAX_PATH_BYTES], class_name[SYNSET_BYTES + 1];
    struct stat info;
    enum status status = STATUS_OK;

    TRY(index_join(path, sizeof(path), folder, name));
    walk->file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (walk->file < 0)
        FAIL(STATUS_IO, "archive '%s' can't be opened: %s", path, strerror(errno));
    if (fstat(walk->file, &info) != 0 || !S_ISREG(info.st_mode))
        FAIL_OUT(STATUS_IO, "archive '%s' is no regular file", path);
    TRY_OUT(index_add_folder(walk->builder, name, index_settled_time(&info)));
    walk->path = walk->builder->folders[walk->builder->n_folders - 1].path;
    snprintf(class_name, sizeof(class_name), "%.*s", SYNSET_BYTES - 4, name);
    walk->class_name = synsets ? class_name : NULL;
    walk->key[0] = walk->inner[0] = '\0';
    walk->key_first = walk->n_members;
    walk->key_label = -1;
    status = tar_walk(walk->file, 0, (uint64_t)info.st_size, take, walk);
    if (status != STATUS_OK && status != STATUS_INTERRUPTED)
        status = status_set(status, "archive '%s': %s", path, status_message());
out:
    close(walk->file);
    return status;
}

/* ------------------------------------------------------------------------------ classes */

/* Bytes of the folders that all names have in common, with the slash. */
static size_t common_folders(const struct walk *walk)
{
    const char *first = walk->members[0].name;
    size_t n = (size_t)(last_part(first) - first);

    for (size_t i = 1; i < walk->n_members; i++) {
        const char *name = walk->members[i].name;
        size_t same = 0;
        while (same < n && name[same] == first[same])
            same++;
        while (same > 0 && first[same - 1] != '/')
            same--;
        n = same;
    }
    return n;
}

/* The first folder in which the names differ. False: there is none. */
static enum status classes_of_folders(struct walk *walk, bool *found)
{
    size_t n_common = common_folders(walk);

    *found = false;
    for (size_t i = 0; i < walk->n_members && !*found; i++)
        *found = strchr(walk->members[i].name + n_common, '/') != NULL;
    for (size_t i = 0; i < walk->n_members && *found; i++) {
        const char *from = walk->members[i].name + n_common, *slash = strchr(from, '/');
        char class_name[TAR_MAX_NAME_BYTES] = ".";
        if (slash != NULL)
            snprintf(class_name, sizeof(class_name), "%.*s", (int)(slash - from), from);
        TRY(memory_strdup(&walk->members[i].class_name, class_name));
    }
    return STATUS_OK;
}

static int compare_members(const void *a, const void *b)
{
    const struct image_member *x = a, *y = b;
    int order = strcmp(x->class_name, y->class_name);

    if (order == 0)
        order = strcmp(x->name, y->name);
    if (order == 0) /* twice in archives: in their order */
        order = x->path != y->path ? (x->path > y->path) - (x->path < y->path)
                                   : (x->offset > y->offset) - (x->offset < y->offset);
    return order;
}

/* Ordered by class and name; each class gets its number. */
static enum status number_named_classes(struct walk *walk)
{
    qsort(walk->members, walk->n_members, sizeof(*walk->members), compare_members);
    for (size_t i = 0; i < walk->n_members; i++) {
        struct image_member *member = &walk->members[i];
        if (i == 0 || strcmp(member->class_name, member[-1].class_name) != 0)
            TRY(index_add_class(walk->builder, member->class_name));
        member->label = (int64_t)walk->builder->n_classes - 1;
    }
    return STATUS_OK;
}

static enum status check_labels(const struct walk *walk, int64_t *highest)
{
    for (size_t i = 0; i < walk->n_members; i++) {
        const struct image_member *member = &walk->members[i];
        if (member->label < 0)
            FAIL(STATUS_INVALID, "'%s' in '%s' has no .cls file beside it, though others have",
                 member->name, walk->builder->strings + member->path);
        *highest = member->label > *highest ? member->label : *highest;
    }
    return STATUS_OK;
}

static enum status find_classes(struct walk *walk)
{
    bool labels = false, names = false;
    int64_t highest = 0;

    for (size_t i = 0; i < walk->n_members; i++) {
        labels |= walk->members[i].label >= 0;
        names |= walk->members[i].class_name != NULL;
    }
    if (labels) {
        TRY(check_labels(walk, &highest));
        return index_add_numbered_classes(walk->builder, highest + 1);
    }
    for (size_t i = 0; i < walk->n_members && names; i++)
        if (walk->members[i].class_name == NULL)
            TRY(memory_strdup(&walk->members[i].class_name, "."));
    if (!names)
        TRY(classes_of_folders(walk, &names));
    if (names)
        return number_named_classes(walk);
    for (size_t i = 0; i < walk->n_members; i++)
        walk->members[i].label = 0;
    return index_add_class(walk->builder, ".");
}

/* ------------------------------------------------------------------------------ entries */

static enum status add_entries(const struct walk *walk)
{
    for (size_t i = 0; i < walk->n_members; i++) {
        const struct image_member *member = &walk->members[i];
        struct index_entry entry = {.path = member->path,
                                    .size = member->size,
                                    .offset = member->offset,
                                    .label = (uint32_t)member->label};
        TRY(index_add_string(walk->builder, member->name, &entry.name));
        TRY(index_add_entry(walk->builder, &entry));
    }
    return STATUS_OK;
}

enum status index_read_archives(struct index_builder *builder, const char *folder,
                                const struct index_names *archives)
{
    struct walk walk = {.builder = builder};
    enum status status = STATUS_OK;
    bool synsets = true;

    for (size_t i = 0; i < archives->n; i++)
        synsets &= is_synset(archives->names[i].text);
    for (size_t i = 0; i < archives->n && status == STATUS_OK; i++)
        status = read_archive(&walk, folder, archives->names[i].text, synsets);
    if (status == STATUS_OK && walk.n_members == 0)
        status = status_set(STATUS_INVALID, "'%s' has no images in its archives", builder->root);
    if (status == STATUS_OK)
        status = find_classes(&walk);
    if (status == STATUS_OK)
        status = add_entries(&walk);
    for (size_t i = 0; i < walk.n_members; i++) {
        memory_free(walk.members[i].name);
        memory_free(walk.members[i].class_name);
    }
    memory_free(walk.members);
    return status;
}
