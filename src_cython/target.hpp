// Where a row's target puts mass besides the label: policies with one method.
//
// `everywhere` tells whether there is any such mass. mass(k, some) gives that of the classes from k
// on, in the lanes.
#pragma once

#include "lanes.hpp"

namespace {

struct only_on_label {
    static constexpr bool everywhere = false;
};

template <class T> struct on_background {
    static constexpr bool everywhere = true;
    FASTXENT_INLINE void fetch(int64_t) const {}
    const T *background;
    int64_t step;
    template <class Some> FASTXENT_INLINE lanes<T> mass(int64_t k, Some some) const {
        return load<T>(background + k * step, some, T(0));
    }
};

template <class T, class S> struct on_soft {
    static constexpr bool everywhere = true;
    const S *soft;
    FASTXENT_INLINE void fetch(int64_t k) const { __builtin_prefetch(soft + k, 0, 2); }
    template <class Some> FASTXENT_INLINE lanes<T> mass(int64_t k, Some some) const {
        return load<T>(soft + k, some, T(0));
    }
};

template <class T, class S> struct on_weighted_soft {
    static constexpr bool everywhere = true;
    const S *soft;
    FASTXENT_INLINE void fetch(int64_t k) const { __builtin_prefetch(soft + k, 0, 2); }
    const T *gain, *background;
    int64_t gain_step, background_step;
    template <class Some> FASTXENT_INLINE lanes<T> mass(int64_t k, Some some) const {
        return fma(load<T>(gain + k * gain_step, some, T(0)), load<T>(soft + k, some, T(0)),
                   load<T>(background + k * background_step, some, T(0)));
    }
};

// The same for a tile, whose lanes are rows: mass(k) gives that of class k.

template <class T> struct tile_on_background {
    static constexpr bool everywhere = true;
    const T *background;
    int64_t step;
    FASTXENT_INLINE lanes<T> mass(int64_t k) const { return splat(background[k * step]); }
};

template <class T> struct tile_on_soft {
    static constexpr bool everywhere = true;
    const T *soft;
    FASTXENT_INLINE lanes<T> mass(int64_t k) const {
        return load<T>(soft + k * lanes<T>::count, whole{}, T(0));
    }
};

template <class T> struct tile_on_weighted_soft {
    static constexpr bool everywhere = true;
    const T *soft, *gain, *background;
    int64_t gain_step, background_step;
    FASTXENT_INLINE lanes<T> mass(int64_t k) const {
        return fma(splat(gain[k * gain_step]),
                   load<T>(soft + k * lanes<T>::count, whole{}, T(0)),
                   splat(background[k * background_step]));
    }
};

}  // namespace
