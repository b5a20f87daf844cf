/* What the two halves of pickle.h share: pickle.c reads operations, pickle_objects.c knows what the
 * permitted names make of their arguments. */
#ifndef IBOT_TRAINER_WEIGHTS_PICKLE_MACHINE_H
#define IBOT_TRAINER_WEIGHTS_PICKLE_MACHINE_H

#include "trainer/weights/pickle.h"

struct pickle_machine {
    struct pickle *pickle;
    const char *name; /* of what is read, for messages */
    const uint8_t *bytes;
    size_t n_bytes, at;
    size_t operation; /* where the current one began */
    struct pickle_value **stack;
    size_t n_stack, stack_capacity;
    size_t *marks;
    size_t n_marks, marks_capacity;
    struct pickle_value **memo;
    size_t n_memo, memo_capacity;
    size_t array_bytes; /* that numbers of arrays were made of so far */
    bool stopped;
};

/* STATUS_CORRUPT with the place in the file before the text. */
enum status pickle_corrupt(const struct pickle_machine *machine, const char *format, ...)
    IBOT_PRINTF(2, 3);

/* A new zeroed value, or bytes, in the arena. */
enum status pickle_value_make(struct pickle_machine *machine, enum pickle_kind kind,
                              struct pickle_value **out) IBOT_WARN_UNUSED;
enum status pickle_arena_take(struct pickle *pickle, size_t n_bytes, void *out) IBOT_WARN_UNUSED;
enum status pickle_append(struct pickle_machine *machine, struct pickle_value *sequence,
                          struct pickle_value *item) IBOT_WARN_UNUSED;

/* GLOBAL: the name as a value. Errors: STATUS_UNSUPPORTED names a refused one. */
enum status pickle_global_find(struct pickle_machine *machine, const char *module, const char *name,
                               struct pickle_value **out) IBOT_WARN_UNUSED;

/* REDUCE and NEWOBJ, BUILD, BINPERSID. */
enum status pickle_reduce(struct pickle_machine *machine, const struct pickle_value *callable,
                          struct pickle_value *arguments,
                          struct pickle_value **out) IBOT_WARN_UNUSED;
enum status pickle_build(struct pickle_machine *machine, struct pickle_value *object,
                         const struct pickle_value *state) IBOT_WARN_UNUSED;
enum status pickle_persistent(struct pickle_machine *machine, const struct pickle_value *id,
                              struct pickle_value **out) IBOT_WARN_UNUSED;

#endif
