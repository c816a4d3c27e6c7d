// The arithmetic of many short rows at once: a row in each lane, and the formulas of row.hpp.
#pragma once

#include "row.hpp"
#include "transpose.hpp"

namespace {

// As many rows as there are lanes. Lane by lane: the logits of each class, which become exponentials,
// and what is known of each row. A label that is no class (-1) never matches.
template <class T> struct tile {
    static constexpr int rows = lanes<T>::count;
    T numbers[fastxent_tile_classes * rows];
    const T *from[rows];
    T *to[rows];
    const T *ahead_from, *ahead_to;  // what the tile after the next will read and write
    lanes<T> label, at_label, exp_at_label, mass_at_label;
    lanes<T> max, log_sum;
    // added up in double: a row's numbers meet in one lane, where those of a long row keep to sixteen
    wide<T> sum, mass, dot;
    lanes<T> factor, scale, grad_at_label;
};

template <class T> FASTXENT_INLINE lanes<T> load(const T *from) { return load<T>(from, whole{}, T(0)); }

template <class T> FASTXENT_INLINE void store(T *to, const lanes<T> &value) {
    store(to, value, whole{});
}

template <class T> FASTXENT_INLINE void add(wide<T> &sum, const lanes<T> &value) {
    const wide<T> more = widened(value);
    sum = each_wide<T>([&](int i) { return sum.of[i] + more.of[i]; });
}

// Rows of any type, converted, class by class.
template <class T, class S>
FASTXENT_ONCE void gather(const S *const *rows, int64_t classes, T *numbers) {
    for (int row = 0; row < lanes<T>::count; ++row)
        for (int64_t k = 0; k < classes; ++k)
            numbers[k * lanes<T>::count + row] = static_cast<T>(rows[row][k]);
}

template <class T>
FASTXENT_ONCE void gather(const T *const *rows, int64_t classes, T *numbers) {
    for_pieces<T>(classes, [&](int64_t k, auto n) __attribute__((always_inline)) {
        lanes<T> piece[n.value];
        load_classes<T, n.value>(rows, k, piece);
#pragma GCC unroll 4
        for (int j = 0; j < n.value; ++j) store(numbers + (k + j) * lanes<T>::count, piece[j]);
    });
}

// Reads the rows: exponentials, and the maximum and the sums of each row.
template <class T, class Target, bool labelled>
FASTXENT_ONCE void tile_forward(tile<T> &rows, int64_t classes, const Target &target) {
    gather(rows.from, classes, rows.numbers);
    lanes<T> top = splat(-infinity<T>);
    for (int64_t k = 0; k < classes; ++k) top = max(load(rows.numbers + k * tile<T>::rows), top);
    // as shift_of: nothing is taken relative to -inf
    const lanes<T> shift = where_equal(top, splat(-infinity<T>), splat(T(0)), top);
    wide<T> total = splat_wide<T>(0.0), mass = total, dot = total;
    const lanes<T> zero = splat(T(0));
    lanes<T> at_label = zero, exp_at_label = zero, mass_at_label = zero;
    const lanes<T> label = rows.label;
    for (int64_t k = 0; k < classes; ++k) {
        // a line of each: a tile reads and writes in bursts, and memory would wait while this loop
        // computes (32768x100: 62 ns a row instead of 106)
        __builtin_prefetch(rows.ahead_from + k * tile<T>::rows, 0, 2);
        __builtin_prefetch(rows.ahead_to + k * tile<T>::rows, 1, 2);
        const lanes<T> z = load(rows.numbers + k * tile<T>::rows), shifted = z - shift;
        const lanes<T> e = exp_of_negative(shifted);
        store(rows.numbers + k * tile<T>::rows, e);
        add(total, e);
        const lanes<T> here = splat(static_cast<T>(k));
        if constexpr (Target::everywhere) {
            const lanes<T> t = target.mass(k);
            add(mass, t);
            // no mass, no loss: 0 * -inf must not become NaN
            const wide<T> wide_t = widened(t), wide_z = widened(where_nonzero(t, shifted, zero));
            dot = each_wide<T>([&](int i) { return fma(wide_t.of[i], wide_z.of[i], dot.of[i]); });
            if constexpr (labelled) mass_at_label = where_equal(label, here, t, mass_at_label);
        }
        if constexpr (labelled) {
            at_label = where_equal(label, here, z, at_label);
            exp_at_label = where_equal(label, here, e, exp_at_label);
        }
    }
    rows.max = top, rows.sum = total, rows.mass = mass, rows.dot = dot;
    rows.at_label = at_label, rows.exp_at_label = exp_at_label, rows.mass_at_label = mass_at_label;
}

// Writes the gradient's rows.
template <class T, class Target, bool labelled>
FASTXENT_ONCE void tile_close(const tile<T> &rows, int64_t classes, const Target &target) {
    const lanes<T> factor = rows.factor, scale = rows.scale;
    const lanes<T> label = rows.label, grad_at_label = rows.grad_at_label;
    for_pieces<T>(classes, [&](int64_t k, auto n) __attribute__((always_inline)) {
        lanes<T> piece[n.value];
#pragma GCC unroll 4
        for (int j = 0; j < n.value; ++j) {
            const lanes<T> e = load(rows.numbers + (k + j) * tile<T>::rows);
            if constexpr (Target::everywhere)
                piece[j] = grad_of(e, factor, target.mass(k + j), scale);
            else
                piece[j] = e * factor;
            if constexpr (labelled)
                piece[j] =
                    where_equal(label, splat(static_cast<T>(k + j)), grad_at_label, piece[j]);
        }
        store_classes<T, n.value>(rows.to, k, piece);
    });
}

// Writes (z - m) - log s, from the rows read once more.
template <class T> FASTXENT_ONCE void tile_log_proba(tile<T> &rows, int64_t classes) {
    const lanes<T> max = rows.max, log_sum = rows.log_sum;
    for_pieces<T>(classes, [&](int64_t k, auto n) __attribute__((always_inline)) {
        lanes<T> piece[n.value];
        load_classes<T, n.value>(rows.from, k, piece);
#pragma GCC unroll 4
        for (int j = 0; j < n.value; ++j) piece[j] = piece[j] - max - log_sum;
        store_classes<T, n.value>(rows.to, k, piece);
    });
}

}  // namespace
