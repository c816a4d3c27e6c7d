// The arithmetic of rows, once, for every kind of target (docs/math.md has the formulas).
#pragma once

#include "finish.hpp"
#include "kernels.hpp"
#include "long_sum.hpp"
#include "target.hpp"

namespace {

FASTXENT_INLINE int64_t block_length(int64_t begin, int64_t classes) {
    return classes - begin < fastxent_block ? classes - begin : fastxent_block;
}

// What logits are taken relative to: -inf minus -inf would be NaN where all are masked.
FASTXENT_INLINE double shift_of(double max) { return max == -infinity<double> ? 0.0 : max; }

// scale * (share * exp - t). Where t is 0 the scale goes into the one factor; where it is not, it
// comes last, so that the difference cancels exactly (C = 1: p = t = 1).
template <class T>
FASTXENT_INLINE lanes<T> grad_of(const lanes<T> &exps, const lanes<T> &share, const lanes<T> &mass,
                                 const lanes<T> &scale) {
    return fms(exps, share, mass) * scale;
}

template <class T> FASTXENT_INLINE double block_max(const T *z, int64_t n) {
    chains<T> tops(-infinity<T>);
    for_lanes<T>(n, [&](int64_t k, auto some, int chain) __attribute__((always_inline)) {
        // the order of the operands lets a NaN pass by; the sum will show it
        tops.of[chain] = max(load<T>(z + k, some, -infinity<T>), tops.of[chain]);
    });
    return largest(tops.largest());
}

// What is brought near while a block is computed, class by class.
struct look_ahead {
    const char *from, *to;  // what is read and written later
    int64_t from_size, to_size;
    FASTXENT_INLINE void fetch(int64_t k) const {
        __builtin_prefetch(from + k * from_size, 0, 2);
        __builtin_prefetch(to + k * to_size, 1, 2);
    }
};

// Sums of a block of z, and its exponentials, which may go over z.
//
// Where the processor does not foresee it, a line for every line of classes is fetched meanwhile: one
// for each set of lanes, or, where numbers are half as wide, for every other (`fetches` 1 or 2). Rows of one block jump from place to place: 8192x1000 from memory took 480 ns a row, 425 so;
// 16384x500 265 and 200; with probabilities to read besides 375 and 265. Logits that were prepared have
// been read in a burst, and nothing else is read while their exponentials are computed. Longer rows of
// logits that are read as they lie it foresees, and fetching as well costs a third.
template <class T, int fetches, class Target>
FASTXENT_INLINE fastxent_block_sums block_forward(const T *z, double block_max, int64_t n,
                                                  const Target &target, T *exps,
                                                  const look_ahead &ahead) {
    const lanes<T> shift = splat(static_cast<T>(shift_of(block_max)));
    chains<T> total(T(0)), mass(T(0)), dot(T(0));
    for_lanes<T>(n, [&](int64_t k, auto some, int chain) __attribute__((always_inline)) {
        if constexpr (fetches) {
            if (chain % fetches == 0) ahead.fetch(k);
            if constexpr (Target::everywhere) target.fetch(k + fastxent_block);
        }
        const lanes<T> shifted = load<T>(z + k, some, -infinity<T>) - shift;
        const lanes<T> e = exp_of_negative(shifted);
        if (exps) store(exps + k, e, some);
        total.of[chain] = total.of[chain] + e;
        if constexpr (Target::everywhere) {
            const lanes<T> t = target.mass(k, some);
            mass.of[chain] = mass.of[chain] + t;
            // no mass, no loss: 0 * -inf must not become NaN
            dot.of[chain] = where_nonzero(t, fma(t, shifted, dot.of[chain]), dot.of[chain]);
        }
    });
    return {block_max, sum(total.sum()), sum(mass.sum()), sum(dot.sum()), 0.0, 1.0, -1};
}

// sum exp(z - m) * (z - m), to which a class that is masked adds 0 * `lowest` = 0.
template <class T>
FASTXENT_ONCE double block_spread(const T *z, double block_max, int64_t n, const T *exps) {
    const lanes<T> shift = splat(static_cast<T>(shift_of(block_max)));
    const lanes<T> lowest = splat(exp_constants<T>::lowest);
    chains<T> spread(T(0));
    for_lanes<T>(n, [&](int64_t k, auto some, int chain) __attribute__((always_inline)) {
        const lanes<T> shifted = max(lowest, load<T>(z + k, some, T(0)) - shift);
        spread.of[chain] = fma(load<T>(exps + k, some, T(0)), shifted, spread.of[chain]);
    });
    return sum(spread.sum());
}

// The first class of n that holds the maximum: 64 at a time are compared with it, in the lanes.
template <class T> FASTXENT_ONCE int64_t first_of(const T *z, int64_t n, double max) {
    const T top = static_cast<T>(max);
    for (int64_t begin = 0; begin < n; begin += 64) {
        const int64_t end = begin + 64 < n ? begin + 64 : n;
        int found = 0;
        for (int64_t k = begin; k < end; ++k) found |= get_number(z + k) == top;
        for (int64_t k = begin; found && k < end; ++k)
            if (get_number(z + k) == top) return k;
    }
    return 0;  // nothing but NaN
}

// From the sums of two blocks or more, in block order, to the row's. Each block learns its factor
// exp(block maximum - row maximum), exactly 1 for the one that holds the maximum.
FASTXENT_INLINE fastxent_block_sums merge(fastxent_block_sums *blocks, int64_t count) {
    double max = -infinity<double>;
    int64_t argmax = blocks[0].argmax;
    for (int64_t b = 0; b < count; ++b)
        if (blocks[b].max > max) max = blocks[b].max, argmax = blocks[b].argmax;
    long_sum<double> sum = {0.0, 0.0}, mass = sum, dot = sum, spread = sum;
    for (int64_t b = 0; b < count; ++b) {
        fastxent_block_sums &block = blocks[b];
        if (block.max != max) block.factor = exp_of_negative(block.max - max);
        const double down = shift_of(block.max) - max;
        // a masked block's sum is 0, or NaN; where all are masked the factor stays 1
        sum.add(block.sum * block.factor);
        mass.add(block.mass);
        dot.add(block.dot + block.mass * down);
        if (block.factor != 0.0) spread.add((block.spread + block.sum * down) * block.factor);
    }
    return {max, value_of(sum), value_of(mass), value_of(dot), value_of(spread), 1.0, argmax};
}

// exps becomes scale * (share * exps - t); `share` is mass / s.
template <class T, class Target>
FASTXENT_INLINE void block_close(T *exps, int64_t n, const Target &target, const lanes<T> &scale,
                                 const lanes<T> &factor) {
    for_lanes<T>(n, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
        const lanes<T> here = load<T>(exps + k, some, T(0));
        if constexpr (Target::everywhere)
            store(exps + k, grad_of(here, factor, target.mass(k, some), scale), some);
        else
            store(exps + k, here * factor, some);
    });
}

// The gradient with respect to z becomes that with respect to the logits; `factor` is what it lacks.
template <class T>
FASTXENT_ONCE void block_slope(T *grad, const T *z, int64_t n, const fastxent_pass &pass,
                               const transform_of<T> &transform, lanes<T> factor) {
    const lanes<T> inverse_cap = splat(static_cast<T>(1.0 / pass.softcap));
    for_lanes<T>(n, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
        const lanes<T> slope = transform.slope(load<T>(z + k, some, T(0)), inverse_cap);
        store(grad + k, load<T>(grad + k, some, T(0)) * factor * slope, some);
    });
}

// (z - m) - log s to `to`.
template <class T>
FASTXENT_ONCE void block_log_proba(const T *z, int64_t n, double max, double log_sum, T *to) {
    const lanes<T> top = splat(static_cast<T>(max)), log = splat(static_cast<T>(log_sum));
    for_lanes<T>(n, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
        store(to + k, load<T>(z + k, some, T(0)) - top - log, some);
    });
}

}  // namespace
