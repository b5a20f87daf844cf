/* The permitted names, and what each makes of its arguments. */
#include "trainer/weights/pickle_machine.h"

#include <string.h>

#include "proto/base/memory.h"

/* ------------------------------------------------------------------------------ names */

static const struct {
    const char *module, *name;
    enum pickle_global known;
} names[] = {
    {"collections", "OrderedDict", GLOBAL_ORDERED_DICT},
    {"argparse", "Namespace", GLOBAL_NAMESPACE},
    {"torch._utils", "_rebuild_tensor_v2", GLOBAL_REBUILD_TENSOR},
    {"torch._utils", "_rebuild_parameter", GLOBAL_REBUILD_PARAMETER},
    {"torch", "Size", GLOBAL_SIZE},
    {"numpy.core.multiarray", "scalar", GLOBAL_NUMPY_SCALAR},
    {"numpy._core.multiarray", "scalar", GLOBAL_NUMPY_SCALAR},
    {"numpy", "dtype", GLOBAL_NUMPY_DTYPE},
    {"numpy", "ndarray", GLOBAL_NUMPY_ARRAY},
    {"numpy.core.multiarray", "_reconstruct", GLOBAL_NUMPY_RECONSTRUCT},
    {"numpy._core.multiarray", "_reconstruct", GLOBAL_NUMPY_RECONSTRUCT},
    {"numpy.core.numeric", "_frombuffer", GLOBAL_NUMPY_FROM_BUFFER},
    {"numpy._core.numeric", "_frombuffer", GLOBAL_NUMPY_FROM_BUFFER},
    {"_codecs", "encode", GLOBAL_ENCODE},
    {"__builtin__", "bytes", GLOBAL_BYTES},
    {"builtins", "bytes", GLOBAL_BYTES},
};

enum status pickle_global_find(struct pickle_machine *m, const char *module, const char *name,
                               struct pickle_value **out)
{
    enum weight_dtype dtype = WEIGHT_F32;
    bool known = false;
    enum pickle_global global = GLOBAL_STORAGE;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !known; i++)
        if (strcmp(names[i].module, module) == 0 && strcmp(names[i].name, name) == 0) {
            global = names[i].known;
            known = true;
        }
    if (!known)
        known = strcmp(module, "torch") == 0 && weight_dtype_from_storage(name, &dtype);
    if (!known)
        FAIL(STATUS_UNSUPPORTED,
             "%s: its pickle asks for '%.200s.%.200s', which is refused: only tensors, numbers, "
             "rows of them, texts, lists, dictionaries and argparse namespaces are read, and "
             "nothing is ever "
             "executed. If you trust the file, open it in Python and save its state dict alone",
             m->name, module, name);
    TRY(pickle_value_make(m, PICKLE_GLOBAL, out));
    (*out)->global.known = global;
    (*out)->global.dtype = dtype;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ arguments */

static size_t n_arguments(const struct pickle_value *arguments)
{
    return arguments->sequence.n;
}

static const struct pickle_value *argument(const struct pickle_value *arguments, size_t i)
{
    return arguments->sequence.items[i];
}

static bool is_global(const struct pickle_value *value, enum pickle_global known)
{
    return value->kind == PICKLE_GLOBAL && value->global.known == known;
}

/* A tuple (or torch.Size) of natural numbers. */
static bool take_numbers(const struct pickle_value *value, int64_t out[WEIGHT_MAX_RANK], int32_t *n)
{
    if (value->kind != PICKLE_TUPLE || value->sequence.n > WEIGHT_MAX_RANK)
        return false;
    *n = (int32_t)value->sequence.n;
    for (int32_t i = 0; i < *n; i++)
        if (!pickle_integer(value->sequence.items[i], &out[i]) || out[i] < 0)
            return false;
    return true;
}

/* ------------------------------------------------------------------------------ tensors */

/* Every element must lie in the storage, and their bytes must be countable. */
static enum status check_view(struct pickle_machine *m, struct pickle_tensor *tensor)
{
    const struct pickle_storage *storage = &tensor->storage->storage;
    int64_t n = 1, last = tensor->offset, bytes;
    bool overflow = false, empty = false;

    for (int32_t i = 0; i < tensor->rank; i++) {
        int64_t size = tensor->shape[i], reach;
        empty |= size == 0;
        overflow |= __builtin_mul_overflow(n, size == 0 ? 1 : size, &n);
        overflow |= __builtin_mul_overflow(size > 0 ? size - 1 : 0, tensor->stride[i], &reach);
        overflow |= __builtin_add_overflow(last, reach, &last);
    }
    overflow |= __builtin_mul_overflow(n, (int64_t)weight_dtype_bytes(storage->dtype), &bytes);
    if (overflow)
        return pickle_corrupt(m, "the shape of a tensor is too large to count its elements");
    tensor->n_elements = empty ? 0 : n;
    if (!empty && last >= storage->n_elements)
        return pickle_corrupt(
            m,
            "a tensor reaches element %lld of storage '%.100s', which has %lld; the file is "
            "damaged",
            (long long)last, storage->key, (long long)storage->n_elements);
    if (tensor->n_elements > storage->n_elements)
        FAIL(STATUS_UNSUPPORTED,
             "%s: byte %zu of its pickle: a tensor of %lld elements is spread over a storage of "
             "%lld (an expanded view); save it with .contiguous()",
             m->name, m->operation, (long long)tensor->n_elements, (long long)storage->n_elements);
    return STATUS_OK;
}

/* (storage, offset, shape, strides, requires_grad, hooks[, metadata]) */
static enum status rebuild_tensor(struct pickle_machine *m, const struct pickle_value *arguments,
                                  struct pickle_value **out)
{
    struct pickle_tensor tensor = {0};
    int32_t n_strides;

    if (n_arguments(arguments) < 4 || n_arguments(arguments) > 7 ||
        argument(arguments, 0)->kind != PICKLE_STORAGE ||
        !pickle_integer(argument(arguments, 1), &tensor.offset) || tensor.offset < 0)
        return pickle_corrupt(m, "a tensor wants a storage, an offset, a shape and strides");
    tensor.storage = arguments->sequence.items[0];
    if (!take_numbers(argument(arguments, 2), tensor.shape, &tensor.rank) ||
        !take_numbers(argument(arguments, 3), tensor.stride, &n_strides) ||
        n_strides != tensor.rank)
        return pickle_corrupt(
            m,
            "shape and strides of a tensor are no two tuples of the same 0 to %d natural "
            "numbers",
            WEIGHT_MAX_RANK);
    TRY(check_view(m, &tensor));
    TRY(pickle_value_make(m, PICKLE_TENSOR, out));
    TRY(pickle_arena_take(m->pickle, sizeof(tensor), &(*out)->tensor));
    *(*out)->tensor = tensor;
    return STATUS_OK;
}

enum status pickle_persistent(struct pickle_machine *m, const struct pickle_value *id,
                              struct pickle_value **out)
{
    struct pickle_storage storage = {0};
    int64_t bytes;

    /* ('storage', type, key, device, number of elements[, view]) */
    if (id->kind != PICKLE_TUPLE || n_arguments(id) < 5 || n_arguments(id) > 6 ||
        pickle_text(argument(id, 0)) == NULL ||
        strcmp(pickle_text(argument(id, 0)), "storage") != 0 ||
        !is_global(argument(id, 1), GLOBAL_STORAGE) || pickle_text(argument(id, 2)) == NULL ||
        !pickle_integer(argument(id, 4), &storage.n_elements) || storage.n_elements < 0)
        return pickle_corrupt(m, "a reference to data is not ('storage', type, key, device, size)");
    if (n_arguments(id) == 6 && argument(id, 5)->kind != PICKLE_NONE)
        FAIL(STATUS_UNSUPPORTED,
             "%s: storage '%.100s' is a view of another storage; save the file again with a "
             "newer PyTorch",
             m->name, pickle_text(argument(id, 2)));
    storage.dtype = argument(id, 1)->global.dtype;
    storage.key = pickle_text(argument(id, 2));
    if (__builtin_mul_overflow(storage.n_elements, (int64_t)weight_dtype_bytes(storage.dtype),
                               &bytes))
        return pickle_corrupt(m, "storage '%.100s' has too many elements to count its bytes",
                              storage.key);
    storage.index = m->pickle->n_storages;
    TRY(memory_grow(&m->pickle->storages, &m->pickle->storages_capacity, m->pickle->n_storages + 1,
                    sizeof(*m->pickle->storages), "storages"));
    TRY(pickle_value_make(m, PICKLE_STORAGE, out));
    (*out)->storage = storage;
    m->pickle->storages[m->pickle->n_storages++] = *out;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ numpy */

/* numpy writes an array scalar as dtype and bytes; protocol 2 writes bytes as encode(text, latin1).
 */
static enum status make_dtype(struct pickle_machine *m, const struct pickle_value *arguments,
                              struct pickle_value **out)
{
    static const struct {
        const char *name;
        enum weight_dtype dtype;
    } types[] = {{"f8", WEIGHT_F64}, {"f4", WEIGHT_F32}, {"f2", WEIGHT_F16},
                 {"i8", WEIGHT_I64}, {"i4", WEIGHT_I32}, {"i2", WEIGHT_I16},
                 {"i1", WEIGHT_I8},  {"u1", WEIGHT_U8},  {"b1", WEIGHT_BOOL}};
    const char *name = n_arguments(arguments) > 0 ? pickle_text(argument(arguments, 0)) : NULL;

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]) && name != NULL; i++) {
        if (strcmp(types[i].name, name) != 0)
            continue;
        TRY(pickle_value_make(m, PICKLE_NUMPY_DTYPE, out));
        (*out)->global.dtype = types[i].dtype;
        return STATUS_OK;
    }
    FAIL(STATUS_UNSUPPORTED, "%s: byte %zu of its pickle: the numpy type '%.40s' is refused",
         m->name, m->operation, name != NULL ? name : "(no text)");
}

/* One number of a numpy type. */
static enum status make_number(struct pickle_machine *m, const char *bytes, enum weight_dtype dtype,
                               struct pickle_value **out)
{
    if (dtype == WEIGHT_BOOL) {
        TRY(pickle_value_make(m, PICKLE_BOOL, out));
        (*out)->truth = bytes[0] != 0;
    } else if (weight_dtype_is_real(dtype)) {
        TRY(pickle_value_make(m, PICKLE_FLOAT, out));
        (*out)->real = weight_dtype_value(bytes, dtype, 0);
    } else if (dtype == WEIGHT_I64) {
        TRY(pickle_value_make(m, PICKLE_INT, out));
        memcpy(&(*out)->integer, bytes, sizeof(int64_t));
    } else {
        TRY(pickle_value_make(m, PICKLE_INT, out));
        (*out)->integer = (int64_t)weight_dtype_value(bytes, dtype, 0);
    }
    return STATUS_OK;
}

static enum status make_scalar(struct pickle_machine *m, const struct pickle_value *arguments,
                               struct pickle_value **out)
{
    if (n_arguments(arguments) != 2 || argument(arguments, 0)->kind != PICKLE_NUMPY_DTYPE ||
        argument(arguments, 1)->kind != PICKLE_BYTES)
        return pickle_corrupt(m, "a numpy scalar wants a type and bytes");
    const struct pickle_value *bytes = argument(arguments, 1);
    enum weight_dtype dtype = argument(arguments, 0)->global.dtype;
    if (bytes->string.length != weight_dtype_bytes(dtype))
        return pickle_corrupt(m, "a numpy scalar of type %s has %zu bytes",
                              weight_dtype_name(dtype), bytes->string.length);
    return make_number(m, bytes->string.text, dtype, out);
}

/* _reconstruct(ndarray, (0,), b'b'): an array without anything in it; BUILD says what. */
static enum status make_array(struct pickle_machine *m, const struct pickle_value *arguments,
                              struct pickle_value **out)
{
    if (n_arguments(arguments) != 3 || !is_global(argument(arguments, 0), GLOBAL_NUMPY_ARRAY))
        return pickle_corrupt(m, "a numpy array wants numpy.ndarray, a shape and a type");
    return pickle_value_make(m, PICKLE_NUMPY_ARRAY, out);
}

/* The array becomes a list. */
static enum status fill_array(struct pickle_machine *m, struct pickle_value *array,
                              const int64_t shape[WEIGHT_MAX_RANK], int32_t rank,
                              enum weight_dtype dtype, const struct pickle_value *bytes)
{
    size_t size = weight_dtype_bytes(dtype);

    if (rank != 1)
        FAIL(STATUS_UNSUPPORTED,
             "%s: byte %zu of its pickle: a numpy array of %d dimensions: only rows of numbers are "
             "read",
             m->name, m->operation, rank);
    if (bytes->string.length % size != 0 || (int64_t)(bytes->string.length / size) != shape[0])
        return pickle_corrupt(m, "a numpy array of %lld numbers of type %s has %zu bytes",
                              (long long)shape[0], weight_dtype_name(dtype), bytes->string.length);
    m->array_bytes += bytes->string.length; /* the same bytes may be named again and again */
    if (m->array_bytes > m->n_bytes)
        return pickle_corrupt(m, "its numpy arrays have more bytes than it has itself");
    array->kind = PICKLE_LIST;
    memset(&array->sequence, 0, sizeof(array->sequence));
    for (int64_t i = 0; i < shape[0]; i++) {
        struct pickle_value *number;
        TRY(make_number(m, bytes->string.text + (size_t)i * size, dtype, &number));
        TRY(pickle_append(m, array, number));
    }
    return STATUS_OK;
}

/* The state of a _reconstruct: (version, shape, dtype, Fortran order, bytes). */
static enum status build_array(struct pickle_machine *m, struct pickle_value *array,
                               const struct pickle_value *state)
{
    int64_t shape[WEIGHT_MAX_RANK];
    int32_t rank;

    if (state->kind != PICKLE_TUPLE || n_arguments(state) != 5 ||
        !take_numbers(argument(state, 1), shape, &rank) ||
        argument(state, 2)->kind != PICKLE_NUMPY_DTYPE || argument(state, 4)->kind != PICKLE_BYTES)
        return pickle_corrupt(m, "the state of a numpy array is not (version, shape, type, order, "
                                 "bytes)");
    return fill_array(m, array, shape, rank, argument(state, 2)->global.dtype, argument(state, 4));
}

/* What protocol 5 has instead: _frombuffer(bytes, dtype, shape, order). */
static enum status array_from_buffer(struct pickle_machine *m, const struct pickle_value *arguments,
                                     struct pickle_value **out)
{
    int64_t shape[WEIGHT_MAX_RANK];
    int32_t rank;

    if (n_arguments(arguments) != 4 || argument(arguments, 0)->kind != PICKLE_BYTES ||
        argument(arguments, 1)->kind != PICKLE_NUMPY_DTYPE ||
        !take_numbers(argument(arguments, 2), shape, &rank))
        return pickle_corrupt(m, "numpy's _frombuffer wants bytes, a type, a shape and an order");
    TRY(pickle_value_make(m, PICKLE_LIST, out));
    return fill_array(m, *out, shape, rank, argument(arguments, 1)->global.dtype,
                      argument(arguments, 0));
}

/* encode(text, 'latin1'): one byte for each character, all of which are below 256. */
static enum status encode(struct pickle_machine *m, const struct pickle_value *arguments,
                          struct pickle_value **out)
{
    const char *codec = n_arguments(arguments) == 2 ? pickle_text(argument(arguments, 1)) : NULL;
    char *bytes;
    size_t n = 0;

    if (codec == NULL || strcmp(codec, "latin1") != 0 ||
        argument(arguments, 0)->kind != PICKLE_STRING)
        return pickle_corrupt(m, "_codecs.encode wants a text and 'latin1'");
    const struct pickle_value *text = argument(arguments, 0);
    TRY(pickle_arena_take(m->pickle, text->string.length + 1, &bytes));
    for (size_t i = 0; i < text->string.length; i++) {
        unsigned char first = (unsigned char)text->string.text[i];
        unsigned char next = (unsigned char)text->string.text[i + 1]; /* a NUL ends it */
        if (first >= 0x80) {
            if ((first & 0xfe) != 0xc2 || (next & 0xc0) != 0x80)
                return pickle_corrupt(m, "a text to encode as latin1 has other characters");
            first = (unsigned char)(first << 6 | (next & 0x3f));
            i++;
        }
        bytes[n++] = (char)first;
    }
    TRY(pickle_value_make(m, PICKLE_BYTES, out));
    (*out)->string.text = bytes;
    (*out)->string.length = n;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ objects */

/* OrderedDict() or OrderedDict([(key, value), …]). */
static enum status make_dict(struct pickle_machine *m, const struct pickle_value *arguments,
                             struct pickle_value **out)
{
    TRY(pickle_value_make(m, PICKLE_DICT, out));
    if (n_arguments(arguments) == 0)
        return STATUS_OK;
    const struct pickle_value *pairs = argument(arguments, 0);
    if (n_arguments(arguments) != 1 || pairs->kind != PICKLE_LIST)
        return pickle_corrupt(m, "an OrderedDict wants nothing or a list of pairs");
    for (size_t i = 0; i < pairs->sequence.n; i++) {
        const struct pickle_value *pair = pairs->sequence.items[i];
        if ((pair->kind != PICKLE_TUPLE && pair->kind != PICKLE_LIST) || pair->sequence.n != 2)
            return pickle_corrupt(m, "an OrderedDict wants pairs");
        TRY(pickle_append(m, *out, pair->sequence.items[0]));
        TRY(pickle_append(m, *out, pair->sequence.items[1]));
    }
    return STATUS_OK;
}

enum status pickle_reduce(struct pickle_machine *m, const struct pickle_value *callable,
                          struct pickle_value *arguments, struct pickle_value **out)
{
    if (callable->kind != PICKLE_GLOBAL || arguments->kind != PICKLE_TUPLE)
        return pickle_corrupt(m, "an object wants a name and a tuple of arguments; got %s and %s",
                              pickle_kind_name(callable->kind), pickle_kind_name(arguments->kind));
    switch (callable->global.known) {
    case GLOBAL_ORDERED_DICT:
        return make_dict(m, arguments, out);
    case GLOBAL_NAMESPACE:
        if (n_arguments(arguments) != 0)
            return pickle_corrupt(m, "a Namespace wants no arguments");
        return pickle_value_make(m, PICKLE_NAMESPACE, out);
    case GLOBAL_REBUILD_TENSOR:
        return rebuild_tensor(m, arguments, out);
    case GLOBAL_REBUILD_PARAMETER:
        if (n_arguments(arguments) < 1 || argument(arguments, 0)->kind != PICKLE_TENSOR)
            return pickle_corrupt(m, "a parameter wants a tensor");
        *out = arguments->sequence.items[0];
        return STATUS_OK;
    case GLOBAL_SIZE:
        if (n_arguments(arguments) != 1 || argument(arguments, 0)->kind != PICKLE_TUPLE)
            return pickle_corrupt(m, "a torch.Size wants a tuple");
        *out = arguments->sequence.items[0];
        return STATUS_OK;
    case GLOBAL_NUMPY_SCALAR:
        return make_scalar(m, arguments, out);
    case GLOBAL_NUMPY_DTYPE:
        return make_dtype(m, arguments, out);
    case GLOBAL_NUMPY_RECONSTRUCT:
        return make_array(m, arguments, out);
    case GLOBAL_NUMPY_FROM_BUFFER:
        return array_from_buffer(m, arguments, out);
    case GLOBAL_NUMPY_ARRAY:
        return pickle_corrupt(m, "numpy.ndarray is called; arrays come by _reconstruct alone");
    case GLOBAL_ENCODE:
        return encode(m, arguments, out);
    case GLOBAL_BYTES:
        if (n_arguments(arguments) != 0)
            return pickle_corrupt(m, "bytes are made of arguments; only empty ones are");
        TRY(pickle_value_make(m, PICKLE_BYTES, out));
        (*out)->string.text = "";
        return STATUS_OK;
    case GLOBAL_STORAGE:
        break;
    }
    return pickle_corrupt(m, "a storage is called; its data come by reference alone");
}

enum status pickle_build(struct pickle_machine *m, struct pickle_value *object,
                         const struct pickle_value *state)
{
    switch (object->kind) {
    case PICKLE_DICT: /* attributes of an OrderedDict: _metadata of a state dict, of no use here */
        if (state->kind != PICKLE_DICT)
            return pickle_corrupt(m, "the attributes of an OrderedDict are no dictionary");
        return STATUS_OK;
    case PICKLE_NAMESPACE:
        if (state->kind != PICKLE_DICT)
            return pickle_corrupt(m, "the attributes of a Namespace are no dictionary");
        for (size_t i = 0; i < state->sequence.n; i++)
            TRY(pickle_append(m, object, state->sequence.items[i]));
        return STATUS_OK;
    case PICKLE_NUMPY_ARRAY:
        return build_array(m, object, state);
    case PICKLE_NUMPY_DTYPE: {
        const char *order = state->kind == PICKLE_TUPLE && state->sequence.n > 1
                                ? pickle_text(state->sequence.items[1])
                                : NULL;
        if (order == NULL || (strcmp(order, "<") != 0 && strcmp(order, "|") != 0))
            FAIL(STATUS_UNSUPPORTED,
                 "%s: byte %zu of its pickle: a numpy type is not little-endian", m->name,
                 m->operation);
        return STATUS_OK;
    }
    default:
        FAIL(STATUS_UNSUPPORTED, "%s: byte %zu of its pickle: attributes are set on %s: refused",
             m->name, m->operation, pickle_kind_name(object->kind));
    }
}
