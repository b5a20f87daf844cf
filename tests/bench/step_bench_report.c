#include "tests/bench/step_bench_report.h"

#include <math.h>
#include <string.h>

static const double mib = 1048576.0;

/* The least time that the hardware needs for it, by the ceilings of this run; NaN without them. */
static double floor_seconds(const struct ceilings *c, const struct op_work *work)
{
    return fmax(work->flop / c->matrix_flop_per_second, work->bytes / c->copy_bytes_per_second);
}

/* ------------------------------------------------------------------------------ JSON */

static void put_quartiles(struct json_out *json, const char *name, const struct quartiles *q)
{
    json_list(json, name);
    json_number(json, NULL, q->first);
    json_number(json, NULL, q->third);
    json_end(json);
}

static void put_rates(const struct step_report *report, struct json_out *json,
                      const struct step_run *run)
{
    double seconds = run->step.median, ceiling = report->ceilings->matrix_flop_per_second;

    json_integer(json, "batch_size_per_gpu", run->batch_size);
    json_number(json, "images_per_second", run->batch_size / seconds);
    json_number(json, "seconds_per_step", seconds);
    put_quartiles(json, "seconds_per_step_quartiles", &run->step);
    json_number(json, "peak_memory_mib", (double)run->memory_bytes / mib);
    json_number(json, "model_flop_per_second", run->work.model_flop / seconds);
    json_number(json, "model_share_of_matrix_rate",
                ceiling > 0.0 ? run->work.model_flop / seconds / ceiling : NAN);
    if (report->ceilings->sustained_flop_per_second > 0.0)
        json_number(json, "model_share_of_sustained_rate",
                    run->work.model_flop / seconds / report->ceilings->sustained_flop_per_second);
}

static void put_profile(const struct step_report *report, struct json_out *json,
                        const struct step_run *run)
{
    double other = run->profiled_seconds, n = run->n_profiled;

    json_number(json, "profiled_seconds_per_step", run->profiled_seconds / n);
    json_list(json, "ops");
    for (int i = 0; i < N_STEP_OPS; i++) {
        const struct step_profile_row *row = &run->rows[i];
        if (row->n_calls == 0)
            continue;
        other -= row->seconds;
        json_object(json, NULL);
        json_text(json, "op", row->name);
        json_number(json, "seconds", row->seconds / n);
        json_number(json, "calls", (double)row->n_calls / n);
        json_number(json, "flop_per_second", row->work.flop / row->seconds);
        json_number(json, "bytes_per_second", row->work.bytes / row->seconds);
        json_number(json, "share_of_ceiling",
                    floor_seconds(report->ceilings, &row->work) / row->seconds);
        json_end(json);
    }
    json_end(json);
    json_number(json, "other_seconds", other / n);
}

static void put_run(const struct step_report *report, struct json_out *json,
                    const struct step_run *run)
{
    json_object(json, NULL);
    if (run->error[0] != '\0') {
        json_integer(json, "batch_size_per_gpu", run->batch_size);
        json_text(json, "error", run->error);
        json_end(json);
        return;
    }
    put_rates(report, json, run);
    json_number(json, "seconds_per_step_least", run->step.least);
    json_number(json, "seconds_per_step_most", run->step.most);
    if (report->backend->accelerator) {
        json_number(json, "host_seconds_per_step", run->host.median);
        put_quartiles(json, "host_seconds_per_step_quartiles", &run->host);
        json_number(json, "device_gap_seconds", run->gap.median);
        json_number(json, "device_gap_seconds_most", run->gap.most);
        json_integer(json, "steps_that_waited_for_host", run->n_late);
    }
    json_number(json, "planned_memory_mib", (double)run->planned_bytes / mib);
    json_integer(json, "masked_patches", run->n_masked);
    json_number(json, "loss", run->loss);
    json_number(json, "model_flop_per_image", run->work.model_flop / run->batch_size);
    json_number(json, "done_flop_per_image", run->work.done_flop / run->batch_size);
    json_number(json, "original_flop_per_image", run->work.original_flop / run->batch_size);
    json_number(json, "done_flop_per_second", run->work.done_flop / run->step.median);
    if (run->rows != NULL)
        put_profile(report, json, run);
    json_end(json);
}

static void put_head(struct step_report *report)
{
    const struct step_bench_options *o = report->options;
    struct json_out *json = &report->json;

    *json = (struct json_out){.file = stdout};
    json_object(json, NULL);
    json_text(json, "what", "step_bench");
    json_text(json, "arch", o->arch);
    bench_backend_report(report->backend, report->ceilings, json);
    json_text(json, "precision", o->model.precision == PRECISION_BF16 ? "bf16" : "f32");
    json_text(json, "residual_stream", o->model.residual_stream == PRECISION_BF16 ? "bf16" : "f32");
    json_text(json, "gelu", o->model.gelu_tanh ? "tanh" : "erf");
    json_bool(json, "cuda_graph", report->backend->accelerator && o->model.record_steps);
    json_bool(json, "upload", o->upload);
    json_text(json, "attention", step_bench_attention(o->bench.backend.attention));
    json_bool(json, "weight_gradient_branch", o->model.weights_apart);
    json_bool(json, "skip_dropped", o->model.skip_dropped);
    json_text(json, "recompute", step_bench_recompute(o->model.recompute));
    json_integer(json, "steps", o->steps);
    json_integer(json, "warmup", o->warmup);
    json_integer(json, "patch_size", o->bench.patch_size_px);
    json_integer(json, "window_size", o->window_size);
    json_integer(json, "out_dim", o->model.head.out_dim);
    json_integer(json, "head_hidden_dim", o->model.head.hidden_dim);
    json_integer(json, "bottleneck_dim", o->model.head.bottleneck_dim);
    json_integer(json, "global_size", o->model.global_size_px);
    json_integer(json, "local_size", o->model.local_size_px);
    json_integer(json, "local_crops_number", o->model.n_local);
    json_number(json, "drop_path", (double)o->drop_path);
    json_list(json, "runs");
}

/* ------------------------------------------------------------------------------ table */

static void print_profile(const struct step_report *report, const struct step_run *run)
{
    double other = run->profiled_seconds, n = run->n_profiled;

    printf("  op by op: %.3f ms\n", 1e3 * run->profiled_seconds / n);
    printf("  %-30s %10s %6s %10s %9s %8s\n", "", "ms", "calls", "GFLOP/s", "GB/s", "ceiling");
    for (int i = 0; i < N_STEP_OPS; i++) {
        const struct step_profile_row *row = &run->rows[i];
        if (row->n_calls == 0)
            continue;
        other -= row->seconds;
        printf("  %-30s %10.3f %6.0f %10.1f %9.1f", row->name, 1e3 * row->seconds / n,
               (double)row->n_calls / n, 1e-9 * row->work.flop / row->seconds,
               1e-9 * row->work.bytes / row->seconds);
        if (report->ceilings->copy_bytes > 0)
            printf(" %6.1f %%", 100.0 * floor_seconds(report->ceilings, &row->work) / row->seconds);
        printf("\n");
    }
    printf("  %-30s %10.3f\n", "other", 1e3 * other / n);
}

static void print_run(const struct step_report *report, const struct step_run *run)
{
    double seconds = run->step.median;

    if (run->error[0] != '\0') {
        printf("batch %d: %s\n", run->batch_size, run->error);
        return;
    }
    printf("batch %d: %.2f images/s, %.3f ms a step (%.3f to %.3f), %.0f MiB, %.1f GFLOP/s of the "
           "model",
           run->batch_size, run->batch_size / seconds, 1e3 * seconds, 1e3 * run->step.first,
           1e3 * run->step.third, (double)run->memory_bytes / mib,
           1e-9 * run->work.model_flop / seconds);
    if (report->ceilings->copy_bytes > 0)
        printf(" (%.1f %% of the matrix rate)",
               100.0 * run->work.model_flop / seconds / report->ceilings->matrix_flop_per_second);
    printf("; %lld masked patches, loss %.4f\n", (long long)run->n_masked, run->loss);
    if (report->backend->accelerator)
        printf("  the host takes %.3f ms to queue a step; the device waited for it in "
               "%d of %d\n",
               1e3 * run->host.median, run->n_late, report->options->steps);
    if (run->rows != NULL)
        print_profile(report, run);
}

static void print_head(const struct step_report *report)
{
    const struct step_bench_options *o = report->options;

    printf("%s, %s, %s\n", o->arch, report->backend->ops->name,
           o->model.precision == PRECISION_BF16 ? "bf16" : "f32");
    if (report->ceilings->copy_bytes > 0)
        printf("ceilings: copy %.1f GB/s, product %.1f GFLOP/s\n",
               1e-9 * report->ceilings->copy_bytes_per_second,
               1e-9 * report->ceilings->matrix_flop_per_second);
}

/* ------------------------------------------------------------------------------ both */

void step_report_begin(struct step_report *report, const struct step_bench_options *options,
                       const struct bench_backend *backend, const struct ceilings *ceilings)
{
    *report = (struct step_report){.options = options, .backend = backend, .ceilings = ceilings};
    if (options->bench.json)
        put_head(report);
    else
        print_head(report);
}

void step_report_run(struct step_report *report, const struct step_run *run)
{
    if (run->error[0] == '\0') {
        double best = report->n_good > 0 ? report->best.batch_size / report->best.step.median : 0.0;
        if (run->batch_size / run->step.median > best)
            report->best = *run;
        report->n_good++;
    }
    if (report->options->bench.json)
        put_run(report, &report->json, run);
    else
        print_run(report, run);
}

void step_report_end(struct step_report *report)
{
    struct json_out *json = &report->json;

    if (!report->options->bench.json)
        return;
    json_end(json);
    if (report->n_good > 0)
        put_rates(report, json, &report->best);
    json_end(json);
}
