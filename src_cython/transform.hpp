// From logits as they are stored to z as it is computed with, and from results to how they are stored:
// a block of a row at a time, while it lies in L1.
#pragma once

#include "elementary.hpp"
#include "matrix.hpp"

namespace {

// z = logit_scale * x, or softcap * tanh(logit_scale * x / softcap), where -inf stays -inf: a class that
// is masked has no mass to gain.
template <class T> struct transform_of {
    lanes<T> inner, cap;
    bool scaled, capped;
    explicit transform_of(const fastxent_pass &pass) {
        scaled = pass.logit_scale != 1.0;
        capped = pass.softcap != 0.0;
        cap = splat(static_cast<T>(pass.softcap));
        inner = splat(static_cast<T>(capped ? pass.logit_scale / pass.softcap : pass.logit_scale));
    }
    FASTXENT_INLINE lanes<T> scale(const lanes<T> &x) const { return inner * x; }
    FASTXENT_INLINE lanes<T> bound(const lanes<T> &x) const {
        return where_equal(x, splat(-infinity<T>), x, cap * tanh_of(inner * x));
    }
    FASTXENT_INLINE lanes<T> operator()(const lanes<T> &x) const {
        return capped ? bound(x) : scaled ? scale(x) : x;
    }
    // dz / (logit_scale dx), which is 0 at -inf
    FASTXENT_INLINE lanes<T> slope(const lanes<T> &z, const lanes<T> &inverse_cap) const {
        const lanes<T> share = z * inverse_cap;
        return max(splat(T(1)) - share * share, splat(T(0)));
    }
};

template <class T> T transformed(const transform_of<T> &transform, T x) {
    return transform(splat(x)).part[0][0];
}

// z of n classes to `to`, and their maximum. `Read` gives x of the classes from k on.
template <class T, class Read>
FASTXENT_INLINE double prepare_with(int64_t n, T *to, const transform_of<T> &transform,
                                    const Read &read) {
    chains<T> tops(-infinity<T>);
    const auto all = [&](const auto &change) __attribute__((always_inline)) {
        for_lanes<T>(n, [&](int64_t k, auto some, int chain) __attribute__((always_inline)) {
            const lanes<T> z = change(read(k, some));
            store(to + k, z, some);
            tops.of[chain] = max(z, tops.of[chain]);
        });
    };
    if (transform.capped)
        all([&](const lanes<T> &x) __attribute__((always_inline)) { return transform.bound(x); });
    else if (transform.scaled)
        all([&](const lanes<T> &x) __attribute__((always_inline)) { return transform.scale(x); });
    else
        all([&](const lanes<T> &x) __attribute__((always_inline)) { return x; });
    return largest(tops.largest());
}

// Lanes of numbers a stride apart; what lies beyond the end holds `fill`.
template <class T, class S, class Some>
FASTXENT_INLINE lanes<T> gathered(const char *from, int64_t stride, Some some, T fill) {
    T numbers[lanes<T>::count];
    for (int i = 0; i < lanes<T>::count; ++i)
        numbers[i] = i < how_many<T>(some)
                         ? static_cast<T>(get_number(reinterpret_cast<const S *>(from + i * stride)))
                         : fill;
    return load<T>(numbers, whole{}, fill);
}

// z of the classes from `begin` on of a row, and their maximum.
template <class T>
FASTXENT_ONCE double prepare(const fastxent_matrix &matrix, const char *row, int64_t begin, int64_t n,
                             T *to, const transform_of<T> &transform) {
    const int64_t stride = matrix.class_stride;
    const char *from = row + begin * stride;
    return with_kind(matrix.kind, [&](auto stored) {
        using S = typename decltype(stored)::type;
        if (stride == sizeof(S)) {
            const S *numbers = reinterpret_cast<const S *>(from);
            return prepare_with<T>(
                n, to, transform, [&](int64_t k, auto some) __attribute__((always_inline)) {
                    return read_lanes(numbers + k, some, -infinity<T>);
                });
        }
        return prepare_with<T>(
            n, to, transform, [&](int64_t k, auto some) __attribute__((always_inline)) {
                return gathered<T, S>(from + k * stride, stride, some, -infinity<T>);
            });
    });
}

// `factor` times n numbers to the classes from `begin` on of a row. With `finite` none of the products is
// infinite or NaN.
template <class T, bool finite = false>
FASTXENT_ONCE void deliver(const T *from, const lanes<T> &factor, int64_t n,
                           const fastxent_matrix &matrix, char *row, int64_t begin) {
    const int64_t stride = matrix.class_stride;
    char *to = row + begin * stride;
    const lanes<T> by = factor;  // a copy of its own stays in a register
    with_written_kind(matrix.kind, [&](auto stored) __attribute__((always_inline)) {
        using S = typename decltype(stored)::type;
        if (stride == sizeof(S))
            for_lanes<T>(n, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
                const lanes<T> value = load<T>(from + k, some, T(0)) * by;
                S *place = reinterpret_cast<S *>(to) + k;
                if constexpr (finite)
                    write_finite_lanes(place, value, some);
                else
                    write_lanes(place, value, some);
            });
        else
            for (int64_t k = 0; k < n; ++k)
                set_number(reinterpret_cast<S *>(to + k * stride), from[k] * factor.part[0][0]);
    });
}

// t = background + gain * q of the classes from `begin` on of a row; `gain` null means 1 and 0.
template <class T>
FASTXENT_ONCE void prepare_mass(const fastxent_pass &pass, const char *row, int64_t begin, int64_t n,
                                T *to) {
    const int64_t stride = pass.soft.class_stride;
    const char *from = row + begin * stride;
    const T *gain = static_cast<const T *>(pass.gain);
    const T *background = static_cast<const T *>(pass.background);
    const int64_t gain_step = pass.gain_step, background_step = pass.background_step;
    const auto put = [&](int64_t k, auto some, const lanes<T> &q) __attribute__((always_inline)) {
        lanes<T> t = q;
        if (gain)
            t = fma(load<T>(gain + (begin + k) * gain_step, some, T(0)), q,
                    load<T>(background + (begin + k) * background_step, some, T(0)));
        store(to + k, t, some);
    };
    with_kind(pass.soft.kind, [&](auto stored) {
        using S = typename decltype(stored)::type;
        if (stride == sizeof(S))
            for_lanes<T>(n, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
                put(k, some, read_lanes(reinterpret_cast<const S *>(from) + k, some, T(0)));
            });
        else
            for_lanes<T>(n, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
                put(k, some, gathered<T, S>(from + k * stride, stride, some, T(0)));
            });
    });
}

}  // namespace
