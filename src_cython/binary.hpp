// Loss and gradient of elements that are each a choice of two, in one pass: the verb binary.
#pragma once

#include "elementary.hpp"
#include "elements.hpp"
#include "long_sum.hpp"
#include "parallel.hpp"
#include "wide.hpp"

namespace {

// log(1 + e) = 2 atanh(s) = 2 s + s^3 Q(s^2) with s = e / (2 + e), which is at most 1/3; Q fitted on
// Chebyshev nodes: truncated at 0.01 ULP (float, 5 terms; 4 leave 0.26) and 0.04 (double, 10).
template <class T> struct log1p_constants;

template <> struct log1p_constants<float> {
    static constexpr int terms = 5;
    static constexpr float polynomial[terms] = {
        2.32243292e-1f, 2.17065758e-1f, 2.8592358e-1f, 3.99997063e-1f, 6.66666673e-1f};
};

template <> struct log1p_constants<double> {
    static constexpr int terms = 10;
    static constexpr double polynomial[terms] = {
        1.6164045611943532e-1, 8.8007384861446739e-2, 1.2001072809590713e-1,
        1.3314144209654936e-1, 1.5385570064958623e-1, 1.8181789436132858e-1,
        2.2222222717427863e-1, 2.8571428567108757e-1, 4.0000000000014583e-1,
        6.6666666666666659e-1};
};

// log(1 + e) of 0 <= e <= 1, or NaN.
template <class T> FASTXENT_INLINE lanes<T> log1p_of_unit(const lanes<T> &e) {
    using C = log1p_constants<T>;
    const lanes<T> s = e / (e + splat(static_cast<T>(2)));
    const lanes<T> z = s * s;
    lanes<T> q = splat(C::polynomial[0]);
#pragma GCC unroll 16
    for (int i = 1; i < C::terms; ++i) q = fma(q, z, splat(C::polynomial[i]));
    return fma(s * z, q, s + s);
}

template <class T> constexpr int sign_bit = 8 * sizeof(T) - 1;

// -|x|
template <class T> FASTXENT_INLINE lanes<T> minus_size(const lanes<T> &x) {
    using machine_bits = typename machine<T>::bits;
    return each<T>([&](int p) {
        const machine_bits sign = (machine_bits{} + 1) << sign_bit<T>;
        return (typename machine<T>::vector)((machine_bits)x.part[p] | sign);
    });
}

// `value` where the sign of x is set, else `otherwise`.
template <class T>
FASTXENT_INLINE lanes<T> where_minus(const lanes<T> &x, const lanes<T> &value,
                                     const lanes<T> &otherwise) {
    return each<T>([&](int p) {
        return (typename machine<T>::bits)x.part[p] < 0 ? value.part[p] : otherwise.part[p];
    });
}

// `value` where the sign of x is set, else -value.
template <class T>
FASTXENT_INLINE lanes<T> plus_where_minus(const lanes<T> &x, const lanes<T> &value) {
    using machine_bits = typename machine<T>::bits;
    return each<T>([&](int p) {
        const machine_bits sign = (machine_bits{} + 1) << sign_bit<T>;
        const machine_bits flip = ~(machine_bits)x.part[p] & sign;
        return (typename machine<T>::vector)((machine_bits)value.part[p] ^ flip);
    });
}

// The operands of a block: numbers, or a constant that fills 64 bytes and has step 0.
template <class T> struct binary_block {
    const T *logits, *target, *ones, *factor, *upstream;
    int64_t ones_step, factor_step, upstream_step;
    T *loss, *grad, *proba, *hess;
    lanes<T> hess_factor, hess_floor;
    bool hess_is_distance;
};

// The mass of each element, whose loss it is: 1 where nothing is weighed or smoothed.
template <class T> struct binary_masses {
    lanes<T> positive, negative, factor;
};

template <class T> struct plain_masses {
    static constexpr T fill = -infinity<T>;  // past the end: there is no loss at 0
    template <class Some>
    FASTXENT_INLINE binary_masses<T> operator()(const binary_block<T> &block, int64_t k,
                                                Some some) const {
        const lanes<T> y = load<T>(block.target + k, some, T(0)), one = splat(static_cast<T>(1));
        return {y, one - y, one};
    }
    FASTXENT_INLINE lanes<T> loss(const binary_masses<T> &, const lanes<T> &log,
                                  const lanes<T> &rest) const {
        return log - rest;
    }
};

template <class T> struct weighed_masses {
    static constexpr T fill = 0;
    lanes<T> gain, background;
    template <class Some>
    FASTXENT_INLINE binary_masses<T> operator()(const binary_block<T> &block, int64_t k,
                                                Some some) const {
        const lanes<T> y = load<T>(block.target + k, some, T(0));
        const lanes<T> ones = load<T>(block.ones + k * block.ones_step, some, T(0));
        const lanes<T> other = splat(static_cast<T>(1)) - y;
        // a factor of 0 past the end: there is no loss
        return {ones * fma(gain, y, background), fma(gain, other, background),
                load<T>(block.factor + k * block.factor_step, some, T(0))};
    }
    FASTXENT_INLINE lanes<T> loss(const binary_masses<T> &mass, const lanes<T> &log,
                                  const lanes<T> &rest) const {
        return mass.factor * fms(mass.positive + mass.negative, log, rest);
    }
};

// What the masses make of a logit x, from e = exp(-|x|), which cannot overflow; `linear` is that on 0
// where x has no sign, else that on 1, and `other` the other one:
//     loss = (positive + negative) * log(1 + e) - linear * -|x|
//     grad = (other * e - linear) / (1 + e) where x has a sign, else minus that
// A side without mass counts for nothing, be its logarithm infinite.
//
// With `wants_more` than the gradient, sigma(x) is 1 or e over 1 + e, and 1 - sigma(x) the other one.
template <class T, bool wants_loss, bool wants_grad, bool wants_more, class Masses, class Some>
FASTXENT_INLINE lanes<T> binary_lanes(const Masses &masses, const binary_block<T> &block, int64_t k,
                                      Some some) {
    const lanes<T> zero = splat(static_cast<T>(0)), one = splat(static_cast<T>(1));
    const lanes<T> x = load<T>(block.logits + k, some, Masses::fill);
    const binary_masses<T> mass = masses(block, k, some);
    const lanes<T> minus = minus_size(x);
    const lanes<T> e = exp_of_negative(minus);
    const lanes<T> linear = where_minus(x, mass.positive, mass.negative);
    const lanes<T> rest = where_nonzero(linear, linear * minus, zero);
    const lanes<T> loss = masses.loss(mass, log1p_of_unit(e), rest);
    if constexpr (wants_grad) {
        const lanes<T> other = where_minus(x, mass.negative, mass.positive);
        const lanes<T> side = plus_where_minus(x, fms(other, e, linear));
        const lanes<T> upstream = load<T>(block.upstream + k * block.upstream_step, some, T(0));
        const lanes<T> scale = mass.factor * upstream;
        if (!wants_more || block.grad) store(block.grad + k, scale * side / (one + e), some);
        if constexpr (wants_more) {
            const lanes<T> p = where_minus(x, e, one) / (one + e);
            const lanes<T> rest = where_minus(x, one, e) / (one + e);
            const lanes<T> distance = zero - minus_size(side / (one + e));
            const lanes<T> share = block.hess_is_distance ? distance : p * rest;
            if (block.proba) store(block.proba + k, p, some);
            if (block.hess)
                store(block.hess + k, max(block.hess_floor, share * (scale * block.hess_factor)), some);
        }
    }
    if constexpr (wants_loss) store(block.loss + k, loss, some);
    return loss;
}

using binary_sum = long_sum<lanes<double>>;

template <class T, bool wants_loss, bool wants_grad, bool wants_more, class Masses>
FASTXENT_ONCE void binary_block_of(const Masses &masses, const binary_block<T> &block,
                                   int64_t count, binary_sum &total) {
    chains<double> sums(0.0);
    for_lanes<T>(count, [&](int64_t k, auto some, int chain) {
        const wide<T> loss =
            widened(binary_lanes<T, wants_loss, wants_grad, wants_more>(masses, block, k, some));
        sums.of[chain] = sums.of[chain] + loss.of[0];
        if constexpr (wide<T>::parts == 2) sums.of[chain] = sums.of[chain] + loss.of[1];
    });
    total.add(sums.sum());
}

template <class T, class Masses>
void binary_block_with(const Masses &masses, const binary_block<T> &block, int64_t count,
                       binary_sum &total) {
    const bool more = block.proba || block.hess;
    if (more && block.loss)
        return binary_block_of<T, true, true, true>(masses, block, count, total);
    if (more) return binary_block_of<T, false, true, true>(masses, block, count, total);
    if (block.grad && block.loss)
        return binary_block_of<T, true, true, false>(masses, block, count, total);
    if (block.grad) return binary_block_of<T, false, true, false>(masses, block, count, total);
    if (block.loss) return binary_block_of<T, true, false, false>(masses, block, count, total);
    binary_block_of<T, false, false, false>(masses, block, count, total);
}

// Memory of a chunk: a block of each operand that is not where it is needed, or a constant.
template <class T> struct binary_buffers {
    alignas(64) T logits[element_block], target[element_block], ones[element_block],
        factor[element_block], upstream[element_block], loss[element_block], grad[element_block],
        proba[element_block], hess[element_block];
};

// A factor that is the same everywhere fills the beginning of its buffer once a chunk.
template <class T> int64_t begin_factor(const fastxent_elements &factor, T *buffer) {
    if (factor.data) return 1;
    store(buffer, splat(static_cast<T>(factor.constant)), whole{});
    return 0;
}

inline bool is_one(const fastxent_elements &factor) {
    return !factor.data && factor.constant == 1.0;
}

template <class T> void binary_chunk(const fastxent_binary_pass &pass, int64_t chunk) {
    binary_buffers<T> own;
    binary_sum total = {splat(0.0), splat(0.0)};
    binary_block<T> block = {};
    block.ones_step = begin_factor(pass.ones, own.ones);
    block.factor_step = begin_factor(pass.factor, own.factor);
    block.upstream_step = begin_factor(pass.upstream, own.upstream);
    const weighed_masses<T> weighed = {splat(static_cast<T>(pass.gain)),
                                       splat(static_cast<T>(pass.background))};
    const bool plain = is_one(pass.ones) && is_one(pass.factor) && pass.gain == 1.0 &&
                       pass.background == 0.0;
    const bool computes = pass.total || pass.loss.data || pass.grad.data || pass.proba.data ||
                          pass.hess.data;
    block.hess_factor = splat(static_cast<T>(pass.hess_factor));
    block.hess_floor = splat(static_cast<T>(pass.hess_floor));
    block.hess_is_distance = pass.hess_is_distance;
    const int64_t from = chunk * fastxent_chunk_elements;
    const int64_t to =
        from + fastxent_chunk_elements < pass.count ? from + fastxent_chunk_elements : pass.count;
    uint64_t seen = 0, ignored = 0;
    for (int64_t begin = from; begin < to; begin += element_block) {
        const int64_t count = begin + element_block < to ? element_block : to - begin;
        const element_range range = {pass, begin, count};
        block.target = fetch(pass.target, range, own.target, &seen);
        if (!computes) continue;
        block.logits = fetch(pass.logits, range, own.logits, &ignored);
        block.ones = block.ones_step ? fetch(pass.ones, range, own.ones, &ignored) : own.ones;
        block.factor =
            block.factor_step ? fetch(pass.factor, range, own.factor, &ignored) : own.factor;
        block.upstream = block.upstream_step
                             ? fetch(pass.upstream, range, own.upstream, &ignored)
                             : own.upstream;
        if (pass.loss.data) block.loss = destination(pass.loss, range, own.loss);
        if (pass.grad.data) block.grad = destination(pass.grad, range, own.grad);
        if (pass.proba.data) block.proba = destination(pass.proba, range, own.proba);
        if (pass.hess.data) block.hess = destination(pass.hess, range, own.hess);
        if (plain)
            binary_block_with(plain_masses<T>{}, block, count, total);
        else
            binary_block_with(weighed, block, count, total);
        if (block.loss == own.loss) write_back(pass.loss, range, own.loss);
        if (block.grad == own.grad) write_back(pass.grad, range, own.grad);
        if (block.proba == own.proba) write_back(pass.proba, range, own.proba);
        if (block.hess == own.hess) write_back(pass.hess, range, own.hess);
    }
    pass.totals[chunk] = value_of(total);
    pass.bad[chunk] = seen != 0;
}

bool binary(const fastxent_binary_pass &pass) {
    const int64_t chunks = (pass.count + fastxent_chunk_elements - 1) / fastxent_chunk_elements;
    const chunk_loop loop = {chunks, fastxent_chunk_elements, pass.threads, pass.watch};
    const bool is_done = for_chunks(loop, [&](int64_t chunk, int) {
        pass.size == 4 ? binary_chunk<float>(pass, chunk) : binary_chunk<double>(pass, chunk);
    });
    if (!is_done || !pass.total) return is_done;
    long_sum<double> total = {0.0, 0.0};
    for (int64_t chunk = 0; chunk < chunks; ++chunk) total.add(pass.totals[chunk]);
    *pass.total = value_of(total);
    return true;
}

}  // namespace
