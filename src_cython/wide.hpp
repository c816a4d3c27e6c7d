// The lanes of T in double precision, and back: in registers, since a value stored in halves and loaded
// whole waits for its stores.
#pragma once

#include "lanes.hpp"

namespace {

template <class T> struct wide {
    static constexpr int parts = lanes<T>::count / lanes<double>::count;
    lanes<double> of[parts];
};

template <class T, class Function> FASTXENT_INLINE wide<T> each_wide(const Function &function) {
    wide<T> result;
#pragma GCC unroll 2
    for (int i = 0; i < wide<T>::parts; ++i) result.of[i] = function(i);
    return result;
}

template <class T> FASTXENT_INLINE wide<T> splat_wide(double value) {
    return each_wide<T>([&](int) { return splat(value); });
}

template <class T> FASTXENT_INLINE wide<T> load_wide(const double *from) {
    return each_wide<T>([&](int i) {
        return load<double>(from + i * lanes<double>::count, whole{}, 0.0);
    });
}

template <class T> FASTXENT_INLINE void store_wide(double *to, const wide<T> &value) {
    for (int i = 0; i < wide<T>::parts; ++i)
        store(to + i * lanes<double>::count, value.of[i], whole{});
}

// One machine vector of floats as two of doubles, and back.
#if FASTXENT_VECTOR_BYTES == 64
FASTXENT_INLINE __m512d low_half(__m512 v) { return _mm512_cvtps_pd(_mm512_castps512_ps256(v)); }
FASTXENT_INLINE __m512d high_half(__m512 v) {
    return _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
}
FASTXENT_INLINE __m512 joined(__m512d low, __m512d high) {
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high),
                              1);
}
#elif FASTXENT_VECTOR_BYTES == 32
FASTXENT_INLINE __m256d low_half(__m256 v) { return _mm256_cvtps_pd(_mm256_castps256_ps128(v)); }
FASTXENT_INLINE __m256d high_half(__m256 v) {
    return _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
}
FASTXENT_INLINE __m256 joined(__m256d low, __m256d high) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm256_cvtpd_ps(low)), _mm256_cvtpd_ps(high),
                                1);
}
#else
using doubles = machine<double>::vector;
using floats = machine<float>::vector;
FASTXENT_INLINE doubles low_half(floats v) { return doubles{v[0], v[1]}; }
FASTXENT_INLINE doubles high_half(floats v) { return doubles{v[2], v[3]}; }
FASTXENT_INLINE floats joined(doubles low, doubles high) {
    return floats{static_cast<float>(low[0]), static_cast<float>(low[1]),
                  static_cast<float>(high[0]), static_cast<float>(high[1])};
}
#endif

FASTXENT_INLINE wide<double> widened(const lanes<double> &value) { return {{value}}; }
FASTXENT_INLINE lanes<double> narrowed(const wide<double> &value) { return value.of[0]; }

// Part p of the floats is parts 2p and 2p + 1 of the doubles, counted through both halves.
FASTXENT_INLINE wide<float> widened(const lanes<float> &value) {
    wide<float> result;
#pragma GCC unroll 4
    for (int p = 0; p < lanes<float>::parts; ++p) {
        constexpr int parts = lanes<double>::parts;
        result.of[2 * p / parts].part[2 * p % parts] = low_half(value.part[p]);
        result.of[(2 * p + 1) / parts].part[(2 * p + 1) % parts] = high_half(value.part[p]);
    }
    return result;
}

FASTXENT_INLINE lanes<float> narrowed(const wide<float> &value) {
    constexpr int parts = lanes<double>::parts;
    return each<float>([&](int p) {
        return joined(value.of[2 * p / parts].part[2 * p % parts],
                      value.of[(2 * p + 1) / parts].part[(2 * p + 1) % parts]);
    });
}

}  // namespace
