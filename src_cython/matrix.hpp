// Where a row of a matrix lies, and its numbers of any kind.
#pragma once

#include "kernels.hpp"
#include "storage.hpp"

namespace {

FASTXENT_INLINE int64_t offset_of(const fastxent_matrix &matrix, int64_t row) {
    const int last = matrix.levels - 1;
    int64_t offset = 0;
    for (int level = 0; level < last; ++level) {
        const int64_t rest = row / matrix.size[level];
        offset += (row - rest * matrix.size[level]) * matrix.stride[level];
        row = rest;
    }
    return offset + row * matrix.stride[last];
}

// The first class of a row.
FASTXENT_INLINE char *row_of(const fastxent_matrix &matrix, int64_t row) {
    return matrix.data + offset_of(matrix, row);
}

// Whether these rows lie side by side, each a number further: then lanes of them can be loaded.
FASTXENT_INLINE bool side_by_side(const fastxent_matrix &matrix, int64_t size, int64_t row,
                                  int64_t count) {
    return matrix.stride[0] == size &&
           (matrix.levels == 1 || row % matrix.size[0] + count <= matrix.size[0]);
}

// Whether classes lie side by side as numbers of the type that is computed with.
template <class T> FASTXENT_INLINE bool lies_as_computed(const fastxent_matrix &matrix) {
    return matrix.kind == (sizeof(T) == 4 ? fastxent_float32 : fastxent_float64) &&
           matrix.class_stride == sizeof(T);
}

template <class S> struct stored_as {
    using type = S;
};

// Calls body(stored_as<S>{}) for the type in which numbers of a kind are stored.
template <class Body> FASTXENT_INLINE auto with_kind(int kind, const Body &body) {
    switch (kind) {
    case fastxent_float64: return body(stored_as<double>{});
    case fastxent_float16: return body(stored_as<half>{});
    case fastxent_bfloat16: return body(stored_as<brain>{});
    case fastxent_uint8: return body(stored_as<uint8_t>{});
    default: return body(stored_as<float>{});
    }
}

// The same for kinds that are written: probabilities alone are stored in bytes.
template <class Body> FASTXENT_INLINE auto with_written_kind(int kind, const Body &body) {
    return with_kind(kind, [&](auto stored) {
        if constexpr (sizeof(typename decltype(stored)::type) > 1) body(stored);
    });
}

template <class T> T number_at(const fastxent_matrix &matrix, const char *row, int64_t k) {
    return with_kind(matrix.kind, [&](auto stored) {
        using S = typename decltype(stored)::type;
        const char *place = row + k * matrix.class_stride;
        return static_cast<T>(get_number(reinterpret_cast<const S *>(place)));
    });
}

template <class T> void put_number(const fastxent_matrix &matrix, char *row, int64_t k, T number) {
    with_written_kind(matrix.kind, [&](auto stored) {
        using S = typename decltype(stored)::type;
        set_number(reinterpret_cast<S *>(row + k * matrix.class_stride), number);
    });
}

// The same number for every class of a row.
template <class T>
FASTXENT_ONCE void fill_classes(const fastxent_matrix &matrix, int64_t row, int64_t classes, T number) {
    char *to = row_of(matrix, row);
    with_written_kind(matrix.kind, [&](auto stored) {
        using S = typename decltype(stored)::type;
        const int64_t stride = matrix.class_stride;
        if (stride == sizeof(S) && number == T(0))
            __builtin_memset(to, 0, classes * sizeof(S));
        else
            for (int64_t k = 0; k < classes; ++k)
                set_number(reinterpret_cast<S *>(to + k * stride), number);
    });
}

}  // namespace
