// The verbs, compiled once per instruction level with that level's flags.
#include <cmath>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "row.hpp"

#define FASTXENT_JOIN_(a, b) a##b
#define FASTXENT_JOIN(a, b) FASTXENT_JOIN_(a, b)
#define FASTXENT_QUOTE_(a) #a
#define FASTXENT_QUOTE(a) FASTXENT_QUOTE_(a)

namespace {

// Elements a chunk of rows: a few microseconds of work, so that a core that is busy elsewhere
// delays the call by one chunk only.
constexpr int64_t chunk_elements = 1 << 15;

// The one parallel loop. Chunks are handed out as threads come; which thread takes one changes no
// bit of the result. With one thread OpenMP is not entered, which makes forked children safe.
template <class Body> void for_chunks(int64_t chunks, int threads, const Body &body) {
#ifdef _OPENMP
    if (threads > 1 && chunks > 1) {
#pragma omp parallel num_threads(threads)
        {
            const int thread = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
            for (int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk, thread);
        }
        return;
    }
#endif
    (void)threads;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk, 0);
}

template <class Body>
void for_rows(int64_t rows, int64_t classes, int threads, const Body &body) {
    const int64_t step = classes < chunk_elements ? chunk_elements / classes : 1;
    for_chunks((rows + step - 1) / step, threads, [&](int64_t chunk, int thread) {
        const int64_t end = (chunk + 1) * step < rows ? (chunk + 1) * step : rows;
        for (int64_t row = chunk * step; row < end; ++row) body(row, thread);
    });
}

template <class Label> int64_t widened(const void *labels, int64_t row) {
    return static_cast<int64_t>(static_cast<const Label *>(labels)[row]);
}

// A label as a 64-bit pattern: a uint64 beyond the largest int64 comes out negative, and is as
// far out of range as it was.
int64_t label_at(const fastxent_labels &labels, int64_t row) {
    switch (labels.size * 2 + labels.is_signed) {
    case 2: return widened<uint8_t>(labels.data, row);
    case 3: return widened<int8_t>(labels.data, row);
    case 4: return widened<uint16_t>(labels.data, row);
    case 5: return widened<int16_t>(labels.data, row);
    case 8: return widened<uint32_t>(labels.data, row);
    case 9: return widened<int32_t>(labels.data, row);
    default: return widened<int64_t>(labels.data, row);
    }
}

bool is_skipped(const fastxent_labels &labels, int64_t label) {
    return labels.has_skip && label == labels.skip;
}

bool is_class(const fastxent_labels &labels, int64_t label) {
    return static_cast<uint64_t>(label) < static_cast<uint64_t>(labels.classes);
}

void check_labels(const fastxent_label_check &check) {
    const fastxent_labels &labels = check.labels;
    const int64_t chunks = (labels.rows + fastxent_label_chunk - 1) / fastxent_label_chunk;
    for_chunks(chunks, check.threads, [&](int64_t chunk, int) {
        const int64_t begin = chunk * fastxent_label_chunk;
        const int64_t end = begin + fastxent_label_chunk < labels.rows
                                ? begin + fastxent_label_chunk
                                : labels.rows;
        int64_t bad_row = -1, live = 0;
        double mass = 0;
        for (int64_t row = begin; row < end; ++row) {
            const int64_t label = label_at(labels, row);
            if (is_skipped(labels, label)) continue;
            if (!is_class(labels, label)) {
                bad_row = row;
                break;
            }
            ++live;
            mass += (check.class_mass ? check.class_mass[label] : 1.0) *
                    (check.row_mass ? check.row_mass[row] : 1.0);
        }
        check.bad_row[chunk] = bad_row;
        check.live[chunk] = live;
        check.mass[chunk] = mass;
    });
}

template <class T> T *row_of(void *array, int64_t stride, int64_t row) {
    return array ? static_cast<T *>(array) + row * stride : nullptr;
}

template <class T> void put(void *array, int64_t row, double value) {
    if (array) static_cast<T *>(array)[row] = static_cast<T>(value);
}

// One row with this kind of target. `label` is -1 for soft targets.
template <class T, class Target>
void forward_row(const fastxent_pass &pass, const Target &target, int64_t label, int64_t row,
                 fastxent_block_sums *blocks) {
    const T *logits = static_cast<const T *>(pass.logits) + row * pass.logits_stride;
    // read before anything is written: the gradient may go over the logits
    const double at_label = label >= 0 ? static_cast<double>(logits[label]) : 0.0;
    T *grad = row_of<T>(pass.grad, pass.out_stride, row);
    fastxent_block_sums sums = grad
        ? row_forward(logits, pass.classes, target, grad, blocks)
        : row_forward(logits, pass.classes, target, static_cast<T *>(nullptr), blocks);

    const double spike = label >= 0 ? pass.spike[label * pass.spike_step] : 0.0;
    if (label >= 0) sums.mass = spike + pass.background_total;
    double loss = sums.mass * std::log(sums.sum);
    if constexpr (Target::everywhere) loss -= sums.dot;
    if (spike != 0.0) loss -= spike * (at_label - sums.max);
    put<T>(pass.loss, row, loss);
    put<T>(pass.row_max, row, sums.max);
    if (pass.row_sum) pass.row_sum[row] = sums.sum;
    if (!grad) return;

    const double scale = pass.row_scale[row * pass.row_scale_step];
    const double exp_at_label = label >= 0 ? static_cast<double>(grad[label]) : 0.0;
    row_close(grad, pass.classes, target, scale, sums, blocks);
    if (label < 0) return;
    // p - 1 cancels: the element at the label is computed in double before it is rounded
    double t = spike;
    if constexpr (Target::everywhere)
        t += static_cast<double>(target.mass(label, first{1}).part[0][0]);
    const double share =
        sums.mass / sums.sum * block_factor(blocks[label / fastxent_block].max, sums.max);
    grad[label] = static_cast<T>(scale * (share * exp_at_label - t));
}

// A row that is not computed: 0 where its label is skipped.
template <class T> void fill_row(const fastxent_pass &pass, int64_t row, double value) {
    put<T>(pass.loss, row, value);
    T *grad = row_of<T>(pass.grad, pass.out_stride, row);
    if (grad)
        for (int64_t k = 0; k < pass.classes; ++k) grad[k] = static_cast<T>(value);
}

int64_t blocks_of_row(const fastxent_pass &pass) {
    return (pass.classes + fastxent_block - 1) / fastxent_block;
}

template <class T, class Target> void forward_hard(const fastxent_pass &pass, const Target &target) {
    for_rows(pass.rows, pass.classes, pass.threads, [&](int64_t row, int thread) {
        const int64_t label = label_at(pass.labels, row);
        if (is_skipped(pass.labels, label)) return fill_row<T>(pass, row, 0.0);
        // checked already, but the array is the caller's: another thread may have written to it
        if (!is_class(pass.labels, label)) return fill_row<T>(pass, row, __builtin_nan(""));
        forward_row<T>(pass, target, label, row, pass.blocks + thread * blocks_of_row(pass));
    });
}

template <class T, class S> void forward_soft(const fastxent_pass &pass) {
    const bool weighted = pass.gain != nullptr;
    for_rows(pass.rows, pass.classes, pass.threads, [&](int64_t row, int thread) {
        const S *soft = static_cast<const S *>(pass.soft) + row * pass.soft_stride;
        fastxent_block_sums *blocks = pass.blocks + thread * blocks_of_row(pass);
        if (weighted) {
            const on_weighted_soft<T, S> target = {
                soft, static_cast<const T *>(pass.gain), static_cast<const T *>(pass.background),
                pass.gain_step, pass.background_step};
            forward_row<T>(pass, target, -1, row, blocks);
        } else {
            forward_row<T>(pass, on_soft<T, S>{soft}, -1, row, blocks);
        }
    });
}

template <class T> void forward_of(const fastxent_pass &pass) {
    if (pass.soft) {
        if (pass.soft_size == 1) return forward_soft<T, uint8_t>(pass);
        if (pass.soft_size == 4) return forward_soft<T, float>(pass);
        return forward_soft<T, double>(pass);
    }
    if (!pass.background) return forward_hard<T>(pass, only_on_label{});
    forward_hard<T>(pass, on_background<T>{static_cast<const T *>(pass.background),
                                           pass.background_step});
}

void forward(const fastxent_pass &pass) {
    pass.size == 4 ? forward_of<float>(pass) : forward_of<double>(pass);
}

template <class T> void softmax_row(const fastxent_pass &pass, int64_t row, fastxent_block_sums *blocks) {
    const T *logits = static_cast<const T *>(pass.logits) + row * pass.logits_stride;
    T *proba = row_of<T>(pass.proba, pass.out_stride, row);
    fastxent_block_sums sums =
        proba ? row_forward(logits, pass.classes, only_on_label{}, proba, blocks)
              : row_forward(logits, pass.classes, only_on_label{}, static_cast<T *>(nullptr), blocks);
    put<T>(pass.row_max, row, sums.max);
    if (pass.row_sum) pass.row_sum[row] = sums.sum;
    sums.mass = 1.0;
    if (proba) row_close(proba, pass.classes, only_on_label{}, 1.0, sums, blocks);
    if (T *log_proba = row_of<T>(pass.log_proba, pass.out_stride, row)) {
        const lanes<T> top = splat(static_cast<T>(sums.max));
        const lanes<T> log_sum = splat(static_cast<T>(std::log(sums.sum)));
        for_lanes<T>(pass.classes, [&](int64_t k, auto some) __attribute__((always_inline)) {
            store(log_proba + k, load<T>(logits + k, some, T(0)) - top - log_sum, some);
        });
    }
}

void softmax(const fastxent_pass &pass) {
    for_rows(pass.rows, pass.classes, pass.threads, [&](int64_t row, int thread) {
        fastxent_block_sums *blocks = pass.blocks + thread * blocks_of_row(pass);
        pass.size == 4 ? softmax_row<float>(pass, row, blocks)
                       : softmax_row<double>(pass, row, blocks);
    });
}

}  // namespace

extern const fastxent_level FASTXENT_JOIN(fastxent_level_, FASTXENT_LEVEL);
const fastxent_level FASTXENT_JOIN(fastxent_level_, FASTXENT_LEVEL) = {
    FASTXENT_QUOTE(FASTXENT_LEVEL), check_labels, forward, softmax};
