// Where a row's target puts mass besides the label: policies of three structs with one method each.
//
// `everywhere` tells whether there is any such mass. Of a row, block(begin, n) gives the target of n
// classes from `begin` on, whose mass(k, some) is that of the classes from begin + k on, in the lanes.
#pragma once

#include "transform.hpp"

namespace {

struct only_on_label {
    static constexpr bool everywhere = false;
    only_on_label block(int64_t, int64_t) const { return {}; }
};

template <class T> struct on_background {
    static constexpr bool everywhere = true;
    const T *background;
    int64_t step;
    FASTXENT_INLINE on_background block(int64_t begin, int64_t) const {
        return {background + begin * step, step};
    }
    FASTXENT_INLINE void fetch(int64_t) const {}
    template <class Some> FASTXENT_INLINE lanes<T> mass(int64_t k, Some some) const {
        return load<T>(background + k * step, some, T(0));
    }
};

// The same mass on every class, which fills `background`: kept in registers.
template <class T> struct on_constant {
    static constexpr bool everywhere = true;
    const T *background;
    lanes<T> constant;
    FASTXENT_INLINE on_constant block(int64_t, int64_t) const { return *this; }
    FASTXENT_INLINE void fetch(int64_t) const {}
    FASTXENT_INLINE lanes<T> mass(int64_t, whole) const { return constant; }
    FASTXENT_INLINE lanes<T> mass(int64_t, first some) const {
        return load<T>(background, some, T(0));
    }
};

template <class T> struct on_masses {
    static constexpr bool everywhere = true;
    const T *masses;
    FASTXENT_INLINE void fetch(int64_t k) const { __builtin_prefetch(masses + k, 0, 2); }
    template <class Some> FASTXENT_INLINE lanes<T> mass(int64_t k, Some some) const {
        return load<T>(masses + k, some, T(0));
    }
};

// Probabilities as they are stored, or turned into masses of the compute type block by block.
template <class T> struct on_soft {
    static constexpr bool everywhere = true;
    const fastxent_pass &pass;
    const char *soft;
    T *masses;
    FASTXENT_INLINE on_masses<T> block(int64_t begin, int64_t n) const {
        if (pass.schedule.soft_directly) return {reinterpret_cast<const T *>(soft) + begin};
        prepare_mass(pass, soft, begin, n, masses);
        return {masses};
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
    const T *masses;
    FASTXENT_INLINE lanes<T> mass(int64_t k) const {
        return load<T>(masses + k * lanes<T>::count, whole{}, T(0));
    }
};

}  // namespace
