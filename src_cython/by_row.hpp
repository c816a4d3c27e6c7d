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

// One row on its way through the pass: begin, blocks_forward, finish, blocks_close, end.
template <class T> struct row_state {
    const T *logits;
    T *grad;
    int64_t label;
    double at_label, share, scale, grad_at_label;
};

template <class T>
FASTXENT_INLINE row_state<T> begin_row(const fastxent_pass &pass, int64_t row, int64_t label) {
    const T *logits = static_cast<const T *>(pass.logits) + row * pass.logits_stride;
    // read before anything is written: the gradient may go over the logits
    const double at_label = label >= 0 ? static_cast<double>(logits[label]) : 0.0;
    return {logits, row_of<T>(pass.grad, pass.out_stride, row), label, at_label, 0, 0, 0};
}

// From the blocks' sums to the row's results, all but the gradient. Gives the loss.
template <class T, class Target>
FASTXENT_ONCE double finish_row(const fastxent_pass &pass, const Target &target, int64_t row,
                                  row_state<T> &state, fastxent_block_sums *blocks) {
    const fastxent_block_sums sums = merge(blocks, pass.schedule.blocks);
    const int64_t label = state.label;
    const double spike = label >= 0 ? pass.spike[label * pass.spike_step] : 0.0;
    const double mass = pass.soft ? sums.mass : spike + pass.background_total;
    const double log_sum = log_of_sum(sums.sum);
    const double dot = Target::everywhere ? sums.dot : 0.0;
    const double loss = loss_of(mass, log_sum, dot, spike, state.at_label, sums.max);
    put<T>(pass.loss, row, loss);
    put<T>(pass.row_max, row, sums.max);
    if (pass.row_sum) pass.row_sum[row] = sums.sum;
    if (T *log_proba = row_of<T>(pass.log_proba, pass.out_stride, row)) {
        const lanes<T> max = splat(static_cast<T>(sums.max)), log = splat(static_cast<T>(log_sum));
        for_lanes<T>(pass.classes, [&](int64_t k, auto some) __attribute__((always_inline)) {
            store(log_proba + k, load<T>(state.logits + k, some, T(0)) - max - log, some);
        });
    }
    if (!state.grad) return loss;
    state.scale = pass.row_scale[row * pass.row_scale_step];
    state.share = mass / sums.sum;
    if (label < 0) return loss;
    double t = spike;
    if constexpr (Target::everywhere)
        t += static_cast<double>(target.mass(label, first{1}).part[0][0]);
    const double share = state.share * blocks[label / fastxent_block].factor;
    const double exp_at_label = static_cast<double>(state.grad[label]);
    state.grad_at_label = grad_at_label(state.scale, share, exp_at_label, t);
    return loss;
}

template <class T> FASTXENT_INLINE void end_row(const row_state<T> &state) {
    if (state.grad && state.label >= 0) state.grad[state.label] = static_cast<T>(state.grad_at_label);
}

template <class T, class TargetOf>
void by_whole_row(const fastxent_pass &pass, const TargetOf &target_of, double *totals) {
    const fastxent_schedule &schedule = pass.schedule;
    auto *scratch = static_cast<fastxent_block_sums *>(pass.scratch);
    for_chunks(schedule.chunks, pass.threads, [&](int64_t chunk, int thread) {
        fastxent_block_sums *blocks = scratch + thread * schedule.blocks;
        const int64_t begin = chunk * schedule.chunk_rows;
        const int64_t end =
            begin + schedule.chunk_rows < pass.rows ? begin + schedule.chunk_rows : pass.rows;
        double total = 0.0;
        for (int64_t row = begin; row < end; ++row) {
            const row_fate fate = fate_of(pass, row);
            if (!fate.computed) {
                total += fill_row<T>(pass, row, fate.filling);
                continue;
            }
            const auto target = target_of(row);
            row_state<T> state = begin_row<T>(pass, row, fate.label);
            blocks_forward(state.logits, pass.classes, target, state.grad, blocks, 0,
                           schedule.blocks);
            total += finish_row(pass, target, row, state, blocks);
            if (state.grad)
                blocks_close(state.grad, pass.classes, target, state.scale, state.share, blocks, 0,
                             schedule.blocks);
            end_row(state);
        }
        totals[chunk] = total;
    });
}

// Fewer rows than threads could take: all threads work on each row, a piece at a time.
template <class T, class TargetOf>
void by_shared_row(const fastxent_pass &pass, const TargetOf &target_of, double *totals) {
    const fastxent_schedule &schedule = pass.schedule;
    auto *blocks = static_cast<fastxent_block_sums *>(pass.scratch);
    const int64_t piece_blocks = (schedule.blocks + schedule.pieces - 1) / schedule.pieces;
    const auto for_pieces_of_row = [&](const auto &body) {
        for_chunks(schedule.pieces, pass.threads, [&](int64_t piece, int) {
            const int64_t from = piece * piece_blocks, to = from + piece_blocks;
            body(from < schedule.blocks ? from : schedule.blocks,
                 to < schedule.blocks ? to : schedule.blocks);
        });
    };
    for (int64_t row = 0; row < pass.rows; ++row) {
        double &total = totals[row / schedule.chunk_rows];
        if (row % schedule.chunk_rows == 0) total = 0.0;
        const row_fate fate = fate_of(pass, row);
        if (!fate.computed) {
            total += fill_row<T>(pass, row, fate.filling);
            continue;
        }
        const auto target = target_of(row);
        row_state<T> state = begin_row<T>(pass, row, fate.label);
        for_pieces_of_row([&](int64_t from, int64_t to) {
            blocks_forward(state.logits, pass.classes, target, state.grad, blocks, from, to);
        });
        total += finish_row(pass, target, row, state, blocks);
        if (state.grad)
            for_pieces_of_row([&](int64_t from, int64_t to) {
                blocks_close(state.grad, pass.classes, target, state.scale, state.share, blocks, from,
                             to);
            });
        end_row(state);
    }
}

}  // namespace
