/* What programs are told about the hardware that computes: rows of their option tables, and what
 * follows from them. */
#ifndef IBOT_TRAINER_BACKEND_OPTIONS_H
#define IBOT_TRAINER_BACKEND_OPTIONS_H

#include "proto/config/options.h"
#include "trainer/backend.h"
#include "trainer/model/ibot.h"

/* --backend, --threads, --matmul_tune, --matmul_cache, --deterministic. */
struct backend_options {
    int kind; /* enum backend_kind */
    int32_t threads;
    int matmul_tune; /* enum device_tuning_mode */
    const char *matmul_cache;
    bool deterministic;
};
extern const struct option_part rows_backend;

/* --precision, --gelu, --attention: of a network on it. */
enum precision_choice { PRECISION_CHOICE_AUTO, PRECISION_CHOICE_F32, PRECISION_CHOICE_BF16 };
enum gelu_choice { GELU_CHOICE_AUTO, GELU_CHOICE_TANH, GELU_CHOICE_ERF };
struct network_options {
    int precision, gelu;
    int attention; /* as backend_attention_by takes it */
};
extern const struct option_part rows_network;

/* --recompute, --skip_dropped: of a network that is trained. */
enum skip_choice { SKIP_AUTO, SKIP_ON, SKIP_OFF };
struct backward_options {
    int recompute;    /* enum recompute */
    int skip_dropped; /* enum skip_choice */
};
extern const struct option_part rows_backward;

/* Is what stochastic depth drops left out? */
bool backward_options_skip(const struct backward_options *backward, enum backend_kind kind);

/* What --deterministic makes of the others where they were not given. `network` may be NULL, where
 * a program has no rows of it. */
void backend_options_settle(struct backend_options *backend, struct network_options *network,
                            const struct options *parsed);

/* Contradictions. Errors: STATUS_INVALID names the options. */
enum status backend_options_check(const struct backend_options *backend,
                                  const struct network_options *network) IBOT_WARN_UNUSED;

enum ibot_precision network_options_precision(const struct network_options *network,
                                              enum backend_kind kind);
bool network_options_gelu_tanh(const struct network_options *network,
                               enum ibot_precision precision);

/* *out: as for backend_open. Errors: those of backend_open and backend_attention_by. */
enum status backend_options_open(struct backend *out, const struct backend_options *options,
                                 const struct network_options *network) IBOT_WARN_UNUSED;

#endif
