// Between memory and a tile. Rows whose classes lie side by side are transposed; rows that lie side by
// side themselves are lanes already; all others are staged, one after the other.
#pragma once

#include "outputs.hpp"
#include "tile.hpp"

namespace {

// Which rows of the array a tile holds, and what each has in double precision.
template <class T> struct tile_facts {
    int64_t begin, count;
    bool full;  // there is a row to compute in every lane
    wide<T> spike, scale, loss, log_prob;
    int64_t label[tile<T>::rows];  // -1 for a row that is not computed, or has none
};

template <class T> constexpr T no_logits[fastxent_tile_classes] = {};

template <class T> bool is_computed(const fastxent_pass &pass, const tile_facts<T> &facts, int r) {
    return r < facts.count && (!pass.labels.data || facts.label[r] >= 0);
}

FASTXENT_INLINE bool lie_in_lanes(const fastxent_matrix &matrix, int64_t row, int64_t count) {
    const int64_t size = matrix.kind == fastxent_float32   ? 4
                         : matrix.kind == fastxent_float64 ? 8
                         : matrix.kind == fastxent_uint8   ? 1
                                                           : 2;
    return matrix.class_stride != size && side_by_side(matrix, size, row, count);
}

// Where each row is read and written, as far as that is done directly; a row that is not computed reads
// zeros and writes where nobody looks. Done before there is anything to compute: addresses that are
// loaded right after they were stored are waited for.
template <class T>
FASTXENT_INLINE void place_rows(const fastxent_pass &pass, tile<T> &rows, const tile_facts<T> &facts) {
    const fastxent_matrix &out = pass.grad.data ? pass.grad : pass.log_proba;
    const bool reads = pass.schedule.reads_directly, writes = out.data && pass.schedule.writes_directly;
    if (facts.full && pass.logits.levels == 1 && (!out.data || out.levels == 1)) {
        const char *from = row_of(pass.logits, facts.begin);
        char *to = out.data ? row_of(out, facts.begin) : nullptr;
        for (int r = 0; r < tile<T>::rows; ++r) {
            rows.from[r] = reinterpret_cast<const T *>(from + r * pass.logits.stride[0]);
            rows.to[r] = reinterpret_cast<T *>(to + r * out.stride[0]);
        }
        return;
    }
    for (int r = 0; r < tile<T>::rows; ++r) {
        const bool computed = is_computed(pass, facts, r);
        const int64_t row = facts.begin + r;
        rows.from[r] = reads && computed ? reinterpret_cast<const T *>(row_of(pass.logits, row))
                                         : no_logits<T>;
        rows.to[r] = writes && computed ? reinterpret_cast<T *>(row_of(out, row)) : rows.staged;
    }
}

// Lanes of each class, changed, from rows that lie side by side; nothing beyond them is read. Rows that
// are not live hold 0.
template <class T, class Change>
FASTXENT_INLINE void gather_lanes(const fastxent_matrix &matrix, const tile_facts<T> &facts,
                                  const lanes<T> &live, int64_t classes, T *numbers,
                                  const Change &change) {
    const char *from = row_of(matrix, facts.begin);
    const int64_t stride = matrix.class_stride;
    with_kind(matrix.kind, [&](auto stored) __attribute__((always_inline)) {
        using S = typename decltype(stored)::type;
        const auto at = [&](int64_t k) { return reinterpret_cast<const S *>(from + k * stride); };
        if (facts.full) {
            for (int64_t k = 0; k < classes; ++k)
                store(numbers + k * tile<T>::rows, change(k, read_lanes(at(k), whole{}, T(0))));
            return;
        }
        for (int64_t k = 0; k < classes; ++k) {
            const lanes<T> value = facts.count == tile<T>::rows
                                       ? read_lanes(at(k), whole{}, T(0))
                                       : read_lanes(at(k), first{facts.count}, T(0));
            store(numbers + k * tile<T>::rows, where_nonzero(live, change(k, value), splat(T(0))));
        }
    });
}

template <class T>
FASTXENT_ONCE void read_logits_in_lanes(const fastxent_pass &pass, const tile<T> &rows,
                                        const tile_facts<T> &facts,
                                        const transform_of<T> &transform) {
    const auto all = [&](const auto &change) __attribute__((always_inline)) {
        gather_lanes(pass.logits, facts, rows.live, pass.classes, rows.z,
                     [&](int64_t, const lanes<T> &x) __attribute__((always_inline)) {
                         return change(x);
                     });
    };
    if (transform.capped)
        all([&](const lanes<T> &x) __attribute__((always_inline)) { return transform.bound(x); });
    else if (transform.scaled)
        all([&](const lanes<T> &x) __attribute__((always_inline)) { return transform.scale(x); });
    else
        all([&](const lanes<T> &x) __attribute__((always_inline)) { return x; });
}

// z of a tile's rows; 0 in the lanes of rows that are not computed, whose logits count for nothing.
template <class T>
FASTXENT_INLINE void read_logits(const fastxent_pass &pass, const tile<T> &rows,
                                 const tile_facts<T> &facts, const transform_of<T> &transform) {
    if (pass.schedule.columns) return read_logits_in_lanes(pass, rows, facts, transform);
    if (pass.schedule.reads_directly) return gather(rows.from, pass.classes, rows.z);
    const T *from[tile<T>::rows];
    for (int r = 0; r < tile<T>::rows; ++r) {
        from[r] = no_logits<T>;
        if (!is_computed(pass, facts, r)) continue;
        T *staged = rows.staged + r * pass.classes;
        const char *row = row_of(pass.logits, facts.begin + r);
        prepare(pass.logits, row, 0, pass.classes, staged, transform);
        from[r] = staged;
    }
    gather(from, pass.classes, rows.z);
}

// Masses of a tile's rows for probabilities.
template <class T>
FASTXENT_ONCE void read_masses(const fastxent_pass &pass, const tile<T> &rows,
                               const tile_facts<T> &facts) {
    const T *gain = static_cast<const T *>(pass.gain);
    const T *background = static_cast<const T *>(pass.background);
    if (lie_in_lanes(pass.soft, facts.begin, facts.count))
        return gather_lanes(pass.soft, facts, rows.live, pass.classes, rows.masses,
                            [&](int64_t k, const lanes<T> &q) __attribute__((always_inline)) {
                                return gain ? fma(splat(gain[k * pass.gain_step]), q,
                                                  splat(background[k * pass.background_step]))
                                            : q;
                            });
    const T *from[tile<T>::rows];
    for (int r = 0; r < tile<T>::rows; ++r) {
        if (r >= facts.count) {
            from[r] = from[0];  // a row that the last tile lacks
            continue;
        }
        const char *row = row_of(pass.soft, facts.begin + r);
        T *staged = rows.staged + r * pass.classes;
        from[r] = pass.schedule.soft_directly ? reinterpret_cast<const T *>(row) : staged;
        if (!pass.schedule.soft_directly) prepare_mass(pass, row, 0, pass.classes, staged);
    }
    gather(from, pass.classes, rows.masses);
}

// Writes value(k), the lanes of class k, for all classes; 0 for rows that are not live where rows lie
// side by side, else nothing. Where classes do, as numbers of the compute type, `places` are those of the
// rows, else null; `at_label` has what stands at the labels instead, or is null.
template <class T, class Value>
FASTXENT_INLINE void write_tile(const fastxent_pass &pass, const fastxent_matrix &matrix,
                                T *const *places, const tile<T> &rows, const tile_facts<T> &facts,
                                const Value &value, const T *at_label) {
    const int64_t classes = pass.classes;
    const bool directly = places;
    char *begin = row_of(matrix, facts.begin);
    if (!directly && lie_in_lanes(matrix, facts.begin, facts.count)) {
        const int64_t stride = matrix.class_stride;
        with_written_kind(matrix.kind, [&](auto stored) __attribute__((always_inline)) {
            using S = typename decltype(stored)::type;
            const auto at = [&](int64_t k) { return reinterpret_cast<S *>(begin + k * stride); };
            if (facts.full)
                for (int64_t k = 0; k < classes; ++k) write_lanes(at(k), value(k), whole{});
            else
                for (int64_t k = 0; k < classes; ++k)
                    write_lanes(at(k), where_nonzero(rows.live, value(k), splat(T(0))),
                                first{facts.count});
            if (at_label)
                for (int r = 0; r < tile<T>::rows; ++r)
                    if (facts.label[r] >= 0) set_number(at(facts.label[r]) + r, at_label[r]);
        });
        return;
    }
    T *staged[tile<T>::rows];
    if (!directly)
        for (int r = 0; r < tile<T>::rows; ++r) staged[r] = rows.staged + r * classes;
    T *const *to = directly ? places : staged;
    for_pieces<T>(classes, [&](int64_t k, auto n) __attribute__((always_inline)) {
        lanes<T> piece[n.value];
#pragma GCC unroll 4
        for (int j = 0; j < n.value; ++j) piece[j] = value(k + j);
        store_classes<T, n.value>(to, k, piece);
    });
    if (at_label)
        for (int r = 0; r < tile<T>::rows; ++r)
            if (facts.label[r] >= 0) set_number(to[r] + facts.label[r], at_label[r]);
    if (directly) return;
    for (int r = 0; r < tile<T>::rows; ++r)
        if (is_computed(pass, facts, r))
            deliver(staged[r], splat(T(1)), classes, matrix, row_of(matrix, facts.begin + r), 0);
}

}  // namespace
