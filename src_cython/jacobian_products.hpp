// What both ways through the rows of a Jacobian product share: the two products.
#pragma once

#include "elementary.hpp"
#include "jacobian_pass.hpp"
#include "matrix.hpp"

namespace {
namespace jacobian {

// What numbers that are stored as S are computed with.
template <class S> using compute_of = decltype(number_of(S()));

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

}  // namespace jacobian
}  // namespace
