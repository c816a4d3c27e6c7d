// Numbers of the Jacobian products as they are stored, and as they are computed with.
#pragma once

#include <type_traits>

#include "lanes.hpp"

namespace {
namespace jacobian {

// Two bytes of a number: IEEE's binary16, and the upper half of binary32.
struct float16 {
    uint16_t bits;
};
struct bfloat16 {
    uint16_t bits;
};

template <class S> struct compute_of {
    using type = S;
};
template <> struct compute_of<float16> {
    using type = float;
};
template <> struct compute_of<bfloat16> {
    using type = float;
};

using words = machine<float>::bits;
using floats32 = machine<float>::vector;
constexpr int width = FASTXENT_VECTOR_BYTES / 4;  // floats of a machine vector

// So many 16-bit words in the lower halves of 32-bit ones, and back.
#if FASTXENT_VECTOR_BYTES == 64
FASTXENT_INLINE words widened_words(const uint16_t *from) {
    return (words)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
}
FASTXENT_INLINE void store_words(uint16_t *to, words value) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16((__m512i)value));
}
#elif FASTXENT_VECTOR_BYTES == 32 && defined(__AVX2__)
FASTXENT_INLINE words widened_words(const uint16_t *from) {
    return (words)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
}
FASTXENT_INLINE void store_words(uint16_t *to, words value) {
    const __m256i packed = _mm256_packus_epi32((__m256i)value, (__m256i)value);
    const __m256i joined = _mm256_permute4x64_epi64(packed, 0x08);
    _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(joined));
}
#else
FASTXENT_INLINE words widened_words(const uint16_t *from) {
    words value;
    for (int i = 0; i < width; ++i) value[i] = from[i];
    return value;
}
FASTXENT_INLINE void store_words(uint16_t *to, words value) {
    for (int i = 0; i < width; ++i) to[i] = static_cast<uint16_t>(value[i]);
}
#endif

FASTXENT_INLINE floats32 widened_part(const bfloat16 *from) {
    return (floats32)(widened_words(&from->bits) << 16);
}

// To the nearest, ties to even; a NaN stays one.
FASTXENT_INLINE void store_part(bfloat16 *to, floats32 value) {
    const words bits = (words)value;
    const words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16 & 0xffff;
    const words quiet = (bits >> 16 & 0xffff) | 0x40;
    store_words(&to->bits, value == value ? rounded : quiet);
}

#if FASTXENT_VECTOR_BYTES == 64
FASTXENT_INLINE floats32 widened_part(const float16 *from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}
FASTXENT_INLINE void store_part(float16 *to, floats32 value) {
    const __m256i bits = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256((__m256i *)to, bits);
}
#elif FASTXENT_VECTOR_BYTES == 32 && defined(__F16C__)
FASTXENT_INLINE floats32 widened_part(const float16 *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}
FASTXENT_INLINE void store_part(float16 *to, floats32 value) {
    const __m128i bits = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128((__m128i *)to, bits);
}
#else
// The exponent moves from a bias of 15 to one of 127; a number below the normal ones is normalised by
// a subtraction. Infinities and NaN keep the largest exponent.
FASTXENT_INLINE floats32 widened_part(const float16 *from) {
    const words half = widened_words(&from->bits), moved = (half & 0x7fff) << 13;
    const words exponent = moved & 0x0f800000;
    const words normal = moved + ((127 - 15) << 23);
    const floats32 least = (floats32)(words{} + (113 << 23));
    const words small = (words)((floats32)(normal + (1 << 23)) - least);
    const words special = (normal + ((128 - 16) << 23)) | ((half & 0x3ff) != 0 ? words{} + 0x400000 : words{});
    const words finite = exponent == 0 ? small : normal;
    return (floats32)((exponent == 0x0f800000 ? special : finite) | (half & 0x8000) << 16);
}

// To the nearest, ties to even: below the normal numbers by adding 0.5, which lies where a float's last
// place is that of the result; above them by adding half of the last place.
FASTXENT_INLINE void store_part(float16 *to, floats32 value) {
    const words all = (words)value, bits = all & 0x7fffffff;
    const floats32 half = floats32{} + 0.5f;
    const words small = (words)((floats32)bits + half) - (words)half;
    const words normal = (bits - ((127 - 15) << 23) + 0xfff + (bits >> 13 & 1)) >> 13;
    const words finite = bits < (113 << 23) ? small : normal;
    const words nan = 0x7e00 | (bits >> 13 & 0x1ff);
    const words large = bits > 0x7f800000 ? nan : words{} + 0x7c00;
    const words result = bits >= 0x477ff000 ? large : finite;
    store_words(&to->bits, result | (all >> 16 & 0x8000));
}
#endif

template <class S> constexpr bool is_half = sizeof(S) == 2;

// The first n of up to 16 numbers of two bytes; in one piece where there is a mask for that, since what
// is stored in halves and loaded whole waits for its stores.
FASTXENT_INLINE void copy_some(void *to, const void *from, int64_t n, bool into_all) {
#if FASTXENT_VECTOR_BYTES == 64
    const __mmask16 mask = static_cast<__mmask16>((1u << n) - 1);
    if (into_all)
        _mm256_storeu_si256((__m256i *)to, _mm256_maskz_loadu_epi16(mask, from));
    else
        _mm256_mask_storeu_epi16(to, mask, _mm256_loadu_si256((const __m256i *)from));
#else
    (void)into_all;
    for (int64_t i = 0; i < n; ++i) __builtin_memcpy((char *)to + 2 * i, (const char *)from + 2 * i, 2);
#endif
}

// Lanes of the compute type from stored numbers, and back: all of them, or the first few, the others 0.
template <class S, class Some>
FASTXENT_INLINE lanes<typename compute_of<S>::type> read(const S *from, Some some) {
    using T = typename compute_of<S>::type;
    if constexpr (!is_half<S>) {
        return load<T>(from, some, T(0));
    } else if constexpr (std::is_same_v<Some, whole>) {
        return each<T>([&](int p) { return widened_part(from + p * width); });
    } else {
        S padded[lanes<T>::count] = {};
        copy_some(padded, from, some.n, true);
        return each<T>([&](int p) { return widened_part(padded + p * width); });
    }
}

template <class S, class Some>
FASTXENT_INLINE void write(S *to, const lanes<typename compute_of<S>::type> &value, Some some) {
    if constexpr (!is_half<S>) {
        store(to, value, some);
    } else if constexpr (std::is_same_v<Some, whole>) {
#pragma GCC unroll 4
        for (int p = 0; p < lanes<float>::parts; ++p) store_part(to + p * width, value.part[p]);
    } else {
        S padded[lanes<float>::count];
        write(padded, value, whole{});
        copy_some(to, padded, some.n, false);
    }
}

}  // namespace jacobian
}  // namespace
