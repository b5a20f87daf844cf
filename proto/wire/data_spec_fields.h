/* The fields of a data_spec by name, for showing one and for saying how two differ. */
#ifndef IBOT_PROTO_WIRE_DATA_SPEC_FIELDS_H
#define IBOT_PROTO_WIRE_DATA_SPEC_FIELDS_H

#include <stddef.h>

#include "proto/wire/data_spec.h"

enum data_spec_field_type {
    DATA_SPEC_BOOL,
    DATA_SPEC_INT32,
    DATA_SPEC_UINT64,
    DATA_SPEC_FLOAT,
    DATA_SPEC_CHOICE
};

struct data_spec_field {
    const char *name; /* as in struct data_spec: "first.blur" */
    enum data_spec_field_type type;
    size_t offset;
    size_t count_offset;        /* of an int32_t with the number of values; 0: `n` says it */
    int n;                      /* values, side by side */
    const char *const *choices; /* DATA_SPEC_CHOICE: their names */
};

extern const struct data_spec_field data_spec_fields[];
extern const size_t n_data_spec_fields;

/* The double with the fewest digits that is this float: 0.4, not 0.400000006. */
double data_spec_shortest(float value);

/* How many values the field has in this spec. */
int data_spec_field_values(const struct data_spec_field *field, const struct data_spec *spec);

/* Its values as text: "0.25 1"; returns `out`. */
const char *data_spec_field_text(const struct data_spec_field *field, const struct data_spec *spec,
                                 char *out, size_t n_bytes);

/* "n_local is 10 here and 8 there": the first fields that differ, up to the size; "" when none
 * does. Returns `out`. */
const char *data_spec_difference(const struct data_spec *here, const struct data_spec *there,
                                 char *out, size_t n_bytes);

#endif
