// The pass over rows of many classes: one row after the other, or each shared out among threads.
#pragma once

#include "labels.hpp"
#include "parallel.hpp"
#include "row.hpp"

namespace {

template <class T> T *row_of(void *array, int64_t stride, int64_t row) {
    return array ? static_cast<T *>(array) + row * stride : nullptr;
}

template <class T> void put(void *array, int64_t row, double value) {
    if (array) static_cast<T *>(array)[row] = static_cast<T>(value);
}

// A row that is not computed: 0 where its label is skipped. Gives its loss.
template <class T> FASTXENT_ONCE double fill_row(const fastxent_pass &pass, int64_t row, double value) {
    put<T>(pass.loss, row, value);
    T *grad = row_of<T>(pass.grad, pass.out_stride, row);
    if (grad)
        for (int64_t k = 0; k < pass.classes; ++k) grad[k] = static_cast<T>(value);
    return value;
}

// What becomes of a row by its label: computed, or filled with a number.
struct row_fate {
    bool computed;
    int64_t label;  // -1 where there are no labels
    double filling;
};

FASTXENT_INLINE row_fate fate_of(const fastxent_pass &pass, int64_t row) {
    if (!pass.labels.data) return {true, -1, 0.0};
    const int64_t label = label_at(pass.labels, row);
    if (is_skipped(pass.labels, label)) return {false, -1, 0.0};
    // checked already, but the array is the caller's: another thread may have written to it
    if (!is_class(pass.labels, label)) return {false, -1, __builtin_nan("")};
    return {true, label, 0.0};
}

// Some rows on their way through the pass, each in a slot: begin_row, blocks_forward, merge_row for
// each, finish_group for all, then put_row, blocks_close and put_at_label for each.
template <class T> struct row_group {
    static constexpr int slots = lanes<double>::count;
    int64_t row[slots], label[slots];
    const T *logits[slots];
    T *grad[slots];
    double max[slots], sum[slots], mass[slots], dot[slots], spike[slots], scale[slots];
    double at_label[slots], exp_at_label[slots], mass_at_label[slots];
    double loss[slots], log_sum[slots], share[slots], grad_at_label[slots];
};

template <class T>
FASTXENT_INLINE void begin_row(const fastxent_pass &pass, row_group<T> &group, int slot, int64_t row,
                               int64_t label) {
    const T *logits = static_cast<const T *>(pass.logits) + row * pass.logits_stride;
    group.row[slot] = row;
    group.label[slot] = label;
    group.logits[slot] = logits;
    group.grad[slot] = row_of<T>(pass.grad, pass.out_stride, row);
    // read before anything is written: the gradient may go over the logits
    group.at_label[slot] = label >= 0 ? static_cast<double>(logits[label]) : 0.0;
    group.spike[slot] = label >= 0 ? pass.spike[label * pass.spike_step] : 0.0;
    group.scale[slot] = pass.row_scale[row * pass.row_scale_step];
}

template <class T, class Target>
FASTXENT_INLINE void merge_row(const fastxent_pass &pass, row_group<T> &group, int slot,
                               const Target &target, fastxent_block_sums *blocks) {
    const fastxent_block_sums sums = merge(blocks, pass.schedule.blocks);
    const int64_t label = group.label[slot];
    group.max[slot] = sums.max;
    group.sum[slot] = sums.sum;
    group.mass[slot] = pass.soft ? sums.mass : group.spike[slot] + pass.background_total;
    group.dot[slot] = Target::everywhere ? sums.dot : 0.0;
    group.exp_at_label[slot] = group.mass_at_label[slot] = 0.0;
    if (label < 0 || !group.grad[slot]) return;
    group.exp_at_label[slot] = static_cast<double>(group.grad[slot][label]) *
                               blocks[label / fastxent_block].factor;
    if constexpr (Target::everywhere)
        group.mass_at_label[slot] =
            static_cast<double>(target.mass(label, first{1}).part[0][0]);
}

template <class T> FASTXENT_ONCE void finish_group(row_group<T> &group) {
    const auto take = [](const double *numbers) __attribute__((always_inline)) {
        return load<double>(numbers, whole{}, 0.0);
    };
    const row_results results = finish(
        {take(group.max), take(group.sum), take(group.mass), take(group.dot), take(group.spike),
         take(group.scale), take(group.at_label), take(group.exp_at_label),
         take(group.mass_at_label)});
    store(group.loss, results.loss, whole{});
    store(group.log_sum, results.log_sum, whole{});
    store(group.share, results.share, whole{});
    store(group.grad_at_label, results.grad_at_label, whole{});
}

// What is written of a row besides its gradient.
template <class T>
FASTXENT_ONCE void put_row(const fastxent_pass &pass, const row_group<T> &group, int slot) {
    const int64_t row = group.row[slot];
    put<T>(pass.loss, row, group.loss[slot]);
    put<T>(pass.row_max, row, group.max[slot]);
    if (pass.row_sum) pass.row_sum[row] = group.sum[slot];
    if (T *log_proba = row_of<T>(pass.log_proba, pass.out_stride, row)) {
        const lanes<T> max = splat(static_cast<T>(group.max[slot]));
        const lanes<T> log_sum = splat(static_cast<T>(group.log_sum[slot]));
        const T *logits = group.logits[slot];
        for_lanes<T>(pass.classes, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
            store(log_proba + k, load<T>(logits + k, some, T(0)) - max - log_sum, some);
        });
    }
}

template <class T> FASTXENT_INLINE void put_at_label(const row_group<T> &group, int slot) {
    if (group.grad[slot] && group.label[slot] >= 0)
        group.grad[slot][group.label[slot]] = static_cast<T>(group.grad_at_label[slot]);
}

template <class T, class TargetOf>
void by_whole_row(const fastxent_pass &pass, const TargetOf &target_of, double *totals) {
    const fastxent_schedule &schedule = pass.schedule;
    const int64_t classes = pass.classes, count = schedule.blocks;
    auto *scratch = static_cast<fastxent_block_sums *>(pass.scratch);
    for_chunks(schedule.chunks, pass.threads, [&](int64_t chunk, int thread) {
        fastxent_block_sums *blocks = scratch + thread * (count * schedule.group_rows);
        const int64_t begin = chunk * schedule.chunk_rows;
        const int64_t end =
            begin + schedule.chunk_rows < pass.rows ? begin + schedule.chunk_rows : pass.rows;
        long_sum<double> total = {0.0, 0.0};
        row_group<T> group = {};
        for (int64_t row = begin; row < end;) {
            int slots = 0;
            for (; row < end && slots < schedule.group_rows; ++row) {
                const row_fate fate = fate_of(pass, row);
                if (!fate.computed) {
                    total.add(fill_row<T>(pass, row, fate.filling));
                    continue;
                }
                fastxent_block_sums *own = blocks + slots * count;
                const auto target = target_of(row);
                begin_row(pass, group, slots, row, fate.label);
                blocks_forward(group.logits[slots], classes, target, group.grad[slots], own, 0,
                               count);
                merge_row(pass, group, slots, target, own);
                ++slots;
            }
            finish_group(group);
            for (int slot = 0; slot < slots; ++slot) {
                total.add(group.loss[slot]);
                put_row(pass, group, slot);
                if (!group.grad[slot]) continue;
                blocks_close(group.grad[slot], classes, target_of(group.row[slot]),
                             group.scale[slot], group.share[slot], blocks + slot * count, 0, count);
                put_at_label(group, slot);
            }
        }
        totals[chunk] = value_of(total);
    });
}

// Fewer rows than threads could take: all threads work on each row, a piece at a time.
template <class T, class TargetOf>
void by_shared_row(const fastxent_pass &pass, const TargetOf &target_of, double *totals) {
    const fastxent_schedule &schedule = pass.schedule;
    const int64_t classes = pass.classes, count = schedule.blocks;
    auto *blocks = static_cast<fastxent_block_sums *>(pass.scratch);
    const int64_t piece_blocks = (count + schedule.pieces - 1) / schedule.pieces;
    const auto for_pieces_of_row = [&](const auto &body) {
        for_chunks(schedule.pieces, pass.threads, [&](int64_t piece, int) {
            const int64_t from = piece * piece_blocks, to = from + piece_blocks;
            body(from < count ? from : count, to < count ? to : count);
        });
    };
    row_group<T> group = {};
    long_sum<double> total = {0.0, 0.0};
    for (int64_t row = 0; row < pass.rows; ++row) {
        if (row % schedule.chunk_rows == 0) total = {0.0, 0.0};
        const row_fate fate = fate_of(pass, row);
        if (!fate.computed) {
            total.add(fill_row<T>(pass, row, fate.filling));
            totals[row / schedule.chunk_rows] = value_of(total);
            continue;
        }
        const auto target = target_of(row);
        begin_row(pass, group, 0, row, fate.label);
        for_pieces_of_row([&](int64_t from, int64_t to) {
            blocks_forward(group.logits[0], classes, target, group.grad[0], blocks, from, to);
        });
        merge_row(pass, group, 0, target, blocks);
        finish_group(group);
        total.add(group.loss[0]);
        totals[row / schedule.chunk_rows] = value_of(total);
        put_row(pass, group, 0);
        if (!group.grad[0]) continue;
        for_pieces_of_row([&](int64_t from, int64_t to) {
            blocks_close(group.grad[0], classes, target, group.scale[0], group.share[0], blocks, from,
                         to);
        });
        put_at_label(group, 0);
    }
}

}  // namespace
