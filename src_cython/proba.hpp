// The probabilities of a row and the diagonal of its Hessian, beside the gradient and from the same
// exponentials.
#pragma once

#include "tile_memory.hpp"

namespace {

// The factor of a row's Hessian.
FASTXENT_INLINE double hess_scale(const fastxent_pass &pass, int64_t row) {
    return pass.row_scale[row * pass.row_scale_step] * pass.hess_factor;
}

// From p and 1 - p of a class to its Hessian; `distance` is |p - y|. A NaN stays one.
template <class T>
FASTXENT_INLINE lanes<T> hess_of(const lanes<T> &p, const lanes<T> &rest, const lanes<T> &distance,
                                 const lanes<T> &scale, const lanes<T> &floor, bool is_distance) {
    return max(floor, (is_distance ? distance : p * rest) * scale);
}

// The Hessian at the label, in double: 1 - p cancels there.
FASTXENT_INLINE lanes<double> hess_at_label(const fastxent_pass &pass, const lanes<double> &exp,
                                            const lanes<double> &sum, const lanes<double> &scale) {
    const lanes<double> p = exp / sum, rest = (sum - exp) / sum;
    return hess_of(p, rest, rest, scale, splat(pass.hess_floor), pass.hess_is_distance);
}

template <class T>
FASTXENT_ONCE void put_hess_at_label(const fastxent_pass &pass, int64_t row, int64_t label, double exp,
                                     double sum) {
    const lanes<double> hess =
        hess_at_label(pass, splat(exp), splat(sum), splat(hess_scale(pass, row)));
    put_number(pass.hess, row_of(pass.hess, row), label, static_cast<T>(hess.part[0][0]));
}

// value(lanes of exponentials) of the classes from `begin` on; `space` has room for a block.
template <class T, class Value>
FASTXENT_INLINE void put_classes(const fastxent_matrix &matrix, int64_t row, int64_t begin, int64_t n,
                                 const T *exps, T *space, const Value &value) {
    char *to = row_of(matrix, row);
    const bool directly = lies_as_computed<T>(matrix);
    T *place = directly ? reinterpret_cast<T *>(to) + begin : space;
    for_lanes<T>(n, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
        store(place + k, value(load<T>(exps + k, some, T(0))), some);
    });
    if (!directly) deliver(space, splat(T(1)), n, matrix, to, begin);
}

// What is asked for of the classes from `begin` on, but for the Hessian at the label; `share` is
// exp(block maximum - row maximum) / s.
template <class T>
FASTXENT_ONCE void put_proba(const fastxent_pass &pass, int64_t row, int64_t begin, int64_t n,
                             const T *exps, double share, T *space) {
    const lanes<T> shares = splat(static_cast<T>(share));
    if (pass.proba.data)
        put_classes(pass.proba, row, begin, n, exps, space,
                    [&](const lanes<T> &e) __attribute__((always_inline)) { return e * shares; });
    if (!pass.hess.data) return;
    const lanes<T> scale = splat(static_cast<T>(hess_scale(pass, row)));
    const lanes<T> floor = splat(static_cast<T>(pass.hess_floor)), one = splat(T(1));
    const bool is_distance = pass.hess_is_distance;
    put_classes(pass.hess, row, begin, n, exps, space,
                [&](const lanes<T> &e) __attribute__((always_inline)) {
                    const lanes<T> p = e * shares;
                    return hess_of(p, one - p, p, scale, floor, is_distance);
                });
}

// The same for a tile, class by class.

// Brings near, with every class, a line of what the tile after the next will write.
struct write_ahead {
    const char *to;
    int64_t step;
    FASTXENT_INLINE write_ahead(const fastxent_pass &pass, const fastxent_matrix &matrix, int64_t begin,
                                int64_t rows)
        : to(row_of(matrix, begin) + pass.schedule.tiles_at_a_time * rows * matrix.stride[0]),
          step(pass.schedule.columns ? matrix.class_stride : 64) {}
    FASTXENT_INLINE void fetch(int64_t k) const { __builtin_prefetch(to + k * step, 1, 2); }
};

template <class T> struct tile_proba {
    const T *exps;
    lanes<T> share;
    write_ahead ahead;
    FASTXENT_INLINE lanes<T> operator()(int64_t k) const {
        ahead.fetch(k);
        return load(exps + k * tile<T>::rows) * share;
    }
};

template <class T> struct tile_hess {
    tile_proba<T> proba;  // which looks ahead for the Hessian
    lanes<T> scale, floor;
    bool is_distance;
    FASTXENT_INLINE lanes<T> operator()(int64_t k) const {
        const lanes<T> p = proba(k);
        return hess_of(p, splat(T(1)) - p, p, scale, floor, is_distance);
    }
};

// Where the rows of another array than the gradient begin: null where classes do not lie there as they
// are computed.
template <class T>
FASTXENT_INLINE T *const *places_in(const fastxent_pass &pass, const fastxent_matrix &matrix,
                                    const tile<T> &rows, const tile_facts<T> &facts, T **places) {
    if (!lies_as_computed<T>(matrix)) return nullptr;
    for (int r = 0; r < tile<T>::rows; ++r)
        places[r] = is_computed(pass, facts, r)
                        ? reinterpret_cast<T *>(row_of(matrix, facts.begin + r))
                        : rows.staged;
    return places;
}

template <class T>
FASTXENT_ONCE void write_proba(const fastxent_pass &pass, const tile<T> &rows,
                               const tile_facts<T> &facts) {
    T *places[tile<T>::rows];
    const wide<T> share = each_wide<T>([&](int i) { return splat(1.0) / rows.sum.of[i]; });
    const auto to = [&](const fastxent_matrix &matrix) {
        return tile_proba<T>{rows.exps, narrowed(share),
                             write_ahead(pass, matrix, facts.begin, tile<T>::rows)};
    };
    const T *nothing = nullptr;
    if (pass.proba.data)
        write_tile(pass, pass.proba, places_in(pass, pass.proba, rows, facts, places), rows, facts,
                   to(pass.proba), nothing);
    if (!pass.hess.data) return;
    double row_scales[tile<T>::rows] = {};
    for (int r = 0; r < facts.count; ++r) row_scales[r] = hess_scale(pass, facts.begin + r);
    const wide<T> scale = load_wide<T>(row_scales), exp = widened(rows.exp_at_label);
    T at_label[tile<T>::rows];
    if (pass.labels.data)
        store(at_label, narrowed(each_wide<T>([&](int i) {
                  return hess_at_label(pass, exp.of[i], rows.sum.of[i], scale.of[i]);
              })));
    write_tile(pass, pass.hess, places_in(pass, pass.hess, rows, facts, places), rows, facts,
               tile_hess<T>{to(pass.hess), narrowed(scale), splat(static_cast<T>(pass.hess_floor)),
                            pass.hess_is_distance},
               pass.labels.data ? at_label : nothing);
}

}  // namespace
