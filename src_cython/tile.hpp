// The arithmetic of many rows at once: a row in each lane, and the formulas of row.hpp.
#pragma once

#include "row.hpp"
#include "transpose.hpp"

namespace {

// As many rows as there are lanes. Lane by lane, class after class: z, its exponentials (which go over
// it unless it is kept) and masses of the target; and what is known of each row. A label that is no
// class (-1) never matches.
template <class T> struct tile {
    static constexpr int rows = lanes<T>::count;
    T *z, *exps, *masses;
    T *staged;  // room for the rows, one after the other
    const char *ahead_from, *ahead_to;  // what the tile after the next will read and write
    int64_t ahead_from_step, ahead_to_step;
    lanes<T> live;  // 1 for a row that is computed, else 0
    lanes<T> label, at_label, exp_at_label, mass_at_label;
    lanes<T> max, log_sum;
    // added up in double: a row's numbers meet in one lane, where those of a long row keep to sixteen
    wide<T> sum, mass, dot;
    lanes<T> factor, scale, grad_at_label;
    lanes<T> target_scale;  // of the gradient with respect to probabilities
};

template <class T> FASTXENT_INLINE lanes<T> load(const T *from) { return load<T>(from, whole{}, T(0)); }

template <class T> FASTXENT_INLINE void store(T *to, const lanes<T> &value) {
    store(to, value, whole{});
}

template <class T> FASTXENT_INLINE void add(wide<T> &sum, const lanes<T> &value) {
    const wide<T> more = widened(value);
    sum = each_wide<T>([&](int i) { return sum.of[i] + more.of[i]; });
}

// Rows that begin at `rows[0]`, `rows[1]`, ..., class by class.
template <class T>
FASTXENT_ONCE void gather(const T *const *rows, int64_t classes, T *numbers) {
    for_pieces<T>(classes, [&](int64_t k, auto n) __attribute__((always_inline)) {
        lanes<T> piece[n.value];
        load_classes<T, n.value>(rows, k, piece);
#pragma GCC unroll 4
        for (int j = 0; j < n.value; ++j) store(numbers + (k + j) * lanes<T>::count, piece[j]);
    });
}

// Sums of a piece of a tile's classes: in one chain each, which may not grow long.
template <class T> struct tile_sums {
    wide<T> sum, mass, dot;
};

// Sums of any number of pieces.
template <class T> struct tile_long_sum {
    long_sum<lanes<double>> of[wide<T>::parts];
    FASTXENT_INLINE tile_long_sum() {
        for (auto &one : of) one = {splat(0.0), splat(0.0)};
    }
    FASTXENT_INLINE void add(const wide<T> &value) {
        for (int i = 0; i < wide<T>::parts; ++i) of[i].add(value.of[i]);
    }
    FASTXENT_INLINE wide<T> value() const {
        return each_wide<T>([&](int i) { return value_of_lanes(of[i]); });
    }
};

// Exponentials of the classes from `begin` up to `end`, their sums, and what is found at the labels.
template <class T, class Target, bool labelled>
FASTXENT_INLINE tile_sums<T> tile_piece(tile<T> &rows, int64_t begin, int64_t end, const lanes<T> &shift,
                                        const Target &target) {
    const T *numbers = rows.z;
    T *exps = rows.exps;
    wide<T> total = splat_wide<T>(0.0), mass = total, dot = total;
    const lanes<T> zero = splat(T(0)), label = rows.label;
    lanes<T> at_label = rows.at_label, exp_at_label = rows.exp_at_label;
    lanes<T> mass_at_label = rows.mass_at_label;
    for (int64_t k = begin; k < end; ++k) {
        // a line of each: a tile reads and writes in bursts, and memory would wait while this loop
        // computes (32768x100: 62 ns a row instead of 106)
        __builtin_prefetch(rows.ahead_from + k * rows.ahead_from_step, 0, 2);
        __builtin_prefetch(rows.ahead_to + k * rows.ahead_to_step, 1, 2);
        const lanes<T> z = load(numbers + k * tile<T>::rows), shifted = z - shift;
        const lanes<T> e = exp_of_negative(shifted);
        store(exps + k * tile<T>::rows, e);
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
    rows.at_label = at_label, rows.exp_at_label = exp_at_label, rows.mass_at_label = mass_at_label;
    return {total, mass, dot};
}

// Exponentials, and the maximum and the sums of each row.
template <class T, class Target, bool labelled>
FASTXENT_ONCE void tile_forward(tile<T> &rows, int64_t classes, const Target &target) {
    lanes<T> top = splat(-infinity<T>);
    for (int64_t k = 0; k < classes; ++k) top = max(load(rows.z + k * tile<T>::rows), top);
    // as shift_of: nothing is taken relative to -inf
    const lanes<T> shift = where_equal(top, splat(-infinity<T>), splat(T(0)), top);
    rows.max = top;
    rows.at_label = rows.exp_at_label = rows.mass_at_label = splat(T(0));
    if (classes <= fastxent_tile_classes) {
        const tile_sums<T> sums = tile_piece<T, Target, labelled>(rows, 0, classes, shift, target);
        rows.sum = sums.sum, rows.mass = sums.mass, rows.dot = sums.dot;
        return;
    }
    tile_long_sum<T> total, mass, dot;
    for (int64_t begin = 0; begin < classes; begin += fastxent_tile_classes) {
        const int64_t next = begin + fastxent_tile_classes, end = next < classes ? next : classes;
        const tile_sums<T> sums = tile_piece<T, Target, labelled>(rows, begin, end, shift, target);
        total.add(sums.sum);
        if constexpr (Target::everywhere) mass.add(sums.mass), dot.add(sums.dot);
    }
    rows.sum = total.value(), rows.mass = mass.value(), rows.dot = dot.value();
}

// sum exp(z - m) * (z - m), as block_spread.
template <class T> FASTXENT_ONCE wide<T> tile_spread(const tile<T> &rows, int64_t classes) {
    const lanes<T> shift = where_equal(rows.max, splat(-infinity<T>), splat(T(0)), rows.max);
    const lanes<T> lowest = splat(exp_constants<T>::lowest);
    tile_long_sum<T> all;
    for (int64_t begin = 0; begin < classes; begin += fastxent_tile_classes) {
        wide<T> spread = splat_wide<T>(0.0);
        for (int64_t k = begin; k < classes && k < begin + fastxent_tile_classes; ++k) {
            const lanes<T> shifted = max(lowest, load(rows.z + k * tile<T>::rows) - shift);
            add(spread, load(rows.exps + k * tile<T>::rows) * shifted);
        }
        all.add(spread);
    }
    return all.value();
}

// The first class that holds the maximum of each row; 0 where nothing but NaN is there.
template <class T> FASTXENT_ONCE void tile_argmax(const tile<T> &rows, int64_t classes, int64_t *argmax) {
    T numbers[tile<T>::rows];
    lanes<T> found = splat(T(0));
    for (int64_t k = classes - 1; k >= 0; --k) {
        const lanes<T> here = load(rows.z + k * tile<T>::rows);
        found = where_equal(here, rows.max, splat(static_cast<T>(k)), found);
    }
    store(numbers, found);
    for (int r = 0; r < tile<T>::rows; ++r) argmax[r] = static_cast<int64_t>(numbers[r]);
}

// The gradient of all rows at class k.
template <class T, class Target, bool labelled, bool capped> struct tile_gradient {
    const tile<T> &rows;
    const Target &target;
    lanes<T> inverse_cap;
    FASTXENT_INLINE lanes<T> operator()(int64_t k) const {
        const lanes<T> e = load(rows.exps + k * tile<T>::rows);
        lanes<T> grad;
        if constexpr (Target::everywhere)
            grad = grad_of(e, rows.factor, target.mass(k), rows.scale);
        else
            grad = e * rows.factor;
        if constexpr (capped) {
            const lanes<T> share = load(rows.z + k * tile<T>::rows) * inverse_cap;
            grad = grad * max(splat(T(1)) - share * share, splat(T(0)));
        }
        if constexpr (labelled)
            grad = where_equal(rows.label, splat(static_cast<T>(k)), rows.grad_at_label, grad);
        return grad;
    }
};

// (z - m) - log s.
template <class T> struct tile_log_proba {
    const tile<T> &rows;
    FASTXENT_INLINE lanes<T> operator()(int64_t k) const {
        return load(rows.z + k * tile<T>::rows) - rows.max - rows.log_sum;
    }
};

// -scale * gain * ((z - m) - log s), as put_target_grad.
template <class T> struct tile_target_gradient {
    tile_log_proba<T> log_proba;
    const T *gain;
    int64_t gain_step;
    lanes<T> scale;
    FASTXENT_INLINE lanes<T> operator()(int64_t k) const {
        const lanes<T> value = log_proba(k);
        return (gain ? value * splat(gain[k * gain_step]) : value) * scale;
    }
};

}  // namespace
