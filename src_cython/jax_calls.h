/* Calls that arrive from JAX: between the handlers in C, which know XLA, and the kernels in C++. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum { fastxent_most_arrays = 8 };

/* `kind` is a fastxent_kind of kernels.hpp, or -1 for what kernels do not know. */
struct fastxent_array {
    void *data;
    int kind;
    int64_t rank;
    const int64_t *dims;
};

/* Where the number of every option stands: INTEGERS and NUMBERS of fastxent/jax/handlers.py. */
enum fastxent_integer {
    fastxent_rank,        /* of the logits; further leading dimensions number independent calls */
    fastxent_trailing,    /* dimensions after that of the classes */
    fastxent_reduce,      /* 0: a loss each row, 1: their sum, 2: their mean */
    fastxent_has_skip,
    fastxent_skip,
    fastxent_zero_of_nothing, /* whether the mean of nothing is 0, not NaN */
    fastxent_has_factor,  /* the operands after logits and target, in this order */
    fastxent_has_row_weight,
    fastxent_has_denominator,
    fastxent_wants_grad,  /* the results after the loss, in this order */
    fastxent_wants_target_grad,
    fastxent_wants_sums,  /* each row's largest z, and its sum of exp(z - that), in the compute type */
    fastxent_threads,     /* 0: as many as it is worth */
    fastxent_integers,
};

enum fastxent_number {
    fastxent_on_target,   /* factor of the target's own mass */
    fastxent_on_all,      /* mass spread over all classes, whose number may be known only now */
    fastxent_scale,
    fastxent_cap,
    fastxent_square,      /* factor of the squared logsumexp */
    fastxent_numbers,
};

/* Of a call that only checks targets and weights: those of the loss, and how many classes there are. */
enum { fastxent_check_classes = fastxent_integers, fastxent_check_integers };

enum fastxent_softmax_integer {
    fastxent_softmax_trailing,
    fastxent_softmax_form, /* 0: the softmax, 1: its logarithm, 2: logsumexp, 3: that and the softmax */
    fastxent_softmax_threads,
    fastxent_softmax_integers,
};

enum fastxent_shard_integer {
    fastxent_shard_rank,        /* of the logits; further leading dimensions number independent calls */
    fastxent_shard_trailing,    /* dimensions after that of the classes */
    fastxent_shard_has_skip,
    fastxent_shard_skip,
    fastxent_shard_has_weight,  /* the last operand */
    fastxent_shard_threads,     /* 0: as many as it is worth */
    fastxent_shard_num_classes, /* in all shards together */
    fastxent_shard_integers,
};

struct fastxent_call {
    int64_t operand_count, result_count, integer_count, number_count;
    struct fastxent_array operands[fastxent_most_arrays], results[fastxent_most_arrays];
    const int64_t *integers;
    const double *numbers;
};

enum fastxent_outcome { fastxent_done, fastxent_bad_argument, fastxent_no_memory };

/* What was wrong goes to `message`. */
typedef int fastxent_jax_body(const struct fastxent_call *call, char *message, size_t size);

#ifdef __cplusplus
extern "C" {
#endif

fastxent_jax_body fastxent_jax_partial_body, fastxent_jax_partial_backward_body;
fastxent_jax_body fastxent_jax_cross_entropy_body, fastxent_jax_softmax_body;
fastxent_jax_body fastxent_jax_denominator_body, fastxent_jax_brain_rows_body;

/* The handlers, as XLA calls them. */
void *fastxent_jax_partial(void *frame);
void *fastxent_jax_partial_backward(void *frame);
void *fastxent_jax_cross_entropy(void *frame);
void *fastxent_jax_softmax(void *frame);
void *fastxent_jax_denominator(void *frame);
void *fastxent_jax_brain_rows(void *frame);

#ifdef __cplusplus
}

struct fastxent_level;

/* What Python knows and a call may need on any thread: set at import, and when a limit changes. */
void fastxent_jax_use(const fastxent_level *level, int limit, double of_row, double of_byte,
                      double of_thread);
#endif
