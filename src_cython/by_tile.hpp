// The pass with rows in the lanes: few classes, or rows that lie side by side, class by class.
#pragma once

#include "proba.hpp"

namespace {

template <class T>
FASTXENT_ONCE void read_labels(const fastxent_pass &pass, tile<T> &rows, tile_facts<T> &facts) {
    for (int r = 0; r < tile<T>::rows; ++r) facts.label[r] = -1;
    if (pass.labels.data)
        with_labels(pass.labels, [&](auto *labels) __attribute__((always_inline)) {
            bool good = true;
            const int count = facts.full ? tile<T>::rows : static_cast<int>(facts.count);
            for (int r = 0; r < count; ++r) {
                const int64_t label = static_cast<int64_t>(labels[facts.begin + r]);
                const bool here = is_class(pass.labels, label) & !is_skipped(pass.labels, label);
                facts.label[r] = here ? label : -1;
                good &= here;
            }
            facts.full &= good;
        });
    if (facts.full) return;
    T live[tile<T>::rows];
    for (int r = 0; r < tile<T>::rows; ++r) live[r] = is_computed(pass, facts, r);
    rows.live = load(live);
}

// What is fetched while this tile is computed: a line of each class, or of the rows one after the other.
template <class T>
FASTXENT_INLINE void set_ahead(const fastxent_pass &pass, tile<T> &rows, int64_t begin, int64_t ahead) {
    const fastxent_matrix &out = pass.grad.data ? pass.grad : pass.log_proba;
    const bool columns = pass.schedule.columns;
    rows.ahead_from = row_of(pass.logits, begin) + ahead * pass.logits.stride[0];
    rows.ahead_from_step = columns ? pass.logits.class_stride : 64;
    rows.ahead_to = rows.ahead_from, rows.ahead_to_step = rows.ahead_from_step;
    if (!out.data) return;
    rows.ahead_to = row_of(out, begin) + ahead * out.stride[0];
    rows.ahead_to_step = columns ? out.class_stride : 64;
}

// One factor a row, or class of a row's label, where there is more than one number of it.
template <class T>
FASTXENT_ONCE void read_factors(const fastxent_pass &pass, tile_facts<T> &facts) {
    double spike[tile<T>::rows] = {}, scale[tile<T>::rows] = {};
    for (int r = 0; r < facts.count; ++r) {
        scale[r] = pass.row_scale[(facts.begin + r) * pass.row_scale_step] * pass.logit_scale;
        if (facts.label[r] >= 0) spike[r] = pass.spike[facts.label[r] * pass.spike_step];
    }
    facts.spike = load_wide<T>(spike);
    facts.scale = load_wide<T>(scale);
}

template <class T>
FASTXENT_ONCE void read_target_scale(const fastxent_pass &pass, tile<T> &rows,
                                     const tile_facts<T> &facts) {
    T scale[tile<T>::rows] = {};
    for (int r = 0; r < facts.count; ++r)
        scale[r] = static_cast<T>(-pass.row_scale[(facts.begin + r) * pass.row_scale_step]);
    rows.target_scale = load(scale);
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
            pass.soft.data ? row_mass.of[i] : spike + splat(pass.background_total);
        const row_results results =
            finish(pass, {max.of[i], rows.sum.of[i], mass, dot.of[i], spike, scale, at_label.of[i],
                          exp_at_label.of[i], mass_at_label.of[i]});
        facts.loss.of[i] = results.loss;
        facts.log_prob.of[i] = results.log_prob;
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
    const bool zeroed = lie_in_lanes(pass.grad, facts.begin, facts.count);
    for (int r = 0; r < tile<T>::rows; ++r) {
        if (is_computed(pass, facts, r)) continue;
        loss[r] = 0.0;
        if (r >= facts.count) continue;
        const double filling = fate_of(pass, facts.begin + r).filling;
        loss[r] = fill_row<T>(pass, facts.begin + r, filling, !zeroed || filling != 0.0);
    }
    facts.loss = load_wide<T>(loss);
}

template <class T>
FASTXENT_ONCE void put_rows(const fastxent_pass &pass, const tile<T> &rows,
                            const tile_facts<T> &facts) {
    constexpr int count = tile<T>::rows;
    double sum[count], spread[count] = {}, log_prob[count], loss[count], log_sum[count], max[count];
    int64_t argmax[count] = {};
    store_wide(sum, rows.sum), store_wide(log_prob, facts.log_prob), store_wide(loss, facts.loss);
    store_wide(max, widened(rows.max));
    if (pass.entropy) {
        store_wide(spread, tile_spread(rows, pass.classes));
        for (int r = 0; r < count; ++r) log_sum[r] = log_of_sum(sum[r]);
    }
    if (pass.argmax) tile_argmax(rows, pass.classes, argmax);
    for (int r = 0; r < facts.count; ++r)
        put_statistics<T>(pass, facts.begin + r,
                          {loss[r], max[r], sum[r], log_prob[r], pass.entropy ? log_sum[r] : 0.0,
                           spread[r], argmax[r]});
}

template <class T, class Target, bool labelled>
FASTXENT_ONCE void close_tile(const fastxent_pass &pass, const tile<T> &rows, const tile_facts<T> &facts,
                              const Target &target) {
    T *const *const nowhere = nullptr;
    T *const *const places = pass.schedule.writes_directly ? rows.to : nowhere;
    const T *nothing = nullptr;
    if (pass.proba.data || pass.hess.data) write_proba(pass, rows, facts);
    if (pass.target_grad.data)
        write_tile(pass, pass.target_grad, nowhere, rows, facts,
                   tile_target_gradient<T>{tile_log_proba<T>(rows),
                                           static_cast<const T *>(pass.gain), pass.gain_step,
                                           rows.target_scale},
                   nothing);
    if (pass.log_proba.data)
        write_tile(pass, pass.log_proba, places, rows, facts, tile_log_proba<T>(rows), nothing);
    if (!pass.grad.data) return;
    T at_label[tile<T>::rows];
    store(at_label, rows.grad_at_label);
    const T *instead = labelled ? at_label : nothing;
    if (pass.softcap == 0.0)
        write_tile(pass, pass.grad, places, rows, facts,
                   tile_gradient<T, Target, false>(rows, target, 0.0), instead);
    else
        write_tile(pass, pass.grad, places, rows, facts,
                   tile_gradient<T, Target, true>(rows, target, pass.softcap), instead);
}

// `targets.of_tile` makes the target of a tile. Two tiles are on their way at a time where they are
// small: what one waits for (its logarithm, its divisions) the other fills.
template <class T, bool labelled, class Targets>
bool by_tile(const fastxent_pass &pass, const Targets &targets, double *totals) {
    using Target = std::decay_t<decltype(targets.of_tile(std::declval<const tile<T> &>()))>;
    const fastxent_schedule &schedule = pass.schedule;
    const transform_of<T> transform(pass);
    const int64_t tiles = (pass.rows / schedule.run) * schedule.tiles_of_run;
    const chunk_loop loop = {schedule.chunks, schedule.chunk_rows * pass.classes, pass.threads, pass.watch};
    return for_chunks(loop, [&](int64_t chunk, int thread) {
        tile<T> rows[2];
        tile_facts<T> facts[2];
        T *buffers = reinterpret_cast<T *>(pass.scratch + thread * schedule.thread_bytes);
        for (int i = 0; i < schedule.tiles_at_a_time; ++i) {
            const auto next = [&] { return buffers += schedule.buffer, buffers - schedule.buffer; };
            rows[i].z = rows[i].exps = next();
            rows[i].staged = next();
            if (schedule.keeps_logits) rows[i].exps = next();
            if (pass.soft.data) rows[i].masses = next();
            facts[i].spike = splat_wide<T>(pass.labels.data ? *pass.spike : 0.0);
            facts[i].scale = splat_wide<T>(*pass.row_scale * pass.logit_scale);
        }
        const bool one_factor = !pass.spike_step && !pass.row_scale_step;
        const bool statistics = pass.loss || pass.row_max || pass.row_sum || pass.log_prob ||
                                pass.entropy || pass.argmax;
        long_sum<lanes<double>> total = {splat(0.0), splat(0.0)};
        const int64_t begin = chunk * schedule.chunk_tiles;
        const int64_t end =
            begin + schedule.chunk_tiles < tiles ? begin + schedule.chunk_tiles : tiles;
        for (int64_t number = begin; number < end;) {
            int count = 0;
            for (; count < schedule.tiles_at_a_time && number < end; ++count, ++number) {
                tile_facts<T> &one = facts[count];
                const int64_t run = number / schedule.tiles_of_run;
                const int64_t within = (number - run * schedule.tiles_of_run) * tile<T>::rows;
                one.begin = run * schedule.run + within;
                one.count = schedule.run - within < tile<T>::rows ? schedule.run - within
                                                                  : tile<T>::rows;
                one.full = one.count == tile<T>::rows;
                read_labels(pass, rows[count], one);
                place_rows(pass, rows[count], one);
                set_ahead(pass, rows[count], one.begin, schedule.tiles_at_a_time * tile<T>::rows);
                if (!one_factor) read_factors(pass, one);
            }
            for (int i = 0; i < count; ++i) {
                read_logits(pass, rows[i], facts[i], transform);
                if (pass.soft.data) read_masses(pass, rows[i], facts[i]);
                tile_forward<T, Target, labelled>(rows[i], pass.classes, targets.of_tile(rows[i]),
                                                  facts[i].label);
            }
            for (int i = 0; i < count; ++i) finish_rows<T, Target>(pass, rows[i], facts[i]);
            for (int i = 0; i < count; ++i) {
                if (pass.target_grad.data) read_target_scale(pass, rows[i], facts[i]);
                // before the gradient goes over z
                if (statistics) put_rows(pass, rows[i], facts[i]);
                close_tile<T, Target, labelled>(pass, rows[i], facts[i], targets.of_tile(rows[i]));
                if (!facts[i].full) fill_rows(pass, facts[i]);
                for (const lanes<double> &loss : facts[i].loss.of) total.add(loss);
            }
        }
        totals[chunk] = value_of(total);
    });
}

}  // namespace
