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
// Functions that several loops share: inlined into each they made a megabyte of code a level. They are
// internal to their level all the same, being in an unnamed namespace.
#define FASTXENT_ONCE __attribute__((noinline))

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

template <class T> constexpr int how_many(whole) { return lanes<T>::count; }
template <class T> FASTXENT_INLINE int64_t how_many(first some) { return some.n; }

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

template <class T> FASTXENT_INLINE lanes<T> operator/(const lanes<T> &a, const lanes<T> &b) {
    return each<T>([&](int p) { return a.part[p] / b.part[p]; });
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

// The larger of the two; `b` where either is NaN, which is what one vmaxps does. Spelled out, because
// GCC makes a comparison and a blend of the expression.
#if defined(__AVX512F__)
FASTXENT_INLINE __m512 larger(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
FASTXENT_INLINE __m512d larger(__m512d a, __m512d b) { return _mm512_max_pd(a, b); }
#elif defined(__AVX2__)
FASTXENT_INLINE __m256 larger(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
FASTXENT_INLINE __m256d larger(__m256d a, __m256d b) { return _mm256_max_pd(a, b); }
#else
template <class Vector> FASTXENT_INLINE Vector larger(Vector a, Vector b) { return a > b ? a : b; }
#endif

template <class T> FASTXENT_INLINE lanes<T> max(const lanes<T> &a, const lanes<T> &b) {
    return each<T>([&](int p) { return larger(a.part[p], b.part[p]); });
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

// `value` where the two are equal, else `otherwise`.
template <class T>
FASTXENT_INLINE lanes<T> where_equal(const lanes<T> &a, const lanes<T> &b, const lanes<T> &value,
                                     const lanes<T> &otherwise) {
    return each<T>([&](int p) {
        return a.part[p] == b.part[p] ? value.part[p] : otherwise.part[p];
    });
}

// The size of one number with the sign of another.
template <class T>
FASTXENT_INLINE lanes<T> with_sign_of(const lanes<T> &size, const lanes<T> &sign) {
    using vector = typename machine<T>::vector;
    using bits = typename machine<T>::bits;
    const bits sign_bit = (bits)(-(vector{}));
    return each<T>([&](int p) {
        return (vector)(((bits)size.part[p] & ~sign_bit) | ((bits)sign.part[p] & sign_bit));
    });
}

// Elements of an array; lanes past the end hold `fill`.
// Part by part: GCC 12 takes 64 bytes that are two registers through the stack, 16 at a time.
template <class T> FASTXENT_INLINE lanes<T> load(const T *from, whole, T) {
    constexpr int width = lanes<T>::count / lanes<T>::parts;
    return each<T>([&](int p) {
        typename machine<T>::vector part;
        __builtin_memcpy(&part, from + p * width, sizeof part);
        return part;
    });
}

// Tails by masks: a tail copied number by number, then loaded whole, waits for its stores, 30 ns a row.
#if defined(__AVX512F__)
FASTXENT_INLINE lanes<float> masked(const float *from, first some, float fill) {
    const __mmask16 mask = static_cast<__mmask16>((1u << some.n) - 1);
    return {{_mm512_mask_loadu_ps(_mm512_set1_ps(fill), mask, from)}};
}

FASTXENT_INLINE lanes<double> masked(const double *from, first some, double fill) {
    const __mmask8 mask = static_cast<__mmask8>((1u << some.n) - 1);
    return {{_mm512_mask_loadu_pd(_mm512_set1_pd(fill), mask, from)}};
}

FASTXENT_INLINE void store(float *to, const lanes<float> &value, first some) {
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << some.n) - 1), value.part[0]);
}

FASTXENT_INLINE void store(double *to, const lanes<double> &value, first some) {
    _mm512_mask_storeu_pd(to, static_cast<__mmask8>((1u << some.n) - 1), value.part[0]);
}
#elif defined(__AVX2__)
// All bits set in the lanes of part p below n.
FASTXENT_INLINE __m256i part_mask(int p, int64_t n, float) {
    const __m256i place = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n) - 8 * p), place);
}

FASTXENT_INLINE __m256i part_mask(int p, int64_t n, double) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(n - 4 * p), _mm256_setr_epi64x(0, 1, 2, 3));
}

FASTXENT_INLINE lanes<float> masked(const float *from, first some, float fill) {
    return each<float>([&](int p) {
        const __m256i mask = part_mask(p, some.n, fill);
        const __m256 read = _mm256_maskload_ps(from + 8 * p, mask);
        return _mm256_blendv_ps(_mm256_set1_ps(fill), read, _mm256_castsi256_ps(mask));
    });
}

FASTXENT_INLINE lanes<double> masked(const double *from, first some, double fill) {
    return each<double>([&](int p) {
        const __m256i mask = part_mask(p, some.n, fill);
        const __m256d read = _mm256_maskload_pd(from + 4 * p, mask);
        return _mm256_blendv_pd(_mm256_set1_pd(fill), read, _mm256_castsi256_pd(mask));
    });
}

FASTXENT_INLINE void store(float *to, const lanes<float> &value, first some) {
    for (int p = 0; p < lanes<float>::parts; ++p)
        _mm256_maskstore_ps(to + 8 * p, part_mask(p, some.n, 0.0f), value.part[p]);
}

FASTXENT_INLINE void store(double *to, const lanes<double> &value, first some) {
    for (int p = 0; p < lanes<double>::parts; ++p)
        _mm256_maskstore_pd(to + 4 * p, part_mask(p, some.n, 0.0), value.part[p]);
}
#endif

template <class T> FASTXENT_INLINE lanes<T> masked(const T *from, first some, T fill) {
    T numbers[lanes<T>::count];
    for (int i = 0; i < lanes<T>::count; ++i) {
        numbers[i] = fill;
        if (i < some.n) __builtin_memcpy(numbers + i, from + i, sizeof(T));
    }
    lanes<T> result;
    __builtin_memcpy(&result, numbers, sizeof result);
    return result;
}

template <class T> FASTXENT_INLINE lanes<T> load(const T *from, first some, T fill) {
    return masked(from, some, fill);
}

template <class T> FASTXENT_INLINE void store(T *to, const lanes<T> &value, whole) {
    constexpr int width = lanes<T>::count / lanes<T>::parts;
#pragma GCC unroll 4
    for (int p = 0; p < lanes<T>::parts; ++p)
        __builtin_memcpy(to + p * width, &value.part[p], sizeof value.part[p]);
}

template <class T> FASTXENT_INLINE void store(T *to, const lanes<T> &value, first some) {
    T numbers[lanes<T>::count];
    __builtin_memcpy(numbers, &value, sizeof value);
    for (int i = 0; i < lanes<T>::count; ++i)
        if (i < some.n) __builtin_memcpy(to + i, numbers + i, sizeof(T));
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

// Calls body(index, how many, chain) for all lanes of n elements, four at a time: sums in four chains
// are more exact and overlap, and the loop itself costs a quarter. What is left over, whole lanes and
// the first few of the last, goes to the first chain.
template <class T, class Body> FASTXENT_INLINE void for_lanes(int64_t n, const Body &body) {
    constexpr int64_t step = lanes<T>::count;
    int64_t k = 0;
#pragma GCC unroll 1  // not all sixteen turns of a block
    for (; k + 4 * step <= n; k += 4 * step) {
#pragma GCC unroll 4
        for (int chain = 0; chain < 4; ++chain) body(k + chain * step, whole{}, chain);
    }
    for (; k + step <= n; k += step) body(k, whole{}, 0);
    if (k < n) body(k, first{n - k}, 0);
}

template <class T> struct chains {
    lanes<T> of[4];
    FASTXENT_INLINE explicit chains(T value) {
        for (auto &one : of) one = splat(value);
    }
    FASTXENT_INLINE lanes<T> sum() const { return (of[0] + of[1]) + (of[2] + of[3]); }
    FASTXENT_INLINE lanes<T> largest() const { return max(max(of[0], of[1]), max(of[2], of[3])); }
};

}  // namespace
