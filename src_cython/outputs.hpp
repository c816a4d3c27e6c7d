// What is written of a row besides the gradient of its blocks, and what becomes of rows that are not
// computed.
#pragma once

#include "labels.hpp"
#include "long_sum.hpp"
#include "row.hpp"

namespace {

template <class T> void put(void *array, int64_t row, double value) {
    if (array) static_cast<T *>(array)[row] = static_cast<T>(value);
}

struct row_statistics {
    double loss, max, sum, log_prob, log_sum, spread;
    int64_t argmax;
};

template <class T>
FASTXENT_ONCE void put_statistics(const fastxent_pass &pass, int64_t row, const row_statistics &of) {
    put<T>(pass.loss, row, of.loss);
    put<T>(pass.row_max, row, of.max);
    if (pass.row_sum) pass.row_sum[row] = of.sum;
    put<T>(pass.log_prob, row, of.log_prob);
    put<T>(pass.entropy, row, of.log_sum - of.spread / of.sum);
    // no class where there is no softmax: the sum is 0 or NaN
    if (pass.argmax) pass.argmax[row] = of.sum > 0.0 ? of.argmax : -1;
}

// What becomes of a row by its label: computed, or filled with a number.
struct row_fate {
    bool computed;
    int64_t label;  // -1 where there are no labels
    double filling;
};

FASTXENT_INLINE row_fate fate_of(const fastxent_pass &pass, int64_t row) {
    if (!pass.labels.data) return {true, -1, 0.0};
    const int64_t label = label_at(pass.labels, row);
    if (is_skipped(pass.labels, label)) return {false, -1, 0.0};
    // checked already, but the array is the caller's: another thread may have written to it
    if (!is_class(pass.labels, label)) return {false, -1, __builtin_nan("")};
    return {true, label, 0.0};
}

// A row that is not computed: 0 where its label is skipped. Gives its loss.
template <class T>
FASTXENT_ONCE double fill_row(const fastxent_pass &pass, int64_t row, double value,
                              bool classes_too = true) {
    put<T>(pass.loss, row, value);
    put<T>(pass.row_max, row, value);
    if (pass.row_sum) pass.row_sum[row] = value + 1.0;
    put<T>(pass.log_prob, row, value);
    put<T>(pass.entropy, row, value);
    if (pass.argmax) pass.argmax[row] = -1;
    if (pass.grad.data && classes_too) fill_classes(pass.grad, row, pass.classes, static_cast<T>(value));
    if (pass.proba.data) fill_classes(pass.proba, row, pass.classes, static_cast<T>(value));
    if (pass.hess.data) fill_classes(pass.hess, row, pass.classes, static_cast<T>(value));
    return value;
}

// (z - m) - log s of the classes from `begin` on; `space` has room for a block.
template <class T>
FASTXENT_ONCE void put_log_proba(const fastxent_pass &pass, int64_t row, int64_t begin, int64_t n,
                                 const T *z, double max, double log_sum, T *space) {
    char *to = row_of(pass.log_proba, row);
    if (pass.schedule.writes_directly)
        return block_log_proba(z, n, max, log_sum, reinterpret_cast<T *>(to) + begin);
    block_log_proba(z, n, max, log_sum, space);
    deliver(space, splat(T(1)), n, pass.log_proba, to, begin);
}

// -scale * gain * ((z - m) - log s): the loss's gradient with respect to probabilities.
template <class T>
FASTXENT_ONCE void put_target_grad(const fastxent_pass &pass, int64_t row, int64_t begin, int64_t n,
                                   const T *z, double max, double log_sum, T *space) {
    const lanes<T> factor = splat(static_cast<T>(-pass.row_scale[row * pass.row_scale_step]));
    block_log_proba(z, n, max, log_sum, space);
    if (pass.gain) {
        const T *gain = static_cast<const T *>(pass.gain);
        for_lanes<T>(n, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
            const lanes<T> here = load<T>(gain + (begin + k) * pass.gain_step, some, T(0));
            store(space + k, load<T>(space + k, some, T(0)) * here, some);
        });
    }
    deliver(space, factor, n, pass.target_grad, row_of(pass.target_grad, row), begin);
}

}  // namespace
