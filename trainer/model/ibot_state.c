/* State entries: what a checkpoint stores, in a fixed order. */
#include <stdio.h>

#include "trainer/model/ibot_internal.h"
#include "trainer/model/state_view.h"

static size_t n_moments(const struct ibot *ibot)
{
    if (ibot->options.inference_only)
        return 0;
    return ibot->moment2 != NULL ? 2 : 1;
}

/* Centres, and the running statistics of a head with batch norm. */
static size_t n_extra(const struct ibot *ibot)
{
    if (ibot->options.inference_only)
        return 0;
    return ibot->options.head.norm == HEAD_NORM_BN ? 6 : 2;
}

size_t ibot_n_state(const struct ibot *ibot)
{
    size_t n = ibot->student.table.n_params;
    return n + ibot->teacher.table.n_params + n_moments(ibot) * n + n_extra(ibot);
}

static void named(struct ibot_state_entry *out, const char *prefix, const char *name,
                  struct tensor tensor)
{
    snprintf(out->name, sizeof(out->name), "%s%s", prefix, name);
    out->tensor = tensor;
}

static void extra_entry(const struct ibot *ibot, size_t i, struct ibot_state_entry *out)
{
    const struct head_options *o = &ibot->options.head;
    int64_t k2 = o->shared_student && o->shared_teacher ? o->out_dim : o->patch_out_dim;
    const struct head *student = &ibot->student.head, *teacher = &ibot->teacher.head;
    const struct {
        const char *name;
        float *data;
        int64_t n;
    } entries[] = {
        {"centre.cls", ibot->centre, o->out_dim},
        {"centre.patch", ibot->centre_patch, k2},
        {"student.head.mlp.1.running_mean", student->running_mean, o->hidden_dim},
        {"student.head.mlp.1.running_var", student->running_var, o->hidden_dim},
        {"teacher.head.mlp.1.running_mean", teacher->running_mean, o->hidden_dim},
        {"teacher.head.mlp.1.running_var", teacher->running_var, o->hidden_dim},
    };
    named(out, "", entries[i].name, tensor_1d(entries[i].data, DTYPE_F32, entries[i].n));
}

void ibot_state(const struct ibot *ibot, size_t i, struct ibot_state_entry *out)
{
    const struct param_table *student = &ibot->student.table, *teacher = &ibot->teacher.table;

    CHECK(i < ibot_n_state(ibot), "state entry %zu", i);
    if (i < student->n_params) {
        named(out, "student.", student->params[i].name,
              param_tensor_at(student, ibot->student.parameters, i));
        return;
    }
    i -= student->n_params;
    if (i < teacher->n_params) {
        named(out, "teacher.", teacher->params[i].name,
              param_tensor_at(teacher, ibot->teacher.parameters, i));
        return;
    }
    i -= teacher->n_params;
    if (i < n_moments(ibot) * student->n_params) {
        bool second = i >= student->n_params;
        i -= second ? student->n_params : 0;
        named(out, second ? "moment2." : "moment1.", student->params[i].name,
              param_tensor_at(student, second ? ibot->moment2 : ibot->moment1, i));
        return;
    }
    extra_entry(ibot, i - n_moments(ibot) * student->n_params, out);
}

enum status ibot_state_written(struct ibot *ibot)
{
    struct network *networks[] = {&ibot->student, &ibot->teacher};

    for (int i = 0; i < 2 && ibot->dtype != DTYPE_F32; i++) {
        struct cast_args args = {vector(networks[i]->parameters, networks[i]->table.n_elements),
                                 networks[i]->operands};
        TRY(ibot->ops->cast(ibot->device, &args));
    }
    return STATUS_OK;
}

struct tensor ibot_gradient(const struct ibot *ibot, size_t i)
{
    if (ibot->gradients == NULL || i >= ibot->student.table.n_params)
        return (struct tensor){0};
    return param_tensor_at(&ibot->student.table, ibot->gradients, i);
}

static void view_entry(const void *model, size_t i, struct ibot_state_entry *out)
{
    ibot_state(model, i, out);
}

static enum status view_written(void *model)
{
    return ibot_state_written(model);
}

struct state_view ibot_state_view(struct ibot *ibot)
{
    return (struct state_view){ibot, ibot_n_state(ibot), view_entry, view_written};
}
