// Calls that arrive from JAX: operands and options become passes over rows. No Python, any thread.
//
// Leading dimensions beyond those of one call number independent calls, "groups" (jax.vmap): their rows
// are computed in one pass, each group has a denominator of its own.
#include "jax_calls.h"

#include <atomic>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "kernels.hpp"
#include "pages.hpp"

namespace {

const fastxent_level *level;
std::atomic<int> thread_limit{1};
double nanoseconds_of_row, nanoseconds_of_byte, nanoseconds_of_thread;

// The model of threads.plan; the limit may have changed since the call was compiled.
int threads_for(int64_t asked, int64_t rows, int64_t bytes) {
    const int limit = thread_limit.load(std::memory_order_relaxed);
    if (asked > 0) return static_cast<int>(asked);
    const double worth = static_cast<double>(rows) * nanoseconds_of_row +
                         static_cast<double>(bytes) * nanoseconds_of_byte;
    if (worth < 2 * nanoseconds_of_thread) return 1;
    const double threads = worth / nanoseconds_of_thread;
    return threads < limit ? static_cast<int>(threads) : limit;
}

__attribute__((format(printf, 3, 4))) int refuse(char *message, size_t size, const char *format, ...) {
    va_list values;
    va_start(values, format);
    std::vsnprintf(message, size, format, values);
    va_end(values);
    return fastxent_bad_argument;
}

// Scratch memory that goes with its scope; small ones are on the stack.
class scratch {
public:
    scratch() = default;
    scratch(const scratch &) = delete;
    scratch &operator=(const scratch &) = delete;
    ~scratch() { std::free(large); }
    // On a boundary of 64 bytes, or null.
    char *get(int64_t bytes) {
        if (bytes <= small_bytes) return small;
        if (bytes > capacity) {
            std::free(large);
            capacity = 0;
            large = std::malloc(static_cast<size_t>(bytes) + 64);
            if (!large) return nullptr;
            capacity = bytes;
        }
        char *place = static_cast<char *>(large);
        return place + (64 - reinterpret_cast<uintptr_t>(place) % 64);
    }

private:
    static constexpr int64_t small_bytes = 4096;
    alignas(64) char small[small_bytes];
    void *large = nullptr;
    int64_t capacity = 0;
};

int64_t size_of(int kind) {
    constexpr int64_t sizes[] = {4, 8, 2, 2, 1, 1, 2, 2, 4, 4, 8, 8};
    return sizes[kind];
}

int64_t product(const int64_t *dims, int64_t from, int64_t to) {
    int64_t size = 1;
    for (; from < to; ++from) size *= dims[from];
    return size;
}

struct shape_of_rows {
    int64_t lead, classes, trail;
    int64_t rows() const { return lead * trail; }
};

shape_of_rows shape_of(const fastxent_array &array, int64_t trailing) {
    const int64_t at = array.rank - 1 - trailing;
    return {product(array.dims, 0, at), array.dims[at], product(array.dims, at + 1, array.rank)};
}

// Rows of an array of this shape, C-ordered, from row `first` on: whole groups of them.
fastxent_matrix matrix_of(const fastxent_array &array, const shape_of_rows &shape, int64_t first_lead,
                          int64_t leads) {
    fastxent_matrix matrix = {};
    const int64_t size = size_of(array.kind), step = shape.classes * shape.trail * size;
    matrix.data = static_cast<char *>(array.data) + first_lead * step;
    matrix.kind = array.kind;
    matrix.class_stride = shape.classes == 1 ? size : shape.trail * size;
    if (shape.trail == 1 || leads == 1) {
        matrix.levels = 1;
        matrix.size[0] = leads * shape.trail;
        matrix.stride[0] = shape.trail == 1 ? step : size;
        return matrix;
    }
    matrix.levels = 2;
    matrix.size[0] = shape.trail, matrix.stride[0] = size;
    matrix.size[1] = leads, matrix.stride[1] = step;
    return matrix;
}

bool has_nan(const fastxent_matrix &matrix, const shape_of_rows &shape, int64_t row) {
    const int64_t size = size_of(matrix.kind), across = row % shape.trail;
    const char *place = matrix.data + (row / shape.trail * shape.classes * shape.trail + across) * size;
    for (int64_t k = 0; k < shape.classes; ++k, place += matrix.class_stride) {
        uint64_t bits = 0;
        std::memcpy(&bits, place, static_cast<size_t>(size));
        constexpr uint64_t infinities[] = {0x7f800000, 0x7ff0000000000000, 0x7c00, 0x7f80};
        const uint64_t sign = uint64_t(1) << (8 * size - 1);
        if ((bits & ~sign) > infinities[matrix.kind]) return true;
    }
    return false;
}

// Element of an array of the compute type.
double value_of(const fastxent_array &array, int64_t at) {
    return array.kind == fastxent_float64 ? static_cast<const double *>(array.data)[at]
                                          : static_cast<double>(static_cast<const float *>(array.data)[at]);
}

void put_value(const fastxent_array &array, int64_t at, double value) {
    if (array.kind == fastxent_float64)
        static_cast<double *>(array.data)[at] = value;
    else
        static_cast<float *>(array.data)[at] = static_cast<float>(value);
}

// A factor of classes, rounded to the compute type: an array, or one number for a whole set of lanes.
struct class_factor {
    alignas(64) char constant[64];
    scratch memory;
    const void *data = constant;
    int64_t step = 0;
    bool fill(int size, double factor, const fastxent_array *weights, int64_t group, int64_t classes,
              double *total) {
        *total = 0.0;
        int64_t count = 64 / size;
        char *to = constant;
        if (weights) {
            data = to = memory.get(classes * size);
            if (!to) return false;
            step = 1, count = classes;
        }
        for (int64_t k = 0; k < count; ++k) {
            const double value = weights ? factor * value_of(*weights, group * classes + k) : factor;
            if (size == 8)
                reinterpret_cast<double *>(to)[k] = value;
            else
                reinterpret_cast<float *>(to)[k] = static_cast<float>(value);
            const double kept = size == 8 ? value : static_cast<double>(static_cast<float>(value));
            *total = weights ? *total + kept : kept * static_cast<double>(classes);
        }
        return true;
    }
};

int run(fastxent_pass &pass, scratch &memory) {
    pass.schedule = fastxent_schedule_of(pass);
    pass.scratch = memory.get(fastxent_scratch_bytes(pass));
    if (!pass.scratch) return fastxent_no_memory;
    level->forward(pass);
    return fastxent_done;
}

// One call of cross_entropy.
struct loss_call {
    const fastxent_call &call;
    char *message;
    size_t message_size;
    const fastxent_array &logits, &target;
    const fastxent_array *factor = nullptr, *row_weight = nullptr, *denominator = nullptr;
    const fastxent_array &loss;
    const fastxent_array *grad = nullptr, *target_grad = nullptr;
    bool hard;
    shape_of_rows shape;
    int64_t groups, rows_of_group;
    int size, threads;

    loss_call(const fastxent_call &given, char *text, size_t text_size)
        : call(given), message(text), message_size(text_size), logits(given.operands[0]),
          target(given.operands[1]), loss(given.results[0]) {
        const fastxent_array *operand = given.operands + 2, *result = given.results + 1;
        if (option(fastxent_has_factor)) factor = operand++;
        if (option(fastxent_has_row_weight)) row_weight = operand++;
        if (option(fastxent_has_denominator)) denominator = operand++;
        if (option(fastxent_wants_grad)) grad = result++;
        if (option(fastxent_wants_target_grad)) target_grad = result++;
        shape = shape_of(logits, option(fastxent_trailing));
        hard = target.rank < logits.rank;
        groups = product(logits.dims, 0, logits.rank - option(fastxent_rank));
        if (groups && option(fastxent_reduce) == 0 && !factor) groups = 1;  // rows have nothing in common
        rows_of_group = groups ? shape.rows() / groups : 0;
        size = logits.kind == fastxent_float64 ? 8 : 4;
        threads = threads_for(option(fastxent_threads), shape.rows(),
                              shape.rows() * shape.classes * size_of(logits.kind));
    }

    int64_t option(fastxent_integer name) const { return call.integers[name]; }
    double number(fastxent_number name) const { return call.numbers[name]; }
    bool is_mean() const { return option(fastxent_reduce) == 2; }

    fastxent_labels labels(int64_t group, int64_t count) const {
        fastxent_labels all = {};
        all.size = static_cast<int>(size_of(target.kind));
        all.data = static_cast<const char *>(target.data) + group * rows_of_group * all.size;
        all.rows = count * rows_of_group;
        all.classes = shape.classes;
        all.is_signed = target.kind % 2;  // of integer kinds the signed ones have odd numbers
        all.has_skip = option(fastxent_has_skip) != 0;
        all.skip = option(fastxent_skip);
        return all;
    }

    // Weights are the caller's arrays, whose numbers nobody has seen before.
    int check_weights(const fastxent_array *weights, const char *name) {
        if (!weights) return fastxent_done;
        const int64_t count = product(weights->dims, 0, weights->rank);
        for (int64_t i = 0; i < count; ++i) {
            const double value = value_of(*weights, i);
            if (!(value >= 0.0 && value <= std::numeric_limits<double>::max()))
                return refuse(message, message_size,
                              "%s holds %g at place %lld: weights must be finite and not negative", name,
                              value, static_cast<long long>(i));
        }
        return fastxent_done;
    }

    int bad_label(int64_t row) {
        const fastxent_labels all = labels(0, groups);
        const char *place = static_cast<const char *>(all.data) + row * all.size;
        char label[32], ignored[64] = "";
        int64_t value = 0;
        std::memcpy(&value, place, static_cast<size_t>(all.size));
        if (all.is_signed && all.size < 8) {
            const int unused = 64 - 8 * all.size;
            value = static_cast<int64_t>(static_cast<uint64_t>(value) << unused) >> unused;
        }
        std::snprintf(label, sizeof label, all.is_signed ? "%lld" : "%llu",
                      static_cast<long long>(value));
        if (all.has_skip)
            std::snprintf(ignored, sizeof ignored, " and is not the ignored label %lld",
                          static_cast<long long>(all.skip));
        return refuse(message, message_size,
                      "fastxent: the target of row %lld is %s: it lies outside [0, %lld) for C = %lld "
                      "classes%s",
                      static_cast<long long>(row), label, static_cast<long long>(shape.classes),
                      static_cast<long long>(shape.classes), ignored);
    }

    // First bad label of these groups or -1, and the mass of the live rows.
    int check_labels(int64_t group, int64_t count, const double *class_mass, const double *row_mass,
                     int64_t *bad_row, double *mass) {
        fastxent_label_check check = {};
        check.labels = labels(group, count);
        check.class_mass = class_mass;
        check.row_mass = row_mass;
        check.threads = threads;
        const int64_t chunks = (check.labels.rows + fastxent_label_chunk - 1) / fastxent_label_chunk;
        scratch memory;
        char *place = memory.get(24 * chunks);
        if (!place) return fastxent_no_memory;
        check.bad_row = reinterpret_cast<int64_t *>(place);
        check.live = check.bad_row + chunks;
        check.mass = reinterpret_cast<double *>(check.live + chunks);
        level->check_labels(check);
        *bad_row = -1, *mass = 0.0;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            if (*bad_row < 0) *bad_row = check.bad_row[chunk];
            *mass += check.mass[chunk];
        }
        return fastxent_done;
    }

    // What the sum of a group's losses is divided by.
    int denominator_of(int64_t group, const double *class_mass, const double *row_mass, double *divisor) {
        *divisor = 1.0;
        if (!is_mean()) return fastxent_done;
        if (denominator) {
            *divisor = value_of(*denominator, group);
            if (*divisor >= 0.0 && *divisor <= std::numeric_limits<double>::max()) return fastxent_done;
            return refuse(message, message_size,
                          "fastxent: normalizer must be finite and not negative, it is %g", *divisor);
        }
        if (hard) {
            int64_t bad_row;
            return check_labels(group, 1, class_mass, row_mass, &bad_row, divisor);
        }
        *divisor = static_cast<double>(rows_of_group);
        if (row_mass) {
            *divisor = 0.0;
            for (int64_t row = 0; row < rows_of_group; ++row) *divisor += row_mass[row];
        }
        return fastxent_done;
    }

    void fill_zero(const fastxent_array *array, int64_t group) const {
        if (!array) return;
        const int64_t bytes = rows_of_group * shape.classes * size_of(array->kind);
        std::memset(static_cast<char *>(array->data) + group * bytes, 0, static_cast<size_t>(bytes));
    }

    bool same_factors() const {
        if (!factor) return true;
        const size_t bytes = static_cast<size_t>(shape.classes * size);
        const char *first = static_cast<const char *>(factor->data);
        for (int64_t group = 1; group < groups; ++group)
            if (std::memcmp(first, first + static_cast<size_t>(group) * bytes, bytes)) return false;
        return true;
    }

    // Some groups that have their factors of classes in common.
    int run_groups(int64_t first, int64_t count) {
        const int64_t rows = count * rows_of_group, classes = shape.classes;
        double total = 0.0;
        class_factor background, gain;
        scratch class_memory, row_memory, scale_memory, divisor_memory, loss_memory, pass_memory;
        double *divisors = reinterpret_cast<double *>(divisor_memory.get(8 * count));
        if (!divisors) return fastxent_no_memory;

        double one = 1.0, *class_mass = nullptr, *row_mass = nullptr;
        if (factor) {
            class_mass = reinterpret_cast<double *>(class_memory.get(8 * classes));
            if (!class_mass) return fastxent_no_memory;
            for (int64_t k = 0; k < classes; ++k) class_mass[k] = value_of(*factor, first * classes + k);
        }
        if (row_weight) {
            row_mass = reinterpret_cast<double *>(row_memory.get(8 * rows));
            if (!row_mass) return fastxent_no_memory;
            for (int64_t i = 0; i < rows; ++i) row_mass[i] = value_of(*row_weight, first * rows_of_group + i);
        }
        bool counts = false;
        for (int64_t i = 0; i < count; ++i) {
            const double *own = row_mass ? row_mass + i * rows_of_group : nullptr;
            const int outcome = denominator_of(first + i, class_mass, own, divisors + i);
            if (outcome != fastxent_done) return outcome;
            counts |= divisors[i] != 0.0;
        }

        fastxent_pass pass = {};
        const int64_t leads = shape.lead / groups * count, from = shape.lead / groups * first;
        const int64_t first_row = first * rows_of_group;
        pass.rows = rows, pass.classes = classes, pass.size = size, pass.threads = threads;
        pass.logits = matrix_of(logits, shape, from, leads);
        pass.logit_scale = number(fastxent_scale);
        pass.softcap = number(fastxent_cap);
        pass.z_loss = number(fastxent_square);
        const double on_target = number(fastxent_on_target), on_all = number(fastxent_on_all);
        double unused;
        if (hard) {
            pass.labels = labels(first, count);
            pass.spike = &one;
            if (factor) {
                pass.spike_step = 1;
                pass.spike = class_mass;
            }
        } else {
            pass.soft = matrix_of(target, shape, from, leads);
            pass.spike = &total;
        }
        const bool has_gain = !hard && (factor || on_target != 1.0);
        if (has_gain) {
            if (!gain.fill(size, on_target, factor, first, classes, &unused)) return fastxent_no_memory;
            pass.gain = gain.data, pass.gain_step = gain.step;
        }
        if (on_all != 0.0 || has_gain) {
            const fastxent_array *weights = on_all != 0.0 ? factor : nullptr;
            if (!background.fill(size, on_all, weights, first, classes, &pass.background_total))
                return fastxent_no_memory;
            pass.background = background.data, pass.background_step = background.step;
        }
        // the mass of the labels themselves is known by now: the same memory takes the spikes
        if (hard && factor)
            for (int64_t k = 0; k < classes; ++k) class_mass[k] *= on_target;
        else
            one = on_target;

        double scale = 1.0 / divisors[0];
        pass.row_scale = &scale;
        if (row_weight || count > 1) {
            double *scales = row_mass;
            if (!scales) scales = reinterpret_cast<double *>(scale_memory.get(8 * rows));
            if (!scales) return fastxent_no_memory;
            pass.row_scale = scales, pass.row_scale_step = 1;
            for (int64_t i = 0; i < rows; ++i)
                scales[i] = (row_weight ? row_mass[i] : 1.0) / divisors[i / rows_of_group];
        }
        if (grad) pass.grad = matrix_of(*grad, shape, from, leads);
        if (target_grad) pass.target_grad = matrix_of(*target_grad, shape, from, leads);
        const bool each = option(fastxent_reduce) == 0, in_rows = each || row_weight || count > 1;
        fastxent_array losses = loss;
        if (each)
            losses.data = static_cast<char *>(loss.data) + first_row * size;
        else if (in_rows)
            losses.data = loss_memory.get(rows * size);
        if (!losses.data) return fastxent_no_memory;
        if (in_rows)
            pass.loss = losses.data;
        else
            pass.total = &total;
        if (rows > 0 && counts) {
            const int outcome = run(pass, pass_memory);
            if (outcome != fastxent_done) return outcome;
        }
        for (int64_t i = 0; i < count; ++i)
            if (divisors[i] == 0.0) {
                fill_zero(grad, first + i);
                fill_zero(target_grad, first + i);
            }
        finish(first, count, divisors, losses, in_rows, total);
        return fastxent_done;
    }

    void finish(int64_t first, int64_t count, const double *divisors, const fastxent_array &losses,
                bool in_rows, double total) {
        const bool each = option(fastxent_reduce) == 0;
        const int64_t first_row = first * rows_of_group;
        for (int64_t i = 0; i < count; ++i) {
            if (in_rows) {
                total = 0.0;
                for (int64_t row = i * rows_of_group; row < (i + 1) * rows_of_group; ++row) {
                    const double factor_of_row = row_weight ? value_of(*row_weight, first_row + row) : 1.0;
                    const double weighted = value_of(losses, row) * factor_of_row;
                    if (each && row_weight) put_value(losses, row, weighted);
                    if (!each) total += weighted;
                }
            }
            if (each) continue;
            double value = total / divisors[i];
            if (divisors[i] == 0.0)
                value = option(fastxent_zero_of_nothing) ? 0.0 : std::numeric_limits<double>::quiet_NaN();
            put_value(loss, first + i, value);
        }
    }

    int run_all() {
        int outcome = check_weights(factor, "fastxent: weight");
        if (outcome == fastxent_done) outcome = check_weights(row_weight, "fastxent: sample_weight");
        if (outcome != fastxent_done) return outcome;
        if (hard) {
            int64_t bad_row;
            double unused;
            outcome = check_labels(0, groups, nullptr, nullptr, &bad_row, &unused);
            if (outcome != fastxent_done) return outcome;
            if (bad_row >= 0) return bad_label(bad_row);
        }
        if (grad) advise_large_pages(grad->data, shape.rows() * shape.classes * size_of(grad->kind));
        if (same_factors()) return groups ? run_groups(0, groups) : fastxent_done;
        for (int64_t group = 0; group < groups && outcome == fastxent_done; ++group)
            outcome = run_groups(group, 1);
        return outcome;
    }
};

}  // namespace

void fastxent_jax_use(const fastxent_level *chosen, int limit, double of_row, double of_byte,
                      double of_thread) {
    level = chosen;
    nanoseconds_of_row = of_row, nanoseconds_of_byte = of_byte, nanoseconds_of_thread = of_thread;
    thread_limit.store(limit, std::memory_order_relaxed);
}

int fastxent_jax_cross_entropy_body(const fastxent_call *call, char *message, size_t size) {
    if (call->integer_count != fastxent_integers || call->number_count != fastxent_numbers ||
        call->operand_count < 2 || call->result_count < 1 || call->operands[0].kind > fastxent_bfloat16)
        return refuse(message, size, "fastxent: operands or options of another form than expected");
    return loss_call(*call, message, size).run_all();
}

int fastxent_jax_softmax_body(const fastxent_call *call, char *message, size_t size) {
    if (call->integer_count != fastxent_softmax_integers || call->operand_count != 1)
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
