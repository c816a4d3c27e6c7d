// The pass over rows of few classes: as many rows at a time as there are lanes.
#pragma once

#include "by_row.hpp"
#include "tile.hpp"

namespace {

// Which rows of the array a tile holds, and what each has in double precision.
template <class T> struct tile_facts {
    int64_t begin, count;
    bool full;  // there is a row to compute in every lane
    wide<T> spike, scale, loss;
    T label[tile<T>::rows];  // -1 for a row that is not computed
};

template <class T> constexpr T no_logits[fastxent_tile_classes] = {};

template <class T> FASTXENT_ONCE void read_labels(const fastxent_pass &pass, tile_facts<T> &facts) {
    for (int r = 0; r < tile<T>::rows; ++r) facts.label[r] = T(-1);
    if (!pass.labels.data) return;
    with_labels(pass.labels, [&](auto *labels) __attribute__((always_inline)) {
        bool good = true;
        const int count = facts.full ? tile<T>::rows : static_cast<int>(facts.count);
        for (int r = 0; r < count; ++r) {
            const int64_t label = static_cast<int64_t>(labels[facts.begin + r]);
            const bool here = is_class(pass.labels, label) & !is_skipped(pass.labels, label);
            facts.label[r] = here ? static_cast<T>(label) : T(-1);
            good &= here;
        }
        facts.full &= good;
    });
}

template <class T> bool is_computed(const fastxent_pass &pass, const tile_facts<T> &facts, int r) {
    return r < facts.count && (!pass.labels.data || facts.label[r] >= 0);
}

// Where each row is read and written; a row that is not computed reads zeros and writes to `sink`.
template <class T>
FASTXENT_INLINE void place_rows(const fastxent_pass &pass, tile<T> &rows,
                                const tile_facts<T> &facts, T *sink, int64_t ahead) {
    const T *logits = static_cast<const T *>(pass.logits) + facts.begin * pass.logits_stride;
    T *out = static_cast<T *>(pass.grad ? pass.grad : pass.log_proba);
    const int64_t out_stride = out ? pass.out_stride : 0;
    out = out ? out + facts.begin * out_stride : sink;
    for (int r = 0; r < tile<T>::rows; ++r) {
        rows.from[r] = logits + r * pass.logits_stride;
        rows.to[r] = out + r * out_stride;
    }
    rows.ahead_from = logits + ahead * pass.logits_stride;
    rows.ahead_to = out + ahead * out_stride;
    if (facts.full) return;
    for (int r = 0; r < tile<T>::rows; ++r)
        if (!is_computed(pass, facts, r)) rows.from[r] = no_logits<T>, rows.to[r] = sink;
}

// One factor a row, or class of a row's label, where there is more than one number of it.
template <class T>
FASTXENT_ONCE void read_factors(const fastxent_pass &pass, tile_facts<T> &facts) {
    double spike[tile<T>::rows] = {}, scale[tile<T>::rows] = {};
    for (int r = 0; r < facts.count; ++r) {
        scale[r] = pass.row_scale[(facts.begin + r) * pass.row_scale_step];
        const int64_t label = static_cast<int64_t>(facts.label[r]);
        if (label >= 0) spike[r] = pass.spike[label * pass.spike_step];
    }
    facts.spike = load_wide<T>(spike);
    facts.scale = load_wide<T>(scale);
}

// Losses and the factors of the gradient from the sums: merge_row and finish_group on lanes.
template <class T, class Target>
FASTXENT_INLINE void finish_rows(const fastxent_pass &pass, tile<T> &rows, tile_facts<T> &facts) {
    const wide<T> max = widened(rows.max), at_label = widened(rows.at_label);
    const wide<T> exp_at_label = widened(rows.exp_at_label);
    wide<T> dot = splat_wide<T>(0.0), mass_at_label = dot, row_mass = dot;
    if constexpr (Target::everywhere) {
        dot = rows.dot, mass_at_label = widened(rows.mass_at_label);
        row_mass = rows.mass;
    }
    wide<T> factor, grad, log_sums;
#pragma GCC unroll 2
    for (int i = 0; i < wide<T>::parts; ++i) {
        const lanes<double> spike = facts.spike.of[i], scale = facts.scale.of[i];
        const lanes<double> mass =
            pass.soft ? row_mass.of[i] : spike + splat(pass.background_total);
        const row_results results =
            finish({max.of[i], rows.sum.of[i], mass, dot.of[i], spike, scale, at_label.of[i],
                    exp_at_label.of[i], mass_at_label.of[i]});
        facts.loss.of[i] = results.loss;
        log_sums.of[i] = results.log_sum;
        factor.of[i] = Target::everywhere ? results.share : scale * results.share;
        grad.of[i] = results.grad_at_label;
    }
    rows.factor = narrowed(factor), rows.scale = narrowed(facts.scale);
    rows.grad_at_label = narrowed(grad), rows.log_sum = narrowed(log_sums);
}

// Rows that are not computed, after the others: what they hold instead, their loss too.
template <class T>
FASTXENT_ONCE void fill_rows(const fastxent_pass &pass, tile_facts<T> &facts) {
    double loss[tile<T>::rows];
    store_wide(loss, facts.loss);
    for (int r = 0; r < tile<T>::rows; ++r) {
        if (is_computed(pass, facts, r)) continue;
        const int64_t row = facts.begin + r;
        loss[r] = r < facts.count ? fill_row<T>(pass, row, fate_of(pass, row).filling) : 0.0;
    }
    facts.loss = load_wide<T>(loss);
}

template <class T>
FASTXENT_ONCE void put_rows(const fastxent_pass &pass, const tile<T> &rows,
                            const tile_facts<T> &facts) {
    double sum[tile<T>::rows];
    store_wide(sum, rows.sum);
    T loss[tile<T>::rows], max[tile<T>::rows];
    store(loss, narrowed(facts.loss));
    store(max, rows.max);
    for (int r = 0; r < facts.count; ++r) {
        put<T>(pass.loss, facts.begin + r, loss[r]);
        put<T>(pass.row_max, facts.begin + r, max[r]);
        if (pass.row_sum) pass.row_sum[facts.begin + r] = sum[r];
    }
}

// `TargetOf` makes the target of a tile from the number of its first row. Two tiles are on their way
// at a time: what one waits for (its logarithm, its divisions) the other fills.
template <class T, bool labelled, class TargetOf>
void by_tile(const fastxent_pass &pass, const TargetOf &target_of, double *totals) {
    using Target = std::decay_t<decltype(target_of(0, 0, static_cast<T *>(nullptr)))>;
    constexpr int tiles = TargetOf::numbers > 1 ? 1 : 2;
    const fastxent_schedule &schedule = pass.schedule;
    for_chunks(schedule.chunks, pass.threads, [&](int64_t chunk, int) {
        tile<T> rows[tiles];
        tile_facts<T> facts[tiles];
        T sink[fastxent_tile_classes];
        T soft[TargetOf::numbers * tile<T>::rows];
        const int64_t begin = chunk * schedule.chunk_rows;
        const int64_t end =
            begin + schedule.chunk_rows < pass.rows ? begin + schedule.chunk_rows : pass.rows;
        for (tile_facts<T> &one : facts) {
            one.spike = splat_wide<T>(pass.labels.data ? *pass.spike : 0.0);
            one.scale = splat_wide<T>(*pass.row_scale);
        }
        const bool one_factor = !pass.spike_step && !pass.row_scale_step;
        const bool statistics = pass.loss || pass.row_max || pass.row_sum;
        long_sum<lanes<double>> total = {splat(0.0), splat(0.0)};
        for (int64_t row = begin; row < end; row += tiles * tile<T>::rows) {
            int count = 0;
            for (int64_t from = row; count < tiles && from < end; ++count, from += tile<T>::rows) {
                tile_facts<T> &one = facts[count];
                one.begin = from;
                one.count = end - from < tile<T>::rows ? end - from : tile<T>::rows;
                one.full = one.count == tile<T>::rows;
                read_labels(pass, one);
                rows[count].label = load(one.label);
                place_rows(pass, rows[count], one, sink, tiles * tile<T>::rows);
                if (!one_factor) read_factors(pass, one);
            }
            const Target target = target_of(row, facts[0].count, soft);
            for (int i = 0; i < count; ++i)
                tile_forward<T, Target, labelled>(rows[i], pass.classes, target);
            for (int i = 0; i < count; ++i) finish_rows<T, Target>(pass, rows[i], facts[i]);
            for (int i = 0; i < count; ++i) {
                if (pass.grad)
                    tile_close<T, Target, labelled>(rows[i], pass.classes, target);
                else if (pass.log_proba)
                    tile_log_proba(rows[i], pass.classes);
                if (statistics) put_rows(pass, rows[i], facts[i]);
                if (!facts[i].full) fill_rows(pass, facts[i]);
                for (const lanes<double> &loss : facts[i].loss.of) total.add(loss);
            }
        }
        totals[chunk] = value_of(total);
    });
}

}  // namespace
