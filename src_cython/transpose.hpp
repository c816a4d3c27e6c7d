// Between rows in memory and a tile, in which the lanes are rows and one class follows the other.
//
// Rows are taken in pieces of 16 bytes: four floats of each of 16 rows fill four registers on
// AVX-512, and 8 shuffles within 16 bytes turn them into four classes of 16 rows. No piece reads or
// writes beyond its row.
#pragma once

#include "storage.hpp"
#include "wide.hpp"

namespace {

template <class T> struct piece_of {
    static constexpr int count = 16 / sizeof(T);
    typedef T vector __attribute__((vector_size(16)));
};

// The first `n` numbers of a piece, the others 0; rows may lie at addresses that suit no number.
template <int n> FASTXENT_INLINE piece_of<float>::vector load_piece(const float *from) {
    using vector = piece_of<float>::vector;
    if constexpr (n == 1) return vector{get_number(from)};
    if constexpr (n == 2) return vector{get_number(from), get_number(from + 1)};
    if constexpr (n == 3)
        return vector{get_number(from), get_number(from + 1), get_number(from + 2)};
    piece_of<float>::vector piece;
    __builtin_memcpy(&piece, from, sizeof piece);
    return piece;
}

template <int n> FASTXENT_INLINE piece_of<double>::vector load_piece(const double *from) {
    if constexpr (n == 1) return piece_of<double>::vector{get_number(from)};
    piece_of<double>::vector piece;
    __builtin_memcpy(&piece, from, sizeof piece);
    return piece;
}

template <int n, class T> FASTXENT_INLINE void store_piece(T *to, typename piece_of<T>::vector piece) {
    __builtin_memcpy(to, &piece, n * sizeof(T));
}

// Machine vectors from pieces and back, and the two shuffles within each 16 bytes.
#if FASTXENT_VECTOR_BYTES == 64
template <class T, class Piece>
FASTXENT_INLINE typename machine<T>::vector join(const Piece &piece) {
    __m512 all = _mm512_castps128_ps512((__m128)piece(0));
    all = _mm512_insertf32x4(all, (__m128)piece(1), 1);
    all = _mm512_insertf32x4(all, (__m128)piece(2), 2);
    return (typename machine<T>::vector)_mm512_insertf32x4(all, (__m128)piece(3), 3);
}
template <class T, class Use>
FASTXENT_INLINE void part(typename machine<T>::vector all, const Use &use) {
    using piece = typename piece_of<T>::vector;
    use(0, (piece)_mm512_castps512_ps128((__m512)all));
    use(1, (piece)_mm512_extractf32x4_ps((__m512)all, 1));
    use(2, (piece)_mm512_extractf32x4_ps((__m512)all, 2));
    use(3, (piece)_mm512_extractf32x4_ps((__m512)all, 3));
}
FASTXENT_INLINE __m512 low(__m512 a, __m512 b) { return _mm512_unpacklo_ps(a, b); }
FASTXENT_INLINE __m512 high(__m512 a, __m512 b) { return _mm512_unpackhi_ps(a, b); }
FASTXENT_INLINE __m512d low(__m512d a, __m512d b) { return _mm512_unpacklo_pd(a, b); }
FASTXENT_INLINE __m512d high(__m512d a, __m512d b) { return _mm512_unpackhi_pd(a, b); }
#elif FASTXENT_VECTOR_BYTES == 32
template <class T, class Piece>
FASTXENT_INLINE typename machine<T>::vector join(const Piece &piece) {
    const __m256 all = _mm256_castps128_ps256((__m128)piece(0));
    return (typename machine<T>::vector)_mm256_insertf128_ps(all, (__m128)piece(1), 1);
}
template <class T, class Use>
FASTXENT_INLINE void part(typename machine<T>::vector all, const Use &use) {
    using piece = typename piece_of<T>::vector;
    use(0, (piece)_mm256_castps256_ps128((__m256)all));
    use(1, (piece)_mm256_extractf128_ps((__m256)all, 1));
}
FASTXENT_INLINE __m256 low(__m256 a, __m256 b) { return _mm256_unpacklo_ps(a, b); }
FASTXENT_INLINE __m256 high(__m256 a, __m256 b) { return _mm256_unpackhi_ps(a, b); }
FASTXENT_INLINE __m256d low(__m256d a, __m256d b) { return _mm256_unpacklo_pd(a, b); }
FASTXENT_INLINE __m256d high(__m256d a, __m256d b) { return _mm256_unpackhi_pd(a, b); }
#else
template <class T, class Piece>
FASTXENT_INLINE typename machine<T>::vector join(const Piece &piece) {
    return piece(0);
}
template <class T, class Use>
FASTXENT_INLINE void part(typename machine<T>::vector all, const Use &use) {
    use(0, all);
}
FASTXENT_INLINE floats low(floats a, floats b) { return floats{a[0], b[0], a[1], b[1]}; }
FASTXENT_INLINE floats high(floats a, floats b) { return floats{a[2], b[2], a[3], b[3]}; }
FASTXENT_INLINE doubles low(doubles a, doubles b) { return doubles{a[0], b[0]}; }
FASTXENT_INLINE doubles high(doubles a, doubles b) { return doubles{a[1], b[1]}; }
#endif

// As many vectors as a piece has numbers: within each 16 bytes, rows become columns.
FASTXENT_INLINE void transpose(machine<double>::vector v[2]) {
    const auto first = low(v[0], v[1]);
    v[1] = high(v[0], v[1]);
    v[0] = first;
}

FASTXENT_INLINE void transpose(machine<float>::vector v[4]) {
    using wide = machine<double>::vector;
    using vector = machine<float>::vector;
    const wide a = (wide)low(v[0], v[1]), b = (wide)high(v[0], v[1]);
    const wide c = (wide)low(v[2], v[3]), d = (wide)high(v[2], v[3]);
    v[0] = (vector)low(a, c), v[1] = (vector)high(a, c);
    v[2] = (vector)low(b, d), v[3] = (vector)high(b, d);
}

// Classes k to k + n - 1 of the rows that begin at `rows[0]`, `rows[1]`, ...
template <class T, int n>
FASTXENT_INLINE void load_classes(const T *const *rows, int64_t k, lanes<T> *classes) {
    constexpr int size = piece_of<T>::count, width = lanes<T>::count / lanes<T>::parts;
#pragma GCC unroll 4
    for (int p = 0; p < lanes<T>::parts; ++p) {
        typename machine<T>::vector v[size];
#pragma GCC unroll 4
        for (int j = 0; j < size; ++j)
            v[j] = join<T>([&](int chunk) __attribute__((always_inline)) {
                return load_piece<n>(rows[p * width + chunk * size + j] + k);
            });
        transpose(v);
#pragma GCC unroll 4
        for (int j = 0; j < n; ++j) classes[j].part[p] = v[j];
    }
}

template <class T, int n>
FASTXENT_INLINE void store_classes(T *const *rows, int64_t k, const lanes<T> *classes) {
    constexpr int size = piece_of<T>::count, width = lanes<T>::count / lanes<T>::parts;
#pragma GCC unroll 4
    for (int p = 0; p < lanes<T>::parts; ++p) {
        typename machine<T>::vector v[size] = {};
#pragma GCC unroll 4
        for (int j = 0; j < n; ++j) v[j] = classes[j].part[p];
        transpose(v);
#pragma GCC unroll 4
        for (int j = 0; j < size; ++j)
            part<T>(v[j], [&](int chunk, auto piece) __attribute__((always_inline)) {
                store_piece<n>(rows[p * width + chunk * size + j] + k, piece);
            });
    }
}

template <int n> struct number {
    static constexpr int value = n;
};

// Calls body(k, number<n>) for the classes in pieces: whole ones, then the rest.
template <class T, class Body> FASTXENT_INLINE void for_pieces(int64_t classes, const Body &body) {
    constexpr int size = piece_of<T>::count;
    int64_t k = 0;
    for (; k + size <= classes; k += size) body(k, number<size>{});
    const int64_t rest = classes - k;
    if (rest == 1) body(k, number<1>{});
    if constexpr (size > 2) {
        if (rest == 2) body(k, number<2>{});
        if (rest == 3) body(k, number<3>{});
    }
}

}  // namespace
