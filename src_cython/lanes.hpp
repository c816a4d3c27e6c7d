// 64 bytes of numbers as one value: 16 floats or 8 doubles, whatever the machine's own width.
//
// Every instruction level computes with the same lanes in the same order, so sums have the same
// bits on all levels that have a fused multiply-add. Everything here is inlined: a function that
// is called rather than inlined would be linked once and run baseline code on every level.
#pragma once

#include <cstdint>

#if defined(__FMA__)
#include <immintrin.h>
#endif

#define FASTXENT_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
#define FASTXENT_VECTOR_BYTES 64
#elif defined(__AVX__)
#define FASTXENT_VECTOR_BYTES 32
#else
#define FASTXENT_VECTOR_BYTES 16
#endif

namespace {

template <class T> struct machine;

template <> struct machine<float> {
    typedef float vector __attribute__((vector_size(FASTXENT_VECTOR_BYTES)));
    typedef int32_t bits __attribute__((vector_size(FASTXENT_VECTOR_BYTES)));
};

template <> struct machine<double> {
    typedef double vector __attribute__((vector_size(FASTXENT_VECTOR_BYTES)));
    typedef int64_t bits __attribute__((vector_size(FASTXENT_VECTOR_BYTES)));
};

template <class T> struct lanes {
    static constexpr int count = 64 / sizeof(T);
    static constexpr int parts = 64 / FASTXENT_VECTOR_BYTES;
    typename machine<T>::vector part[parts];
};

// How many of the lanes stand for elements of the array: all, or the first n.
struct whole {};
struct first {
    int64_t n;
};

template <class T> constexpr T infinity = static_cast<T>(__builtin_inf());

template <class T, class Function> FASTXENT_INLINE lanes<T> each(const Function &function) {
    lanes<T> result;
#pragma GCC unroll 4
    for (int p = 0; p < lanes<T>::parts; ++p) result.part[p] = function(p);
    return result;
}

template <class T> FASTXENT_INLINE lanes<T> splat(T value) {
    return each<T>([&](int) { return value - typename machine<T>::vector{}; });
}

template <class T> FASTXENT_INLINE lanes<T> operator+(const lanes<T> &a, const lanes<T> &b) {
    return each<T>([&](int p) { return a.part[p] + b.part[p]; });
}

template <class T> FASTXENT_INLINE lanes<T> operator-(const lanes<T> &a, const lanes<T> &b) {
    return each<T>([&](int p) { return a.part[p] - b.part[p]; });
}

template <class T> FASTXENT_INLINE lanes<T> operator*(const lanes<T> &a, const lanes<T> &b) {
    return each<T>([&](int p) { return a.part[p] * b.part[p]; });
}

// a * b + c, rounded once where the level has the instruction. Spelled out, because what a compiler
// fuses by itself (-ffp-contract=fast) depends on the code around it: v3 and v4 differed in bits.
#if defined(__AVX512F__)
FASTXENT_INLINE __m512 fused(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }
FASTXENT_INLINE __m512d fused(__m512d a, __m512d b, __m512d c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(__FMA__)
FASTXENT_INLINE __m256 fused(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }
FASTXENT_INLINE __m256d fused(__m256d a, __m256d b, __m256d c) { return _mm256_fmadd_pd(a, b, c); }
#else
template <class Vector> FASTXENT_INLINE Vector fused(Vector a, Vector b, Vector c) {
    return a * b + c;
}
#endif

template <class T>
FASTXENT_INLINE lanes<T> fma(const lanes<T> &a, const lanes<T> &b, const lanes<T> &c) {
    return each<T>([&](int p) { return fused(a.part[p], b.part[p], c.part[p]); });
}

// a * b - c
template <class T>
FASTXENT_INLINE lanes<T> fms(const lanes<T> &a, const lanes<T> &b, const lanes<T> &c) {
    return each<T>([&](int p) { return fused(a.part[p], b.part[p], -c.part[p]); });
}

// The larger of the two; `b` where either is NaN, which is what one vmaxps does.
template <class T> FASTXENT_INLINE lanes<T> max(const lanes<T> &a, const lanes<T> &b) {
    return each<T>([&](int p) { return a.part[p] > b.part[p] ? a.part[p] : b.part[p]; });
}

// `value` where `condition` is not zero (NaN is not), else `otherwise`.
template <class T>
FASTXENT_INLINE lanes<T> where_nonzero(const lanes<T> &condition, const lanes<T> &value,
                                       const lanes<T> &otherwise) {
    const typename machine<T>::vector zero = {};
    return each<T>([&](int p) {
        return condition.part[p] != zero ? value.part[p] : otherwise.part[p];
    });
}

// Elements of any type S, widened or rounded to T; lanes past the end hold `fill`.
template <class T, class S> FASTXENT_INLINE lanes<T> load(const S *from, whole, T) {
    T numbers[lanes<T>::count];
    for (int i = 0; i < lanes<T>::count; ++i) numbers[i] = static_cast<T>(from[i]);
    lanes<T> result;
    __builtin_memcpy(&result, numbers, sizeof result);
    return result;
}

template <class T> FASTXENT_INLINE lanes<T> load(const T *from, whole, T) {
    lanes<T> result;
    __builtin_memcpy(&result, from, sizeof result);
    return result;
}

template <class T, class S> FASTXENT_INLINE lanes<T> load(const S *from, first some, T fill) {
    T numbers[lanes<T>::count];
    for (int i = 0; i < lanes<T>::count; ++i)
        numbers[i] = i < some.n ? static_cast<T>(from[i]) : fill;
    lanes<T> result;
    __builtin_memcpy(&result, numbers, sizeof result);
    return result;
}

template <class T> FASTXENT_INLINE void store(T *to, const lanes<T> &value, whole) {
    __builtin_memcpy(to, &value, sizeof value);
}

template <class T> FASTXENT_INLINE void store(T *to, const lanes<T> &value, first some) {
    T numbers[lanes<T>::count];
    __builtin_memcpy(numbers, &value, sizeof value);
    for (int i = 0; i < lanes<T>::count; ++i)
        if (i < some.n) to[i] = numbers[i];
}

// Sum in float64 by halves: lane i and lane i + count/2, and so on.
template <class T> FASTXENT_INLINE double sum(const lanes<T> &value) {
    T numbers[lanes<T>::count];
    __builtin_memcpy(numbers, &value, sizeof value);
    double wide[lanes<T>::count];
    for (int i = 0; i < lanes<T>::count; ++i) wide[i] = static_cast<double>(numbers[i]);
#pragma GCC unroll 4
    for (int half = lanes<T>::count / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) wide[i] += wide[i + half];
    return wide[0];
}

template <class T> FASTXENT_INLINE T largest(const lanes<T> &value) {
    T numbers[lanes<T>::count];
    __builtin_memcpy(numbers, &value, sizeof value);
#pragma GCC unroll 4
    for (int half = lanes<T>::count / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i)
            numbers[i] = numbers[i] > numbers[i + half] ? numbers[i] : numbers[i + half];
    return numbers[0];
}

// Calls body(index, how many) for all lanes of n elements: whole lanes, then the first few.
template <class T, class Body> FASTXENT_INLINE void for_lanes(int64_t n, const Body &body) {
    int64_t k = 0;
    for (; k + lanes<T>::count <= n; k += lanes<T>::count) body(k, whole{});
    if (k < n) body(k, first{n - k});
}

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

// exp of x <= 0: exactly 1 at 0, exactly 0 at -inf and wherever the result would lie below the
// smallest normal number; NaN stays NaN. Nothing else may be passed: there is no upper bound.
template <class T> FASTXENT_INLINE lanes<T> exp_of_negative(lanes<T> x) {
    using C = exp_constants<T>;
    x = max(splat(C::lowest), x);
    const lanes<T> shifted = fma(x, splat(static_cast<T>(1.4426950408889634)), splat(C::magic));
    const lanes<T> k = shifted - splat(C::magic);
    lanes<T> r = fma(k, splat(-C::ln2_high), x);
    r = fma(k, splat(-C::ln2_low), r);
    lanes<T> p = splat(C::polynomial[0]);
#pragma GCC unroll 16
    for (int i = 1; i < C::terms; ++i) p = fma(p, r, splat(C::polynomial[i]));
    p = fma(p, r, splat(static_cast<T>(1)));
    const lanes<T> power = each<T>([&](int i) {
        using bits = typename machine<T>::bits;
        return (typename machine<T>::vector)((bits)shifted.part[i] << C::mantissa);
    });
    return p * power;
}

}  // namespace
