// What both ways through the rows of a Jacobian product share: the two products and the strides.
#pragma once

#include "elementary.hpp"
#include "jacobian_numbers.hpp"
#include "jacobian_pass.hpp"

namespace {
namespace jacobian {

// exp of x <= 0, and of what rounding may have put above: valid up to where the result overflows.
template <class T> FASTXENT_INLINE lanes<T> exp_of_log_proba(const lanes<T> &x) {
    constexpr T top = sizeof(T) == 4 ? T(89) : T(710);  // 2^k is infinite there
    return exp_of_negative(each<T>([&](int p) {
        const typename machine<T>::vector most = top - typename machine<T>::vector{};
        return most < x.part[p] ? most : x.part[p];
    }));
}

// The two products: what of each class is summed, and what becomes of it.
struct of_proba {
    template <class T>
    static FASTXENT_INLINE lanes<T> summed(const lanes<T> &p, const lanes<T> &g) {
        return p * g;
    }
    template <class T>
    static FASTXENT_INLINE lanes<T> plus(const lanes<T> &sum, const lanes<T> &p, const lanes<T> &g) {
        return fma(p, g, sum);
    }
    template <class T>
    static FASTXENT_INLINE lanes<T> closed(const lanes<T> &p, const lanes<T> &g, const lanes<T> &sum) {
        return p * (g - sum);
    }
};

struct of_log_proba {
    template <class T>
    static FASTXENT_INLINE lanes<T> summed(const lanes<T> &, const lanes<T> &g) {
        return g;
    }
    template <class T>
    static FASTXENT_INLINE lanes<T> plus(const lanes<T> &sum, const lanes<T> &, const lanes<T> &g) {
        return sum + g;
    }
    template <class T>
    static FASTXENT_INLINE lanes<T> closed(const lanes<T> &log_p, const lanes<T> &g,
                                           const lanes<T> &sum) {
        return fma(exp_of_log_proba(log_p), splat(T(0)) - sum, g);
    }
};

// Bytes from the array's beginning to `count` rows from `row` on.
FASTXENT_INLINE void offsets_of(const fastxent_strided &array, int64_t row, int64_t count,
                                int64_t *offsets) {
    const int last = array.dims - 1;
    int64_t place[fastxent_most_dims] = {}, offset = 0;
    for (int d = last; d > 0; --d) {
        place[d] = row % array.sizes[d];
        row /= array.sizes[d];
        offset += place[d] * array.strides[d];
    }
    offset += row * array.strides[0];
    if (last == 0) {
        for (int64_t r = 0; r < count; ++r) offsets[r] = offset + r * array.strides[0];
        return;
    }
    for (int64_t r = 0; r < count; ++r) {
        offsets[r] = offset;
        offset += array.strides[last];
        for (int d = last; d > 0 && ++place[d] == array.sizes[d]; --d) {
            offset += array.strides[d - 1] - array.sizes[d] * array.strides[d];
            place[d] = 0;
        }
    }
}

FASTXENT_INLINE char *row_at(const fastxent_strided &array, int64_t row) {
    int64_t offset;
    offsets_of(array, row, 1, &offset);
    return static_cast<char *>(array.data) + offset;
}

}  // namespace jacobian
}  // namespace
