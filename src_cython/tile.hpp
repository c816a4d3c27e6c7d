// The arithmetic of many rows at once: a row in each lane, and the formulas of row.hpp.
#pragma once

#include "row.hpp"
#include "transpose.hpp"

namespace {

// As many rows as there are lanes. Lane by lane, class after class: z, its exponentials (which go over
// it unless it is kept) and masses of the target; and what is known of each row.
template <class T> struct tile {
    static constexpr int rows = lanes<T>::count;
    T *z, *exps, *masses;
    T *staged;  // room for the rows, one after the other
    const T *from[rows];
    T *to[rows];
    const char *ahead_from, *ahead_to;  // what the tile after the next will read and write
    int64_t ahead_from_step, ahead_to_step;
    lanes<T> live;  // 1 for a row that is computed, else 0
    lanes<T> at_label, exp_at_label, mass_at_label;
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

// Classes whose masses are added up in the compute type before they join a sum in double, which takes six
// instructions for every 16 floats. Exponentials join one by one: a loss of 1e-9 is what is left of 1.
constexpr int64_t tile_chain = 8;

// Where a tile has more classes than fastxent_tile_classes, the sums in double are compensated after so
// many: in float64 one chain of 1,030 was 120 roundings off.
constexpr int64_t tile_piece_classes = 32;

// Sums of a piece of a tile's classes.
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

// Exponentials of the classes from `begin` up to `end`, and their sums.
template <class T, class Target>
FASTXENT_INLINE tile_sums<T> tile_piece(const tile<T> &rows, int64_t begin, int64_t end,
                                        const lanes<T> &shift, const Target &target) {
    const T *numbers = rows.z;
    T *exps = rows.exps;
    wide<T> total = splat_wide<T>(0.0), mass = total, dot = total;
    const lanes<T> zero = splat(T(0));
    const char *ahead_from = rows.ahead_from, *ahead_to = rows.ahead_to;
    const int64_t from_step = rows.ahead_from_step, to_step = rows.ahead_to_step;
    for (int64_t first = begin; first < end; first += tile_chain) {
        const int64_t next = first + tile_chain, last = next < end ? next : end;
        lanes<T> some_mass = zero, some_dot = zero;
        for (int64_t k = first; k < last; ++k) {
            // a line of each: a tile reads and writes in bursts, and memory would wait while this loop
            // computes (32768x100: 62 ns a row instead of 106)
            __builtin_prefetch(ahead_from + k * from_step, 0, 2);
            __builtin_prefetch(ahead_to + k * to_step, 1, 2);
            const lanes<T> shifted = load(numbers + k * tile<T>::rows) - shift;
            const lanes<T> e = exp_of_negative(shifted);
            store(exps + k * tile<T>::rows, e);
            add(total, e);
            if constexpr (Target::everywhere) {
                const lanes<T> t = target.mass(k);
                some_mass = some_mass + t;
                // no mass, no loss: 0 * -inf must not become NaN
                some_dot = where_nonzero(t, fma(t, shifted, some_dot), some_dot);
            }
        }
        if constexpr (Target::everywhere) add(mass, some_mass), add(dot, some_dot);
    }
    return {total, mass, dot};
}

// What lies at the labels; 0 where there is none.
template <class T>
FASTXENT_INLINE lanes<T> at_labels(const T *numbers, const int64_t *label) {
    T found[tile<T>::rows];
    for (int r = 0; r < tile<T>::rows; ++r)
        found[r] = label[r] < 0 ? T(0) : numbers[label[r] * tile<T>::rows + r];
    return load(found);
}

// Exponentials, and the maximum and the sums of each row.
template <class T, class Target, bool labelled>
FASTXENT_ONCE void tile_forward(tile<T> &rows, int64_t classes, const Target &target,
                                const int64_t *label) {
    lanes<T> top = splat(-infinity<T>);
    for (int64_t k = 0; k < classes; ++k) top = max(load(rows.z + k * tile<T>::rows), top);
    // as shift_of: nothing is taken relative to -inf
    const lanes<T> shift = where_equal(top, splat(-infinity<T>), splat(T(0)), top);
    rows.max = top;
    // number by number, not by comparing each class with all labels
    if constexpr (labelled) rows.at_label = at_labels(rows.z, label);
    if (classes <= fastxent_tile_classes) {
        const tile_sums<T> sums = tile_piece(rows, 0, classes, shift, target);
        rows.sum = sums.sum, rows.mass = sums.mass, rows.dot = sums.dot;
    } else {
        tile_long_sum<T> total, mass, dot;
        for (int64_t begin = 0; begin < classes; begin += tile_piece_classes) {
            const int64_t next = begin + tile_piece_classes, end = next < classes ? next : classes;
            const tile_sums<T> sums = tile_piece(rows, begin, end, shift, target);
            total.add(sums.sum);
            if constexpr (Target::everywhere) mass.add(sums.mass), dot.add(sums.dot);
        }
        rows.sum = total.value(), rows.mass = mass.value(), rows.dot = dot.value();
    }
    if constexpr (labelled) rows.exp_at_label = at_labels(rows.exps, label);
    if constexpr (labelled && Target::everywhere) {
        T mass[tile<T>::rows];
        for (int r = 0; r < tile<T>::rows; ++r)
            mass[r] = label[r] < 0 ? T(0) : target.background[label[r] * target.step];
        rows.mass_at_label = load(mass);
    }
}

// sum exp(z - m) * (z - m), as block_spread.
template <class T> FASTXENT_ONCE wide<T> tile_spread(const tile<T> &rows, int64_t classes) {
    const lanes<T> shift = where_equal(rows.max, splat(-infinity<T>), splat(T(0)), rows.max);
    const lanes<T> lowest = splat(exp_constants<T>::lowest);
    tile_long_sum<T> all;
    for (int64_t begin = 0; begin < classes; begin += tile_piece_classes) {
        wide<T> spread = splat_wide<T>(0.0);
        for (int64_t k = begin; k < classes && k < begin + tile_piece_classes; ++k) {
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

// The gradient of all rows at class k. It holds copies, which no store can change.
template <class T, class Target, bool capped> struct tile_gradient {
    const T *z, *exps;
    lanes<T> factor, scale, inverse_cap;
    Target target;
    tile_gradient(const tile<T> &rows, const Target &of, double softcap)
        : z(rows.z), exps(rows.exps), factor(rows.factor), scale(rows.scale),
          inverse_cap(splat(static_cast<T>(capped ? 1.0 / softcap : 0.0))), target(of) {}
    FASTXENT_INLINE lanes<T> operator()(int64_t k) const {
        const lanes<T> e = load(exps + k * tile<T>::rows);
        lanes<T> grad;
        if constexpr (Target::everywhere)
            grad = grad_of(e, factor, target.mass(k), scale);
        else
            grad = e * factor;
        if constexpr (capped) {
            const lanes<T> share = load(z + k * tile<T>::rows) * inverse_cap;
            grad = grad * max(splat(T(1)) - share * share, splat(T(0)));
        }
        return grad;
    }
};

// (z - m) - log s.
template <class T> struct tile_log_proba {
    const T *z;
    lanes<T> max, log_sum;
    explicit tile_log_proba(const tile<T> &rows) : z(rows.z), max(rows.max), log_sum(rows.log_sum) {}
    FASTXENT_INLINE lanes<T> operator()(int64_t k) const {
        return load(z + k * tile<T>::rows) - max - log_sum;
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
