// Calls that arrive from JAX. No Python, any thread.
#include "jax_calls.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "jax_loss.hpp"
#include "jax_shard.hpp"

void fastxent_jax_use(const fastxent_level *chosen, int limit, double of_row, double of_byte,
                      double of_thread) {
    level = chosen;
    nanoseconds_of_row = of_row, nanoseconds_of_byte = of_byte, nanoseconds_of_thread = of_thread;
    thread_limit = limit;
}

// Float8 and the like have a kind below 0, integers one above: for both, kernels have no arithmetic.
static bool computed(const fastxent_array &array) {
    return array.kind >= 0 && array.kind <= fastxent_bfloat16;
}

int fastxent_jax_cross_entropy_body(const fastxent_call *call, char *message, size_t size) {
    if (call->integer_count != fastxent_integers || call->number_count != fastxent_numbers ||
        call->operand_count < 2 || call->result_count < 1 || !computed(call->operands[0]) ||
        call->operands[1].kind < 0)
        return refuse(message, size, "fastxent: operands or options of another form than expected");
    const int compute = call->operands[0].kind == fastxent_float64 ? fastxent_float64 : fastxent_float32;
    for (int64_t at = 2; at < call->operand_count; ++at)
        if (call->operands[at].kind != compute)
            return refuse(message, size, "fastxent: weights have another type than is computed in");
    return loss_call(*call, message, size).run_all();
}

// Operands: target, and the weights as for the loss. Results: what the mean is divided by, in the compute
// type, and for class indices these once more, so that what reads them comes after the check.
int fastxent_jax_denominator_body(const fastxent_call *call, char *message, size_t size) {
    const bool hard = call->operand_count > 0 && call->operands[0].rank == 1;
    if (call->integer_count != fastxent_check_integers || call->operand_count < 1 ||
        call->operand_count >= fastxent_most_arrays || call->result_count != (hard ? 2 : 1) ||
        call->operands[0].kind < 0 || !computed(call->results[0]))
        return refuse(message, size, "fastxent: operands or options of another form than expected");
    const fastxent_array &target = call->operands[0];
    const int64_t dims[] = {target.dims[0], call->integers[fastxent_check_classes]};
    fastxent_call whole = *call;
    whole.integer_count = fastxent_integers;
    whole.operand_count = call->operand_count + 1;
    whole.operands[0] = {nullptr, call->results[0].kind, 2, dims};  // the logits, which nobody reads
    for (int64_t at = 0; at < call->operand_count; ++at) {
        whole.operands[at + 1] = call->operands[at];
        if (at && call->operands[at].kind != call->results[0].kind)
            return refuse(message, size, "fastxent: weights have another type than is computed in");
    }
    const int outcome = loss_call(whole, message, size).run_denominator();
    if (hard && outcome == fastxent_done && call->results[1].data != target.data)
        std::memcpy(call->results[1].data, target.data,
                    static_cast<size_t>(target.dims[0] * size_of(target.kind)));
    return outcome;
}

// Some rows of a matrix of bfloat16 as float32; 0 for a row that it does not have. XLA itself would make
// float32 of the whole matrix, because it has no slices of bfloat16 on a CPU.
int fastxent_jax_brain_rows_body(const fastxent_call *call, char *message, size_t size) {
    if (call->operand_count != 2 || call->result_count != 1 || call->operands[0].kind != fastxent_bfloat16 ||
        call->operands[0].rank != 2 || size_of(call->operands[1].kind) != 4 ||
        call->results[0].kind != fastxent_float32)
        return refuse(message, size, "fastxent: operands of another form than expected");
    const fastxent_array &matrix = call->operands[0], &places = call->operands[1];
    const int64_t width = matrix.dims[1];
    const uint16_t *from = static_cast<const uint16_t *>(matrix.data);
    const int32_t *place = static_cast<const int32_t *>(places.data);
    uint32_t *to = static_cast<uint32_t *>(call->results[0].data);
    for (int64_t row = 0; row < product(places.dims, 0, places.rank); ++row, to += width) {
        const bool inside = place[row] >= 0 && place[row] < matrix.dims[0];
        const uint16_t *numbers = from + (inside ? place[row] * width : 0);
        for (int64_t k = 0; k < width; ++k) to[k] = inside ? static_cast<uint32_t>(numbers[k]) << 16 : 0;
    }
    return fastxent_done;
}

static int run_shard(const fastxent_call *call, bool backward, char *message, size_t size) {
    const int64_t rows = backward ? 4 : 0;  // operands that have a number for each row
    bool good = call->integer_count == fastxent_shard_integers &&
                call->number_count == fastxent_numbers && call->operand_count >= 3 + rows;
    good = good && computed(call->operands[0]) && call->operands[1].kind >= 0 &&
           call->operands[2].kind >= fastxent_uint32 &&
           call->operand_count == 3 + rows + (call->integers[fastxent_shard_has_weight] != 0);
    if (good) {
        const fastxent_array *operands = call->operands;
        const int compute = operands->kind == fastxent_float64 ? fastxent_float64 : fastxent_float32;
        const bool hard = operands[1].rank < operands->rank;
        const bool everywhere = !hard || call->numbers[fastxent_on_all] != 0.0;
        good = call->result_count == (backward ? 1 : 2 + 2 * everywhere + hard);
        for (int64_t at = 3; at < call->operand_count; ++at)
            good = good && operands[at].kind == (at < 3 + rows ? int(fastxent_float64) : compute);
        for (int64_t at = 0; at < call->result_count; ++at)
            good = good && call->results[at].kind == (backward ? operands->kind : int(fastxent_float64));
    }
    if (!good)
        return refuse(message, size, "fastxent: operands or options of another form than expected");
    return shard_call(*call, backward, message, size).run_all();
}

int fastxent_jax_partial_body(const fastxent_call *call, char *message, size_t size) {
    return run_shard(call, false, message, size);
}

int fastxent_jax_partial_backward_body(const fastxent_call *call, char *message, size_t size) {
    return run_shard(call, true, message, size);
}

int fastxent_jax_softmax_body(const fastxent_call *call, char *message, size_t size) {
    if (call->integer_count != fastxent_softmax_integers || call->operand_count != 1 ||
        call->result_count < 1 || !computed(call->operands[0]))
        return refuse(message, size, "fastxent: operands or options of another form than expected");
    const fastxent_array &logits = call->operands[0];
    const int64_t form = call->integers[fastxent_softmax_form];
    const shape_of_rows shape = shape_of(logits, call->integers[fastxent_softmax_trailing]);
    const int64_t rows = shape.rows(), bytes = rows * shape.classes * size_of(logits.kind);
    if (!rows) return fastxent_done;
    double one = 1.0;
    fastxent_pass pass = {};
    pass.rows = rows, pass.classes = shape.classes;
    pass.size = logits.kind == fastxent_float64 ? 8 : 4;
    pass.logits = matrix_of(logits, shape, 0, shape.lead);
    pass.logit_scale = 1.0;
    pass.row_scale = &one;
    pass.background_total = 1.0;
    pass.threads = threads_for(call->integers[fastxent_softmax_threads], rows, bytes);
    scratch memory, sums;
    const fastxent_array &last = call->results[call->result_count - 1];
    if (form != 2) {
        advise_large_pages(last.data, bytes);
        (form == 1 ? pass.log_proba : pass.grad) = matrix_of(last, shape, 0, shape.lead);
    }
    if (form < 2) return run(pass, memory);
    const fastxent_array &lse = call->results[0];
    pass.row_max = lse.data;
    pass.row_sum = reinterpret_cast<double *>(sums.get(8 * rows));
    if (!pass.row_sum) return fastxent_no_memory;
    const int outcome = run(pass, memory);
    for (int64_t row = 0; row < rows && outcome == fastxent_done; ++row) {
        const double max = value_of(lse, row);
        double value = max + std::log(pass.row_sum[row]);
        // the sum is NaN beside a +inf: whether there is a NaN, only the logits can tell
        if (max == std::numeric_limits<double>::infinity() && !has_nan(pass.logits, shape, row)) value = max;
        put_value(lse, row, value);
    }
    return outcome;
}
