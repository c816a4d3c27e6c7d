// The arithmetic of one row, once, for every kind of target (docs/math.md has the formulas).
#pragma once

#include "kernels.hpp"
#include "lanes.hpp"

namespace {

FASTXENT_INLINE int64_t block_length(int64_t begin, int64_t classes) {
    return classes - begin < fastxent_block ? classes - begin : fastxent_block;
}

// Where a row's target puts mass besides the label: three policies with one method, mass(k, some).

struct only_on_label {
    static constexpr bool everywhere = false;
};

template <class T> struct on_background {
    static constexpr bool everywhere = true;
    const T *background;
    int64_t step;
    template <class Some> FASTXENT_INLINE lanes<T> mass(int64_t k, Some some) const {
        return load<T>(background + k * step, some, T(0));
    }
};

template <class T, class S> struct on_soft {
    static constexpr bool everywhere = true;
    const S *soft;
    template <class Some> FASTXENT_INLINE lanes<T> mass(int64_t k, Some some) const {
        return load<T>(soft + k, some, T(0));
    }
};

template <class T, class S> struct on_weighted_soft {
    static constexpr bool everywhere = true;
    const S *soft;
    const T *gain, *background;
    int64_t gain_step, background_step;
    template <class Some> FASTXENT_INLINE lanes<T> mass(int64_t k, Some some) const {
        return fma(load<T>(gain + k * gain_step, some, T(0)), load<T>(soft + k, some, T(0)),
                   load<T>(background + k * background_step, some, T(0)));
    }
};

// What a block's logits are taken relative to: -inf minus -inf would be NaN where all are masked.
template <class T> FASTXENT_INLINE T shift_of(T block_max) {
    return block_max == -infinity<T> ? T(0) : block_max;
}

template <class T, class Target>
FASTXENT_INLINE fastxent_block_sums block_forward(const T *logits, int64_t begin, int64_t n,
                                            const Target &target, T *exps) {
    const T *z = logits + begin;
    lanes<T> top = splat(-infinity<T>);
    for_lanes<T>(n, [&](int64_t k, auto some) __attribute__((always_inline)) {
        // the order of the operands lets a NaN pass by; the sum will show it
        top = max(load<T>(z + k, some, -infinity<T>), top);
    });
    const T block_max = largest(top);
    const lanes<T> shift = splat(shift_of(block_max));
    lanes<T> total = splat(T(0)), mass = splat(T(0)), dot = splat(T(0));
    for_lanes<T>(n, [&](int64_t k, auto some) __attribute__((always_inline)) {
        const lanes<T> shifted = load<T>(z + k, some, -infinity<T>) - shift;
        const lanes<T> e = exp_of_negative(shifted);
        if (exps) store(exps + begin + k, e, some);
        total = total + e;
        if constexpr (Target::everywhere) {
            const lanes<T> t = target.mass(begin + k, some);
            mass = mass + t;
            // no mass, no loss: 0 * -inf must not become NaN
            dot = where_nonzero(t, fma(t, shifted, dot), dot);
        }
    });
    return {static_cast<double>(block_max), sum(total), sum(mass), sum(dot)};
}

FASTXENT_INLINE double exp_one(double x) {
    const lanes<double> e = exp_of_negative(splat(x));
    return e.part[0][0];
}

// exp(block maximum - row maximum), exactly 1 for the block that holds the maximum.
FASTXENT_INLINE double block_factor(double block_max, double row_max) {
    return block_max == row_max ? 1.0 : exp_one(block_max - row_max);
}

// From the blocks' sums, in block order, to the row's: m, s, sum t and sum t * (z - m).
FASTXENT_INLINE fastxent_block_sums merge(const fastxent_block_sums *blocks, int64_t count) {
    fastxent_block_sums row = {-infinity<double>, 0, 0, 0};
    for (int64_t b = 0; b < count; ++b)
        row.max = blocks[b].max > row.max ? blocks[b].max : row.max;
    for (int64_t b = 0; b < count; ++b) {
        const fastxent_block_sums &block = blocks[b];
        const bool masked = block.max == -infinity<double>;  // then its sum is 0, or NaN
        row.sum += masked ? block.sum : block.sum * block_factor(block.max, row.max);
        row.mass += block.mass;
        row.dot += block.dot + block.mass * (shift_of(block.max) - row.max);
    }
    return row;
}

template <class T, class Target>
FASTXENT_INLINE fastxent_block_sums row_forward(const T *logits, int64_t classes,
                                                const Target &target, T *exps,
                                                fastxent_block_sums *blocks) {
    int64_t count = 0;
    for (int64_t begin = 0; begin < classes; begin += fastxent_block)
        blocks[count++] =
            block_forward(logits, begin, block_length(begin, classes), target, exps);
    return merge(blocks, count);
}

// exps becomes scale * (mass / s * exps - t), block by block.
template <class T, class Target>
FASTXENT_INLINE void row_close(T *exps, int64_t classes, const Target &target, double scale,
                               const fastxent_block_sums &row,
                               const fastxent_block_sums *blocks) {
    const lanes<T> scales = splat(static_cast<T>(scale));
    for (int64_t b = 0, begin = 0; begin < classes; ++b, begin += fastxent_block) {
        const double share = row.mass / row.sum * block_factor(blocks[b].max, row.max);
        // where t is 0 the scale goes into the one factor; where it is not, it comes last, so that
        // the difference cancels exactly (C = 1: p = t = 1)
        const lanes<T> factor =
            splat(static_cast<T>(Target::everywhere ? share : scale * share));
        T *e = exps + begin;
        for_lanes<T>(block_length(begin, classes),
                     [&](int64_t k, auto some) __attribute__((always_inline)) {
                         const lanes<T> exps_here = load<T>(e + k, some, T(0));
                         if constexpr (Target::everywhere) {
                             const lanes<T> t = target.mass(begin + k, some);
                             store(e + k, fms(exps_here, factor, t) * scales, some);
                         } else {
                             store(e + k, exps_here * factor, some);
                         }
                     });
    }
}

}  // namespace
