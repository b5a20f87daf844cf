/* The machine: one table of operations, most of which move values between stack, marks and memo.
 * Operations that are not in the table, or have no function there, are refused by name; those that
 * could run code in Python (GLOBAL, REDUCE, BUILD, …) go through pickle_objects.c, which knows a
 * fixed list of names. */
#include "trainer/weights/pickle.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/weights/pickle_machine.h"

enum { CHUNK_BYTES = 1 << 16, MAX_NAME_BYTES = 256 };

/* The arena: blocks, the newest first. */
struct pickle_chunk {
    struct pickle_chunk *next;
    size_t used, capacity;
    _Alignas(16) char bytes[];
};

enum status pickle_arena_take(struct pickle *pickle, size_t n_bytes, void *out)
{
    struct pickle_chunk *chunk = pickle->chunks;
    size_t need = (n_bytes + 15) / 16 * 16;

    if (chunk == NULL || chunk->capacity - chunk->used < need) {
        size_t capacity = need > CHUNK_BYTES ? need : CHUNK_BYTES;
        TRY(memory_alloc(&chunk, sizeof(*chunk) + capacity, 1, "pickled values"));
        chunk->capacity = capacity;
        chunk->next = pickle->chunks;
        pickle->chunks = chunk;
    }
    *(void **)out = chunk->bytes + chunk->used;
    chunk->used += need;
    return STATUS_OK;
}

enum status pickle_value_make(struct pickle_machine *m, enum pickle_kind kind,
                              struct pickle_value **out)
{
    struct pickle_value *value = NULL;

    TRY(pickle_arena_take(m->pickle, sizeof(*value), &value));
    value->kind = kind;
    *out = value;
    return STATUS_OK;
}

enum status pickle_append(struct pickle_machine *m, struct pickle_value *sequence,
                          struct pickle_value *item)
{
    if (sequence->sequence.n == sequence->sequence.capacity) {
        size_t capacity = sequence->sequence.capacity * 2 + 4;
        struct pickle_value **items;
        TRY(pickle_arena_take(m->pickle, capacity * sizeof(struct pickle_value *), &items));
        if (sequence->sequence.n > 0)
            memcpy(items, sequence->sequence.items, sequence->sequence.n * sizeof(items[0]));
        sequence->sequence.items = items;
        sequence->sequence.capacity = capacity;
    }
    sequence->sequence.items[sequence->sequence.n++] = item;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ input, stack */

enum status pickle_corrupt(const struct pickle_machine *m, const char *format, ...)
{
    char text[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    FAIL(STATUS_CORRUPT, "%s: byte %zu of its pickle: %s", m->name, m->operation, text);
}

static enum status take(struct pickle_machine *m, size_t n, const uint8_t **out)
{
    if (m->n_bytes - m->at < n)
        return pickle_corrupt(m, "%zu bytes are wanted and %zu are left; the file was cut short", n,
                              m->n_bytes - m->at);
    *out = m->bytes + m->at;
    m->at += n;
    return STATUS_OK;
}

/* A little-endian number of n bytes. */
static enum status take_number(struct pickle_machine *m, size_t n, uint64_t *out)
{
    const uint8_t *bytes = NULL;

    TRY(take(m, n, &bytes));
    *out = 0;
    for (size_t i = 0; i < n; i++)
        *out |= (uint64_t)bytes[i] << (8 * i);
    return STATUS_OK;
}

static enum status push(struct pickle_machine *m, struct pickle_value *value)
{
    TRY(memory_grow(&m->stack, &m->stack_capacity, m->n_stack + 1, sizeof(*m->stack),
                    "pickle stack"));
    m->stack[m->n_stack++] = value;
    return STATUS_OK;
}

static size_t floor_of(const struct pickle_machine *m)
{
    return m->n_marks > 0 ? m->marks[m->n_marks - 1] : 0;
}

static enum status pop(struct pickle_machine *m, struct pickle_value **out)
{
    if (m->n_stack <= floor_of(m))
        return pickle_corrupt(m, "the stack is empty");
    *out = m->stack[--m->n_stack];
    return STATUS_OK;
}

static enum status top(struct pickle_machine *m, struct pickle_value **out)
{
    if (m->n_stack <= floor_of(m))
        return pickle_corrupt(m, "the stack is empty");
    *out = m->stack[m->n_stack - 1];
    return STATUS_OK;
}

/* Where the values since the last mark begin; the mark is taken away. */
static enum status pop_mark(struct pickle_machine *m, size_t *first)
{
    if (m->n_marks == 0)
        return pickle_corrupt(m, "there is no mark");
    *first = m->marks[--m->n_marks];
    return STATUS_OK;
}

static enum status push_kind(struct pickle_machine *m, enum pickle_kind kind)
{
    struct pickle_value *value = NULL;

    TRY(pickle_value_make(m, kind, &value));
    return push(m, value);
}

/* ------------------------------------------------------------------------------ plain values */

static enum status run_none(struct pickle_machine *m, uint8_t code)
{
    (void)code;
    return push_kind(m, PICKLE_NONE);
}

static enum status run_bool(struct pickle_machine *m, uint8_t code)
{
    TRY(push_kind(m, PICKLE_BOOL));
    m->stack[m->n_stack - 1]->truth = code == 0x88;
    return STATUS_OK;
}

static enum status run_int(struct pickle_machine *m, uint8_t code)
{
    uint64_t bits = 0;

    TRY(take_number(m, code == 'J' ? 4 : code == 'M' ? 2 : 1, &bits));
    TRY(push_kind(m, PICKLE_INT));
    m->stack[m->n_stack - 1]->integer = code == 'J' ? (int32_t)(uint32_t)bits : (int64_t)bits;
    return STATUS_OK;
}

/* Signed, of any width; beyond 64 bits only the bytes are kept. */
static enum status run_long(struct pickle_machine *m, uint8_t code)
{
    struct pickle_value *value = NULL;
    const uint8_t *bytes = NULL;
    uint64_t n = 0;

    TRY(take_number(m, code == 0x8a ? 1 : 4, &n));
    TRY(take(m, (size_t)n, &bytes));
    TRY(pickle_value_make(m, n <= 8 ? PICKLE_INT : PICKLE_LONG, &value));
    if (n > 8) {
        TRY(pickle_arena_take(m->pickle, (size_t)n, &value->string.text));
        memcpy((char *)(uintptr_t)value->string.text, bytes, (size_t)n);
        value->string.length = (size_t)n;
    } else if (n > 0) {
        uint64_t bits = bytes[n - 1] & 0x80 ? UINT64_MAX : 0;
        for (size_t i = (size_t)n; i-- > 0;)
            bits = bits << 8 | bytes[i];
        value->integer = (int64_t)bits;
    }
    return push(m, value);
}

static enum status run_float(struct pickle_machine *m, uint8_t code)
{
    const uint8_t *bytes = NULL;
    uint64_t bits = 0;

    (void)code;
    TRY(take(m, 8, &bytes));
    for (int i = 0; i < 8; i++)
        bits = bits << 8 | bytes[i];
    TRY(push_kind(m, PICKLE_FLOAT));
    memcpy(&m->stack[m->n_stack - 1]->real, &bits, sizeof(bits));
    return STATUS_OK;
}

/* Text and bytes: a length of 1, 4 or 8 bytes, then as many. What Python 2 called a text is one
 * where it is ASCII. */
static enum status run_text(struct pickle_machine *m, uint8_t code)
{
    bool old = code == 'U' || code == 'T',
         text = code == 'X' || code == 0x8c || code == 0x8d || old;
    size_t width = code == 0x8c || code == 'C' || code == 'U'  ? 1
                   : code == 'X' || code == 'B' || code == 'T' ? 4
                                                               : 8;
    struct pickle_value *value = NULL;
    const uint8_t *bytes = NULL;
    uint64_t n = 0;
    char *copy;

    TRY(take_number(m, width, &n));
    TRY(take(m, n > SIZE_MAX / 2 ? SIZE_MAX / 2 : (size_t)n, &bytes));
    for (size_t i = 0; old && i < n; i++)
        if (bytes[i] >= 0x80)
            return pickle_corrupt(m, "a text of Python 2 is not ASCII");
    TRY(pickle_value_make(m, text ? PICKLE_STRING : PICKLE_BYTES, &value));
    TRY(pickle_arena_take(m->pickle, (size_t)n + 1, &copy));
    memcpy(copy, bytes, (size_t)n);
    value->string.text = copy;
    value->string.length = (size_t)n;
    return push(m, value);
}

/* ------------------------------------------------------------------------------ containers */

static enum status run_empty(struct pickle_machine *m, uint8_t code)
{
    return push_kind(m, code == '}' ? PICKLE_DICT : code == ']' ? PICKLE_LIST : PICKLE_TUPLE);
}

static enum status run_mark(struct pickle_machine *m, uint8_t code)
{
    (void)code;
    TRY(memory_grow(&m->marks, &m->marks_capacity, m->n_marks + 1, sizeof(*m->marks),
                    "pickle marks"));
    m->marks[m->n_marks++] = m->n_stack;
    return STATUS_OK;
}

/* Moves the values from `first` on into `sequence`. */
static enum status move_values(struct pickle_machine *m, size_t first,
                               struct pickle_value *sequence)
{
    for (size_t i = first; i < m->n_stack; i++)
        TRY(pickle_append(m, sequence, m->stack[i]));
    m->n_stack = first;
    return STATUS_OK;
}

static enum status run_tuple(struct pickle_machine *m, uint8_t code)
{
    struct pickle_value *tuple = NULL;
    size_t first = 0;

    if (code == 't' || code == 'l') {
        TRY(pop_mark(m, &first));
    } else {
        size_t n = code - 0x84u; /* TUPLE1, TUPLE2, TUPLE3 */
        if (m->n_stack - floor_of(m) < n)
            return pickle_corrupt(m, "a tuple of %zu is wanted, but the stack has fewer", n);
        first = m->n_stack - n;
    }
    TRY(pickle_value_make(m, code == 'l' ? PICKLE_LIST : PICKLE_TUPLE, &tuple));
    TRY(move_values(m, first, tuple));
    return push(m, tuple);
}

static enum status run_append(struct pickle_machine *m, uint8_t code)
{
    size_t first = 0;

    if (code == 'e') {
        TRY(pop_mark(m, &first));
    } else {
        struct pickle_value *last = NULL;
        TRY(pop(m, &last));
        first = m->n_stack++;
    }
    if (first < floor_of(m) + 1 || m->stack[first - 1]->kind != PICKLE_LIST)
        return pickle_corrupt(m, "values are appended to something that is no list");
    return move_values(m, first, m->stack[first - 1]);
}

static enum status run_set_items(struct pickle_machine *m, uint8_t code)
{
    size_t first = 0;

    if (code == 'u') {
        TRY(pop_mark(m, &first));
    } else {
        if (m->n_stack - floor_of(m) < 2)
            return pickle_corrupt(m, "the stack has no key and value");
        first = m->n_stack - 2;
    }
    if (first < floor_of(m) + 1 || m->stack[first - 1]->kind != PICKLE_DICT)
        return pickle_corrupt(m, "keys and values are put into something that is no dictionary");
    if ((m->n_stack - first) % 2 != 0)
        return pickle_corrupt(m, "the last key has no value");
    return move_values(m, first, m->stack[first - 1]);
}

static enum status run_pop(struct pickle_machine *m, uint8_t code)
{
    struct pickle_value *value = NULL;
    size_t first = 0;

    if (code == '0' && m->n_stack > floor_of(m))
        return pop(m, &value);
    TRY(pop_mark(m, &first));
    m->n_stack = first;
    return STATUS_OK;
}

static enum status run_duplicate(struct pickle_machine *m, uint8_t code)
{
    struct pickle_value *value = NULL;

    (void)code;
    TRY(top(m, &value));
    return push(m, value);
}

/* ------------------------------------------------------------------------------ memo */

static enum status run_put(struct pickle_machine *m, uint8_t code)
{
    struct pickle_value *value = NULL;
    uint64_t index = m->n_memo;

    if (code != 0x94)
        TRY(take_number(m, code == 'q' ? 1 : 4, &index));
    if (index > m->at)
        return pickle_corrupt(m, "memo %" PRIu64 " is put before so many values can have been",
                              index);
    TRY(top(m, &value));
    TRY(memory_grow(&m->memo, &m->memo_capacity, (size_t)index + 1, sizeof(*m->memo),
                    "pickle memo"));
    m->memo[index] = value;
    if (index >= m->n_memo)
        m->n_memo = (size_t)index + 1;
    return STATUS_OK;
}

static enum status run_get(struct pickle_machine *m, uint8_t code)
{
    uint64_t index = 0;

    TRY(take_number(m, code == 'h' ? 1 : 4, &index));
    if (index >= m->n_memo || m->memo[index] == NULL)
        return pickle_corrupt(m, "memo %" PRIu64 " is read and was never put", index);
    return push(m, m->memo[index]);
}

/* ------------------------------------------------------------------------------ names, objects */

/* Up to a newline. */
static enum status take_line(struct pickle_machine *m, char out[MAX_NAME_BYTES])
{
    for (size_t n = 0; n < MAX_NAME_BYTES; n++) {
        const uint8_t *byte = NULL;
        TRY(take(m, 1, &byte));
        out[n] = *byte == '\n' ? '\0' : (char)*byte;
        if (*byte == '\n')
            return STATUS_OK;
        if (*byte < ' ' || *byte > '~')
            break;
    }
    return pickle_corrupt(m, "a name is no line of at most %d plain characters",
                          MAX_NAME_BYTES - 1);
}

static enum status run_global(struct pickle_machine *m, uint8_t code)
{
    char module[MAX_NAME_BYTES], name[MAX_NAME_BYTES];
    struct pickle_value *value = NULL;

    (void)code;
    TRY(take_line(m, module));
    TRY(take_line(m, name));
    TRY(pickle_global_find(m, module, name, &value));
    return push(m, value);
}

static enum status run_stack_global(struct pickle_machine *m, uint8_t code)
{
    struct pickle_value *module = NULL, *name = NULL, *value = NULL;

    (void)code;
    TRY(pop(m, &name));
    TRY(pop(m, &module));
    if (pickle_text(module) == NULL || pickle_text(name) == NULL)
        return pickle_corrupt(m, "a name is no text");
    TRY(pickle_global_find(m, pickle_text(module), pickle_text(name), &value));
    return push(m, value);
}

static enum status run_reduce(struct pickle_machine *m, uint8_t code)
{
    struct pickle_value *callable = NULL, *arguments = NULL, *value = NULL;

    (void)code;
    TRY(pop(m, &arguments));
    TRY(pop(m, &callable));
    TRY(pickle_reduce(m, callable, arguments, &value));
    return push(m, value);
}

static enum status run_build(struct pickle_machine *m, uint8_t code)
{
    struct pickle_value *object = NULL, *state = NULL;

    (void)code;
    TRY(pop(m, &state));
    TRY(top(m, &object));
    return pickle_build(m, object, state);
}

static enum status run_persistent(struct pickle_machine *m, uint8_t code)
{
    struct pickle_value *id = NULL, *value = NULL;

    (void)code;
    TRY(pop(m, &id));
    TRY(pickle_persistent(m, id, &value));
    return push(m, value);
}

/* ------------------------------------------------------------------------------ frame, end */

static enum status run_protocol(struct pickle_machine *m, uint8_t code)
{
    uint64_t protocol = 0;

    (void)code;
    TRY(take_number(m, 1, &protocol));
    if (protocol > 5)
        FAIL(STATUS_UNSUPPORTED, "%s: its pickle has protocol %" PRIu64 "; 2 to 5 can be read",
             m->name, protocol);
    return STATUS_OK;
}

static enum status run_frame(struct pickle_machine *m, uint8_t code)
{
    uint64_t n = 0;

    (void)code;
    TRY(take_number(m, 8, &n));
    if (n > m->n_bytes - m->at)
        return pickle_corrupt(m, "a frame of %" PRIu64 " bytes is announced and %zu are left", n,
                              m->n_bytes - m->at);
    return STATUS_OK;
}

static enum status run_stop(struct pickle_machine *m, uint8_t code)
{
    (void)code;
    TRY(pop(m, &m->pickle->root));
    if (m->n_stack > 0 || m->n_marks > 0)
        return pickle_corrupt(m, "the pickle ends with %zu values to spare", m->n_stack);
    m->stopped = true;
    return STATUS_OK;
}

struct operation {
    const char *name;
    enum status (*run)(struct pickle_machine *machine, uint8_t code); /* NULL: refused */
};

static const struct operation operations[256] = {
    [0x80] = {"PROTO", run_protocol},
    [0x95] = {"FRAME", run_frame},
    ['.'] = {"STOP", run_stop},
    ['N'] = {"NONE", run_none},
    [0x88] = {"NEWTRUE", run_bool},
    [0x89] = {"NEWFALSE", run_bool},
    ['J'] = {"BININT", run_int},
    ['K'] = {"BININT1", run_int},
    ['M'] = {"BININT2", run_int},
    [0x8a] = {"LONG1", run_long},
    [0x8b] = {"LONG4", run_long},
    ['G'] = {"BINFLOAT", run_float},
    ['X'] = {"BINUNICODE", run_text},
    [0x8c] = {"SHORT_BINUNICODE", run_text},
    [0x8d] = {"BINUNICODE8", run_text},
    ['T'] = {"BINSTRING", run_text},
    ['U'] = {"SHORT_BINSTRING", run_text},
    ['B'] = {"BINBYTES", run_text},
    ['C'] = {"SHORT_BINBYTES", run_text},
    [0x8e] = {"BINBYTES8", run_text},
    [0x96] = {"BYTEARRAY8", run_text},
    ['}'] = {"EMPTY_DICT", run_empty},
    [']'] = {"EMPTY_LIST", run_empty},
    [')'] = {"EMPTY_TUPLE", run_empty},
    ['('] = {"MARK", run_mark},
    ['t'] = {"TUPLE", run_tuple},
    ['l'] = {"LIST", run_tuple},
    [0x85] = {"TUPLE1", run_tuple},
    [0x86] = {"TUPLE2", run_tuple},
    [0x87] = {"TUPLE3", run_tuple},
    ['a'] = {"APPEND", run_append},
    ['e'] = {"APPENDS", run_append},
    ['s'] = {"SETITEM", run_set_items},
    ['u'] = {"SETITEMS", run_set_items},
    ['0'] = {"POP", run_pop},
    ['1'] = {"POP_MARK", run_pop},
    ['2'] = {"DUP", run_duplicate},
    ['q'] = {"BINPUT", run_put},
    ['r'] = {"LONG_BINPUT", run_put},
    [0x94] = {"MEMOIZE", run_put},
    ['h'] = {"BINGET", run_get},
    ['j'] = {"LONG_BINGET", run_get},
    ['c'] = {"GLOBAL", run_global},
    [0x93] = {"STACK_GLOBAL", run_stack_global},
    ['R'] = {"REDUCE", run_reduce},
    [0x81] = {"NEWOBJ", run_reduce},
    ['b'] = {"BUILD", run_build},
    ['Q'] = {"BINPERSID", run_persistent},
    /* known, and refused: old text forms, sets, extension registries, classes with keywords */
    ['I'] = {"INT", NULL},
    ['L'] = {"LONG", NULL},
    ['F'] = {"FLOAT", NULL},
    ['S'] = {"STRING", NULL},
    ['V'] = {"UNICODE", NULL},
    ['d'] = {"DICT", NULL},
    ['p'] = {"PUT", NULL},
    ['g'] = {"GET", NULL},
    ['P'] = {"PERSID", NULL},
    ['i'] = {"INST", NULL},
    ['o'] = {"OBJ", NULL},
    [0x82] = {"EXT1", NULL},
    [0x83] = {"EXT2", NULL},
    [0x84] = {"EXT4", NULL},
    [0x8f] = {"EMPTY_SET", NULL},
    [0x90] = {"ADDITEMS", NULL},
    [0x91] = {"FROZENSET", NULL},
    [0x92] = {"NEWOBJ_EX", NULL},
    [0x97] = {"NEXT_BUFFER", NULL},
    [0x98] = {"READONLY_BUFFER", NULL},
};

static enum status run(struct pickle_machine *m)
{
    while (!m->stopped) {
        const uint8_t *code = NULL;
        m->operation = m->at;
        TRY(take(m, 1, &code));
        const struct operation *operation = &operations[*code];
        if (operation->name == NULL)
            return pickle_corrupt(m, "%u is no operation of a pickle", *code);
        if (operation->run == NULL)
            FAIL(STATUS_UNSUPPORTED,
                 "%s: byte %zu of its pickle: the operation %s is refused; weights that torch.save "
                 "wrote have none, nor have numbers, texts and lists in protocol 2 or newer",
                 m->name, m->operation, operation->name);
        TRY(operation->run(m, *code));
    }
    return STATUS_OK;
}

enum status pickle_load(struct pickle *out, const void *bytes, size_t n_bytes, const char *name)
{
    struct pickle pickle = {0};
    struct pickle_machine machine = {
        .pickle = &pickle, .name = name, .bytes = bytes, .n_bytes = n_bytes};

    if (machine.n_bytes > PICKLE_MAX_BYTES)
        machine.n_bytes = PICKLE_MAX_BYTES; /* of a whole file, what follows is tensors */
    enum status status = run(&machine);
    pickle.n_bytes = machine.at;
    memory_free(machine.stack);
    memory_free(machine.marks);
    memory_free(machine.memo);
    if (status == STATUS_OK)
        *out = pickle;
    else
        pickle_release(&pickle);
    return status;
}

void pickle_release(struct pickle *pickle)
{
    if (pickle == NULL)
        return;
    for (struct pickle_chunk *chunk = pickle->chunks, *next; chunk != NULL; chunk = next) {
        next = chunk->next;
        memory_free(chunk);
    }
    memory_free(pickle->storages);
    memset(pickle, 0, sizeof(*pickle));
}
