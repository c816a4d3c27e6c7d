// exp and log on lanes, in the ranges that a softmax needs.
#pragma once

#include "lanes.hpp"

namespace {

// exp(x) = 2^k * exp(r) with k = round(x / ln 2) and |r| <= ln(2) / 2 (Cody and Waite, "Software
// Manual for the Elementary Functions", 1980). Adding `magic` rounds to an integer and leaves
// k + bias in the low bits, which a shift turns into the float 2^k. exp(r) = 1 + r * P(r), P fitted
// on Chebyshev nodes: truncated at 0.09 ULP (float, 6 terms; 5 leave 1.7) and 0.05 (double, 11).
template <class T> struct exp_constants;

template <> struct exp_constants<float> {
    static constexpr float lowest = -88.0f;  // below it k is -127, the bits of 2^k are 0
    static constexpr float magic = 12582912.0f + 127.0f;
    static constexpr int mantissa = 23;
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    static constexpr int terms = 6;
    static constexpr float polynomial[terms] = {
        1.39336858e-3f, 8.3691841e-3f, 4.1666463e-2f, 1.66665167e-1f, 5.0e-1f, 1.0f};
};

template <> struct exp_constants<double> {
    static constexpr double lowest = -709.0;
    static constexpr double magic = 6755399441055744.0 + 1023.0;
    static constexpr int mantissa = 52;
    static constexpr double ln2_high = 6.93147180369123816490e-01;
    static constexpr double ln2_low = 1.90821492927058770002e-10;
    static constexpr int terms = 11;
    static constexpr double polynomial[terms] = {
        2.5105259538448494e-08, 2.7626426376580335e-07, 2.7557255297969643e-06,
        2.4801504180837137e-05, 1.9841269874901259e-04, 1.3888888932619635e-03,
        8.3333333333261116e-03, 4.1666666666572767e-02, 1.6666666666666666e-01,
        5.0000000000000056e-01, 1.0};
};

// finish(p, r, power) for x <= 0, where exp(x) = (1 + p * r) * power(): a call back, because GCC 12 keeps
// several lanes that a function returns in memory on AVX2.
template <class T, class Finish>
FASTXENT_INLINE lanes<T> with_exp_of_negative(lanes<T> x, const Finish &finish) {
    using C = exp_constants<T>;
    x = max(splat(C::lowest), x);
    const lanes<T> shifted = fma(x, splat(static_cast<T>(1.4426950408889634)), splat(C::magic));
    const lanes<T> k = shifted - splat(C::magic);
    lanes<T> r = fma(k, splat(-C::ln2_high), x);
    r = fma(k, splat(-C::ln2_low), r);
    lanes<T> p = splat(C::polynomial[0]);
#pragma GCC unroll 16
    for (int i = 1; i < C::terms; ++i) p = fma(p, r, splat(C::polynomial[i]));
    return finish(p, r, [&]() __attribute__((always_inline)) {
        return each<T>([&](int i) {
            using bits = typename machine<T>::bits;
            return (typename machine<T>::vector)((bits)shifted.part[i] << C::mantissa);
        });
    });
}

// exp of x <= 0: exactly 1 at 0, exactly 0 at -inf and wherever the result would lie below the
// smallest normal number; NaN stays NaN. Nothing else may be passed: there is no upper bound.
template <class T> FASTXENT_INLINE lanes<T> exp_of_negative(const lanes<T> &x) {
    return with_exp_of_negative(
        x, [](const lanes<T> &p, const lanes<T> &r, const auto &power) __attribute__((always_inline)) {
            return fma(p, r, splat(static_cast<T>(1))) * power();
        });
}

// tanh of any number, from exp(-2|x|) - 1, which keeps its digits near 0.
template <class T> FASTXENT_INLINE lanes<T> tanh_of(const lanes<T> &x) {
    const lanes<T> one = splat(static_cast<T>(1)), two = splat(static_cast<T>(2));
    const lanes<T> less_one = with_exp_of_negative(
        with_sign_of(x + x, splat(static_cast<T>(-1))),
        [&](const lanes<T> &p, const lanes<T> &r, const auto &power_of) __attribute__((always_inline)) {
            const lanes<T> power = power_of();
            return fma(p * r, power, power - one);
        });
    return with_sign_of(less_one / (less_one + two), x);
}

FASTXENT_INLINE double exp_of_negative(double x) { return exp_of_negative(splat(x)).part[0][0]; }

// log(x) = k * ln 2 + log(1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and log(1 + f) from the series
// of atanh(f / (2 + f)): the method and the coefficients of fdlibm (Sun Microsystems, 1993, e_log.c),
// below 1 ULP. For sums of exponentials: x is a normal number, 0 (which gives -inf) or NaN.
FASTXENT_INLINE lanes<double> log_of_sum(const lanes<double> &x) {
    using vector = machine<double>::vector;
    using bits = machine<double>::bits;
    constexpr int64_t one = 0x3ff0000000000000, root_half = 0x3fe6a09e667f3bcd;
    const lanes<double> f = each<double>([&](int p) {
        const bits moved = (bits)x.part[p] + (one - root_half);
        return (vector)((moved & 0xfffffffffffff) + root_half) - 1.0;
    });
    // an exponent of 0 to 2047 becomes a double by its bits: AVX2 has no conversion for 64 bits
    const lanes<double> k = each<double>([&](int p) {
        const bits moved = (bits)x.part[p] + (one - root_half);
        return (vector)((moved >> 52) | 0x4330000000000000) - (4503599627370496.0 + 1023.0);
    });
    const lanes<double> s = f / (f + splat(2.0));
    const lanes<double> z = s * s, w = z * z;
    lanes<double> even = fma(w, splat(1.531383769920937332e-01), splat(2.222219843214978396e-01));
    even = fma(w, even, splat(3.999999999940941908e-01)) * w;
    lanes<double> odd = fma(w, splat(1.479819860511658591e-01), splat(1.818357216161805012e-01));
    odd = fma(w, odd, splat(2.857142874366239149e-01));
    odd = fma(w, odd, splat(6.666666666666735130e-01)) * z;
    const lanes<double> half_square = f * f * splat(0.5);
    const lanes<double> near_one =
        fma(s, half_square + (odd + even), k * splat(1.90821492927058770002e-10)) - half_square + f;
    const lanes<double> log = fma(k, splat(6.93147180369123816490e-01), near_one);
    // x * 0 hands a NaN on
    return where_nonzero(x, log + x * splat(0.0), splat(-infinity<double>));
}

FASTXENT_INLINE double log_of_sum(double x) { return log_of_sum(splat(x)).part[0][0]; }

}  // namespace
