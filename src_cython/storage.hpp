// How numbers are stored, and how lanes are loaded from them and stored to them: float and double as they
// are, float16 and bfloat16 as their 16 bits, bytes for 0 and 1. Half precision is computed with in float.
#pragma once

#include "lanes.hpp"

namespace {

struct half {  // IEEE binary16
    uint16_t bits;
};

struct brain {  // bfloat16: the upper half of a float
    uint16_t bits;
};

FASTXENT_INLINE float as_float(uint32_t bits) {
    float number;
    __builtin_memcpy(&number, &bits, sizeof number);
    return number;
}

FASTXENT_INLINE uint32_t as_bits(float number) {
    uint32_t bits;
    __builtin_memcpy(&bits, &number, sizeof bits);
    return bits;
}

FASTXENT_INLINE float number_of(float number) { return number; }
FASTXENT_INLINE double number_of(double number) { return number; }
FASTXENT_INLINE float number_of(uint8_t number) { return number; }
FASTXENT_INLINE float number_of(brain number) {
    return as_float(static_cast<uint32_t>(number.bits) << 16);
}

// A half of exponent 0 is a multiple of 2^-24; else the exponent moves from bias 15 to 127, infinities
// and NaN to the largest.
FASTXENT_INLINE float number_of(half number) {
    const uint32_t sign = static_cast<uint32_t>(number.bits & 0x8000) << 16;
    const uint32_t rest = number.bits & 0x7fff;
    if (rest < 0x0400)
        return as_float(sign | as_bits(static_cast<float>(rest) * 5.9604644775390625e-8f));
    const uint32_t bias = rest >= 0x7c00 ? (255u - 31u) << 23 : (127u - 15u) << 23;
    return as_float(sign | ((rest << 13) + bias));
}

FASTXENT_INLINE void set_number(float *to, float number) { __builtin_memcpy(to, &number, 4); }
FASTXENT_INLINE void set_number(double *to, double number) { __builtin_memcpy(to, &number, 8); }

// To the nearest, ties to even; a NaN stays one.
FASTXENT_INLINE void set_number(brain *to, float number) {
    const uint32_t bits = as_bits(number);
    const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
    const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const brain result = {static_cast<uint16_t>(is_nan ? (bits >> 16) | 0x40 : rounded >> 16)};
    __builtin_memcpy(to, &result, sizeof result);
}

FASTXENT_INLINE void set_number(half *to, float number) {
    const uint32_t bits = as_bits(number), rest = bits & 0x7fffffff;
    uint32_t result;
    if (rest > 0x7f800000) {
        result = 0x7e00 | ((rest >> 13) & 0x1ff);
    } else if (rest >= 0x477ff000) {  // 65520 and beyond
        result = 0x7c00;
    } else if (rest < 0x38800000) {  // below 2^-14: adding 0.5 leaves the multiple of 2^-24 in the low bits
        result = as_bits(as_float(rest) + 0.5f) - as_bits(0.5f);
    } else {
        result = (rest - 0x38000000 + 0xfff + ((rest >> 13) & 1)) >> 13;
    }
    const half stored = {static_cast<uint16_t>(result | ((bits >> 16) & 0x8000))};
    __builtin_memcpy(to, &stored, sizeof stored);
}

// One number, wherever it lies.
template <class S> FASTXENT_INLINE auto get_number(const S *from) {
    S stored;
    __builtin_memcpy(&stored, from, sizeof stored);
    return number_of(stored);
}

template <class T, class S, class Some>
FASTXENT_INLINE lanes<T> stored_one_by_one(const S *from, Some some, T fill) {
    T numbers[lanes<T>::count];
    for (int i = 0; i < lanes<T>::count; ++i)
        numbers[i] = i < how_many<T>(some) ? static_cast<T>(get_number(from + i)) : fill;
    return load<T>(numbers, whole{}, fill);
}

template <class S, class T, class Some>
FASTXENT_INLINE void store_one_by_one(S *to, const lanes<T> &value, Some some) {
    T numbers[lanes<T>::count];
    store(numbers, value, whole{});
    for (int i = 0; i < lanes<T>::count; ++i)
        if (i < how_many<T>(some)) set_number(to + i, numbers[i]);
}

// Lanes from stored numbers, and to them. What has no overload below goes number by number.
template <class T, class S, class Some>
FASTXENT_INLINE lanes<T> read_lanes(const S *from, Some some, T fill) {
    return stored_one_by_one<T>(from, some, fill);
}
template <class Some> FASTXENT_INLINE lanes<float> read_lanes(const float *from, Some some, float fill) {
    return load<float>(from, some, fill);
}
template <class Some>
FASTXENT_INLINE lanes<double> read_lanes(const double *from, Some some, double fill) {
    return load<double>(from, some, fill);
}

template <class S, class T, class Some>
FASTXENT_INLINE void write_lanes(S *to, const lanes<T> &value, Some some) {
    store_one_by_one(to, value, some);
}
template <class Some>
FASTXENT_INLINE void write_lanes(float *to, const lanes<float> &value, Some some) {
    store(to, value, some);
}
template <class Some>
FASTXENT_INLINE void write_lanes(double *to, const lanes<double> &value, Some some) {
    store(to, value, some);
}

// The same for numbers that are finite, which saves looking for NaN.
template <class S, class T, class Some>
FASTXENT_INLINE void write_finite_lanes(S *to, const lanes<T> &value, Some some) {
    write_lanes(to, value, some);
}

#if defined(__AVX512F__) && defined(__AVX512BW__)
FASTXENT_INLINE lanes<float> floats_of(const half *, __m256i bits) {
    return {{_mm512_cvtph_ps(bits)}};
}
FASTXENT_INLINE lanes<float> floats_of(const brain *, __m256i bits) {
    return {{_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))}};
}
FASTXENT_INLINE __m256i bits_of(const half *, const lanes<float> &value) {
    return _mm512_cvtps_ph(value.part[0], _MM_FROUND_TO_NEAREST_INT);
}
FASTXENT_INLINE __m512i rounded_bits_of(const lanes<float> &value) {
    const __m512i bits = _mm512_castps_si512(value.part[0]);
    const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
    const __m512i up = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    return _mm512_mask_add_epi32(up, odd, bits, _mm512_set1_epi32(0x8000));
}
FASTXENT_INLINE void write_finite_lanes(brain *to, const lanes<float> &value, whole) {
    const __m512i bits = _mm512_srli_epi32(rounded_bits_of(value), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm512_cvtepi32_epi16(bits));
}
FASTXENT_INLINE __m256i bits_of(const brain *, const lanes<float> &value) {
    const __m512i bits = _mm512_castps_si512(value.part[0]), up = rounded_bits_of(value);
    const __mmask16 is_nan = _mm512_cmp_ps_mask(value.part[0], value.part[0], _CMP_UNORD_Q);
    const __m512i rounded = _mm512_mask_or_epi32(up, is_nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

#define FASTXENT_HALF_LANES(S)                                                                     \
    FASTXENT_INLINE lanes<float> read_lanes(const S *from, whole, float) {                               \
        return floats_of(from, _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));       \
    }                                                                                              \
    FASTXENT_INLINE lanes<float> read_lanes(const S *from, first some, float fill) {                     \
        const __mmask16 mask = static_cast<__mmask16>((1u << some.n) - 1);                         \
        const lanes<float> value = floats_of(from, _mm256_maskz_loadu_epi16(mask, from));          \
        return {{_mm512_mask_blend_ps(mask, _mm512_set1_ps(fill), value.part[0])}};                \
    }                                                                                              \
    FASTXENT_INLINE void write_lanes(S *to, const lanes<float> &value, whole) {                          \
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), bits_of(to, value));                  \
    }                                                                                              \
    FASTXENT_INLINE void write_lanes(S *to, const lanes<float> &value, first some) {                     \
        const __mmask16 mask = static_cast<__mmask16>((1u << some.n) - 1);                         \
        _mm256_mask_storeu_epi16(to, mask, bits_of(to, value));                                    \
    }
FASTXENT_HALF_LANES(half)
FASTXENT_HALF_LANES(brain)
#undef FASTXENT_HALF_LANES
#elif defined(__AVX2__) && defined(__F16C__)
FASTXENT_INLINE __m256 floats_of(const half *, __m128i bits) { return _mm256_cvtph_ps(bits); }
FASTXENT_INLINE __m256 floats_of(const brain *, __m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
FASTXENT_INLINE __m128i bits_of(const half *, __m256 value) {
    return _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
}
FASTXENT_INLINE __m128i bits_of(const brain *, __m256 value) {
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
    const __m256 is_nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i rounded =
        _mm256_blendv_epi8(up, quiet, _mm256_castps_si256(is_nan));
    const __m256i upper = _mm256_srli_epi32(rounded, 16);
    const __m256i packed = _mm256_packus_epi32(upper, upper);
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
}

#define FASTXENT_HALF_LANES(S)                                                                     \
    FASTXENT_INLINE lanes<float> read_lanes(const S *from, whole, float) {                               \
        return each<float>([&](int p) {                                                            \
            const auto *place = reinterpret_cast<const __m128i *>(from + 8 * p);                   \
            return floats_of(from, _mm_loadu_si128(place));                                        \
        });                                                                                        \
    }                                                                                              \
    FASTXENT_INLINE void write_lanes(S *to, const lanes<float> &value, whole) {                          \
        for (int p = 0; p < lanes<float>::parts; ++p)                                              \
            _mm_storeu_si128(reinterpret_cast<__m128i *>(to + 8 * p), bits_of(to, value.part[p])); \
    }                                                                                              \
    FASTXENT_INLINE lanes<float> read_lanes(const S *from, first some, float fill) {                     \
        S bits[lanes<float>::count] = {};                                                          \
        for (int64_t i = 0; i < some.n; ++i) __builtin_memcpy(bits + i, from + i, sizeof(S));      \
        const lanes<float> value = read_lanes(bits, whole{}, fill);                                \
        return each<float>([&](int p) {                                                            \
            const __m256 mask = _mm256_castsi256_ps(part_mask(p, some.n, fill));                   \
            return _mm256_blendv_ps(_mm256_set1_ps(fill), value.part[p], mask);                    \
        });                                                                                        \
    }                                                                                              \
    FASTXENT_INLINE void write_lanes(S *to, const lanes<float> &value, first some) {                     \
        S bits[lanes<float>::count];                                                               \
        write_lanes(bits, value, whole{});                                                         \
        for (int64_t i = 0; i < some.n; ++i) __builtin_memcpy(to + i, bits + i, sizeof(S));        \
    }
FASTXENT_HALF_LANES(half)
FASTXENT_HALF_LANES(brain)
#undef FASTXENT_HALF_LANES
#endif

}  // namespace
