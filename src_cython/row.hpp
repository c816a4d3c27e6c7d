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

// With `ahead` the lines that lie a block further are fetched meanwhile: later rows, where rows lie
// close. Rows of one block jump from place to place before the processor foresees it: 8192x1000 from
// memory took 480 ns a row, 425 so; 16384x500 265 and 200; with probabilities to read besides 375 and
// 265. Longer rows it foresees, and fetching as well costs a third.
template <class T, bool ahead, class Target>
FASTXENT_INLINE fastxent_block_sums block_forward(const T *logits, int64_t begin, int64_t n,
                                                  const Target &target, T *exps) {
    const T *z = logits + begin;
    chains<T> tops(-infinity<T>);
    for_lanes<T>(n, [&](int64_t k, auto some, int chain) __attribute__((always_inline)) {
        // the order of the operands lets a NaN pass by; the sum will show it
        tops.of[chain] = max(load<T>(z + k, some, -infinity<T>), tops.of[chain]);
    });
    const double block_max = largest(tops.largest());
    const lanes<T> shift = splat(static_cast<T>(shift_of(block_max)));
    chains<T> total(T(0)), mass(T(0)), dot(T(0));
    for_lanes<T>(n, [&](int64_t k, auto some, int chain) __attribute__((always_inline)) {
        if constexpr (ahead) {
            __builtin_prefetch(z + k + fastxent_block, 0, 2);
            __builtin_prefetch(exps + k + fastxent_block, 1, 2);
            if constexpr (Target::everywhere) target.fetch(k + fastxent_block);
        }
        const lanes<T> shifted = load<T>(z + k, some, -infinity<T>) - shift;
        const lanes<T> e = exp_of_negative(shifted);
        if (exps) store(exps + begin + k, e, some);
        total.of[chain] = total.of[chain] + e;
        if constexpr (Target::everywhere) {
            const lanes<T> t = target.mass(begin + k, some);
            mass.of[chain] = mass.of[chain] + t;
            // no mass, no loss: 0 * -inf must not become NaN
            dot.of[chain] = where_nonzero(t, fma(t, shifted, dot.of[chain]), dot.of[chain]);
        }
    });
    return {block_max, sum(total.sum()), sum(mass.sum()), sum(dot.sum()), 1.0};
}

// From the blocks' sums, in block order, to the row's: m, s, sum t and sum t * (z - m). Each block
// learns its factor exp(block maximum - row maximum), exactly 1 for the one that holds the maximum.
FASTXENT_INLINE fastxent_block_sums merge(fastxent_block_sums *blocks, int64_t count) {
    if (count == 1) return blocks[0];
    double max = -infinity<double>;
    for (int64_t b = 0; b < count; ++b) max = blocks[b].max > max ? blocks[b].max : max;
    long_sum<double> sum = {0.0, 0.0}, mass = sum, dot = sum;
    for (int64_t b = 0; b < count; ++b) {
        fastxent_block_sums &block = blocks[b];
        if (block.max != max) block.factor = exp_of_negative(block.max - max);
        // a masked block's sum is 0, or NaN; where all are masked the factor stays 1
        sum.add(block.sum * block.factor);
        mass.add(block.mass);
        dot.add(block.dot + block.mass * (shift_of(block.max) - max));
    }
    return {max, value_of(sum), value_of(mass), value_of(dot), 1.0};
}

// The blocks of a row from block `from` up to `to`: a row may be shared out among threads.
template <class T, class Target>
FASTXENT_ONCE void blocks_forward(const T *logits, int64_t classes, const Target &target, T *exps,
                                  fastxent_block_sums *blocks, int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b) {
        const int64_t begin = b * fastxent_block, n = block_length(begin, classes);
        // null as a constant leaves no test in the loop
        if (!exps)
            blocks[b] = block_forward<T, false>(logits, begin, n, target, static_cast<T *>(nullptr));
        else if (classes <= fastxent_block)
            blocks[b] = block_forward<T, true>(logits, begin, n, target, exps);
        else
            blocks[b] = block_forward<T, false>(logits, begin, n, target, exps);
    }
}

// exps becomes scale * (share * exps - t), block by block; `share` is mass / s.
template <class T, class Target>
FASTXENT_ONCE void blocks_close(T *exps, int64_t classes, const Target &target, double scale,
                                  double share, const fastxent_block_sums *blocks, int64_t from,
                                  int64_t to) {
    const lanes<T> scales = splat(static_cast<T>(scale));
    for (int64_t b = from; b < to; ++b) {
        const int64_t begin = b * fastxent_block;
        const double of_block = share * blocks[b].factor;
        const lanes<T> factor =
            splat(static_cast<T>(Target::everywhere ? of_block : scale * of_block));
        T *e = exps + begin;
        for_lanes<T>(block_length(begin, classes),
                     [&](int64_t k, auto some, int) __attribute__((always_inline)) {
                         const lanes<T> here = load<T>(e + k, some, T(0));
                         if constexpr (Target::everywhere) {
                             const lanes<T> t = target.mass(begin + k, some);
                             store(e + k, grad_of(here, factor, t, scales), some);
                         } else {
                             store(e + k, here * factor, some);
                         }
                     });
    }
}

}  // namespace
