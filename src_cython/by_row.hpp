// The pass over rows of many classes: one row after the other, or each shared out among threads.
#pragma once

#include "labels.hpp"
#include "parallel.hpp"
#include "proba.hpp"
#include "row.hpp"

namespace {

// A thread's memory: sums of the blocks of a group's rows, and buffers for what is not computed where
// it lies. Each has room for all rows of a group.
template <class T> struct row_buffers {
    fastxent_block_sums *blocks;
    T *logits, *exps, *masses, *block;
    row_buffers(const fastxent_pass &pass, int thread) {
        const fastxent_schedule &schedule = pass.schedule;
        char *own = pass.scratch + thread * schedule.thread_bytes;
        T *buffers = reinterpret_cast<T *>(own);
        logits = buffers, exps = logits + schedule.buffer;
        masses = exps + schedule.buffer, block = masses + schedule.buffer;
        // of a row that threads share the sums lie after the memory of all threads
        char *sums = schedule.pieces > 1
                         ? pass.scratch + pass.threads * schedule.thread_bytes
                         : own + schedule.buffers * schedule.buffer * static_cast<int64_t>(sizeof(T));
        blocks = reinterpret_cast<fastxent_block_sums *>(sums);
    }
};

// Some rows on their way through the pass, each in a slot: begin_row, blocks_forward, merge_row for
// each, finish_group for all, then close_row for each.
template <class T> struct row_group {
    static constexpr int slots = lanes<double>::count;
    int64_t row[slots], label[slots], argmax[slots];
    const char *logits[slots];
    char *grad[slots];
    // z where all of a row is kept, or null; its exponentials, or null where nobody reads them
    T *z[slots], *exps[slots];
    double max[slots], sum[slots], mass[slots], dot[slots], spread[slots], spike[slots], scale[slots];
    double at_label[slots], exp_at_label[slots], mass_at_label[slots];
    double loss[slots], log_sum[slots], share[slots], grad_at_label[slots], log_prob[slots];
};

template <class T>
FASTXENT_INLINE void begin_row(const fastxent_pass &pass, row_group<T> &group, int slot, int64_t row,
                               int64_t label, const row_buffers<T> &buffers,
                               const transform_of<T> &transform) {
    const fastxent_schedule &schedule = pass.schedule;
    const char *logits = row_of(pass.logits, row);
    char *grad = pass.grad.data ? row_of(pass.grad, row) : nullptr;
    group.row[slot] = row;
    group.label[slot] = label;
    group.logits[slot] = logits;
    group.grad[slot] = grad;
    const int64_t place = slot * pass.classes;
    const bool wanted = grad || pass.entropy || pass.proba.data || pass.hess.data;
    group.exps[slot] = schedule.writes_directly && grad ? reinterpret_cast<T *>(grad)
                       : wanted                         ? buffers.exps + place
                                                        : nullptr;
    group.z[slot] = schedule.keeps_logits     ? buffers.logits + place
                    : schedule.reads_directly ? reinterpret_cast<T *>(const_cast<char *>(logits))
                                              : group.exps[slot];
    // read before anything is written: the gradient may go over the logits
    group.at_label[slot] =
        label < 0 ? 0.0
        : schedule.reads_directly
            ? static_cast<double>(get_number(reinterpret_cast<const T *>(logits) + label))
            : static_cast<double>(transformed(transform, number_at<T>(pass.logits, logits, label)));
    group.spike[slot] = label >= 0 ? pass.spike[label * pass.spike_step] : 0.0;
    group.scale[slot] = pass.row_scale[row * pass.row_scale_step] * pass.logit_scale;
}

// The blocks of a row from block `from` up to `to`: a row may be shared out among threads.
template <class T, class Target>
FASTXENT_ONCE void blocks_forward(const fastxent_pass &pass, const row_group<T> &group, int slot,
                                  const Target &target, const row_buffers<T> &buffers,
                                  const transform_of<T> &transform, fastxent_block_sums *blocks,
                                  int64_t from, int64_t to) {
    const int64_t classes = pass.classes;
    const bool directly = pass.schedule.reads_directly && !pass.schedule.keeps_logits;
    double highest = -infinity<double>;
    for (int64_t b = from; b < to; ++b) {
        const int64_t begin = b * fastxent_block, n = block_length(begin, classes);
        T *z = group.z[slot] ? group.z[slot] + begin : buffers.block;
        T *exps = group.exps[slot] ? group.exps[slot] + begin : nullptr;
        const double max = directly ? block_max(z, n)
                                    : prepare(pass.logits, group.logits[slot], begin, n, z, transform);
        int64_t argmax = -1;
        if (pass.argmax && (max > highest || b == from)) {
            argmax = begin + first_of(z, n, max);  // before the exponentials go over them
            highest = max;
        }
        const auto here = target.block(begin, n);
        const int64_t stride = pass.logits.class_stride, next = begin + fastxent_block;
        const T *const next_exps = exps ? exps + fastxent_block : nullptr;
        look_ahead ahead = {group.logits[slot] + next * stride,
                            reinterpret_cast<const char *>(next_exps), stride, sizeof(T)};
        if (!pass.schedule.writes_directly && group.grad[slot]) {
            ahead.to_size = pass.grad.class_stride;
            ahead.to = group.grad[slot] + begin * ahead.to_size;
        }
        T *const nowhere = nullptr;  // as a constant, it leaves no test in the loop
        if (pass.log_proba.data) {
            ahead.to_size = pass.log_proba.class_stride;
            ahead.to = row_of(pass.log_proba, group.row[slot]) + begin * ahead.to_size;
            blocks[b] = block_forward<T, 1>(z, max, n, here, nowhere, ahead);
        } else if (!exps) {
            blocks[b] = block_forward<T, 0>(z, max, n, here, nowhere, ahead);
        } else if (stride < static_cast<int64_t>(sizeof(T))) {
            blocks[b] = block_forward<T, 2>(z, max, n, here, exps, ahead);
        } else if (!directly || classes <= fastxent_block) {
            blocks[b] = block_forward<T, 1>(z, max, n, here, exps, ahead);
        } else {
            blocks[b] = block_forward<T, 0>(z, max, n, here, exps, ahead);
        }
        blocks[b].argmax = argmax;
        if (pass.entropy) blocks[b].spread = block_spread(z, max, n, exps);
    }
}

template <class T, class Target>
FASTXENT_INLINE void merge_row(const fastxent_pass &pass, row_group<T> &group, int slot,
                               const Target &target, fastxent_block_sums *blocks) {
    fastxent_block_sums merged;
    const int64_t count = pass.schedule.blocks;
    if (count > 1) merged = merge(blocks, count);
    // by reference: a copy loads in one piece what was just stored in several, and waits for it (10 ns)
    const fastxent_block_sums &sums = count > 1 ? merged : blocks[0];
    const int64_t label = group.label[slot];
    group.max[slot] = sums.max;
    group.sum[slot] = sums.sum;
    group.spread[slot] = sums.spread;
    group.argmax[slot] = sums.argmax;
    group.mass[slot] = pass.soft.data ? sums.mass : group.spike[slot] + pass.background_total;
    group.dot[slot] = Target::everywhere ? sums.dot : 0.0;
    const bool wanted = label >= 0 && group.exps[slot];
    group.exp_at_label[slot] =
        wanted ? static_cast<double>(get_number(group.exps[slot] + label)) *
                     blocks[label / fastxent_block].factor
               : 0.0;
    group.mass_at_label[slot] = 0.0;
    if constexpr (Target::everywhere)
        if (wanted)
            group.mass_at_label[slot] =
                static_cast<double>(target.block(label, 1).mass(0, first{1}).part[0][0]);
}

template <class T> FASTXENT_INLINE row_numbers numbers_of(const row_group<T> &group) {
    const auto of = [](const double *numbers) { return load<double>(numbers, whole{}, 0.0); };
    return {of(group.max), of(group.sum), of(group.mass), of(group.dot), of(group.spike),
            of(group.scale), of(group.at_label), of(group.exp_at_label), of(group.mass_at_label)};
}

template <class T> FASTXENT_INLINE void finish_group(const fastxent_pass &pass, row_group<T> &group) {
    const row_results results = finish(pass, numbers_of(group));
    store(group.loss, results.loss, whole{});
    store(group.log_sum, results.log_sum, whole{});
    store(group.share, results.share, whole{});
    store(group.grad_at_label, results.grad_at_label, whole{});
    store(group.log_prob, results.log_prob, whole{});
}

// What finish_group could not know before the exponentials at the labels were.
template <class T> FASTXENT_INLINE void finish_labels(const fastxent_pass &pass, row_group<T> &group) {
    const lanes<double> share = load<double>(group.share, whole{}, 0.0);
    store(group.grad_at_label, gradient_at_label(pass, numbers_of(group), share), whole{});
}

template <class T> FASTXENT_INLINE void put_row(const fastxent_pass &pass, row_group<T> &group, int slot) {
    put_statistics<T>(pass, group.row[slot],
                      {group.loss[slot], group.max[slot], group.sum[slot], group.log_prob[slot],
                       group.log_sum[slot], group.spread[slot], group.argmax[slot]});
}

// What is written of the blocks from `from` up to `to` once the row's sums are known.
template <class T, class Target>
FASTXENT_ONCE void blocks_close(const fastxent_pass &pass, const row_group<T> &group, int slot,
                                const Target &target, const row_buffers<T> &buffers,
                                const transform_of<T> &transform, const fastxent_block_sums *blocks,
                                int64_t from, int64_t to) {
    const fastxent_schedule &schedule = pass.schedule;
    const double scale = group.scale[slot], share = group.share[slot];
    const lanes<T> scales = splat(static_cast<T>(scale)), one = splat(T(1));
    // of logits that were transformed the last step is a factor of its own
    const bool in_one_step = !Target::everywhere && !schedule.writes_directly && pass.softcap == 0.0;
    for (int64_t b = from; b < to; ++b) {
        const int64_t begin = b * fastxent_block, n = block_length(begin, pass.classes);
        const T *z = group.z[slot] + begin;
        if (pass.log_proba.data) put_log_proba(pass, group.row[slot], begin, n, z, group.max[slot],
                                               group.log_sum[slot], buffers.block);
        if (pass.target_grad.data)
            put_target_grad(pass, group.row[slot], begin, n, z, group.max[slot], group.log_sum[slot],
                            buffers.block);
        if (pass.proba.data || pass.hess.data)
            put_proba(pass, group.row[slot], begin, n, group.exps[slot] + begin,
                      blocks[b].factor / group.sum[slot], buffers.block);
        if (!group.grad[slot]) continue;
        const double of_block = share * blocks[b].factor;
        const lanes<T> factor =
            splat(static_cast<T>(Target::everywhere ? of_block : scale * of_block));
        T *grad = group.exps[slot] + begin;
        const bool slopes = pass.softcap != 0.0, closes = Target::everywhere || !slopes;
        if (closes && !in_one_step) block_close(grad, n, target.block(begin, n), scales, factor);
        if (slopes) block_slope(grad, z, n, pass, transform, closes ? one : factor);
        if (schedule.writes_directly) continue;
        // exponentials are at most 1
        if (in_one_step && scale * of_block - scale * of_block == 0.0)
            deliver<T, true>(grad, factor, n, pass.grad, group.grad[slot], begin);
        else
            deliver(grad, in_one_step ? factor : one, n, pass.grad, group.grad[slot], begin);
    }
}

template <class T>
FASTXENT_INLINE void put_at_label(const fastxent_pass &pass, const row_group<T> &group, int slot) {
    if (group.grad[slot] && group.label[slot] >= 0)
        put_number(pass.grad, group.grad[slot], group.label[slot],
                   static_cast<T>(group.grad_at_label[slot]));
    if (pass.hess.data && group.label[slot] >= 0)
        put_hess_at_label<T>(pass, group.row[slot], group.label[slot], group.exp_at_label[slot],
                             group.sum[slot]);
}

// Whether anything is written of a row that has a number for each class.
FASTXENT_INLINE bool closes_rows(const fastxent_pass &pass) {
    return pass.grad.data || pass.proba.data || pass.hess.data || pass.log_proba.data ||
           pass.target_grad.data;
}

template <class T, class Targets>
bool by_whole_row(const fastxent_pass &pass, const Targets &targets, double *totals) {
    const fastxent_schedule &schedule = pass.schedule;
    const int64_t count = schedule.blocks;
    const transform_of<T> transform(pass);
    const bool closes = closes_rows(pass);
    const chunk_loop loop = {schedule.chunks, schedule.chunk_rows * pass.classes, pass.threads, pass.watch};
    return for_chunks(loop, [&](int64_t chunk, int thread) {
        const row_buffers<T> buffers(pass, thread);
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
                fastxent_block_sums *own = buffers.blocks + slots * count;
                const auto target = targets.of_row(row, buffers.masses);
                begin_row(pass, group, slots, row, fate.label, buffers, transform);
                blocks_forward(pass, group, slots, target, buffers, transform, own, 0, count);
                merge_row(pass, group, slots, target, own);
                ++slots;
            }
            finish_group(pass, group);
            for (int slot = 0; slot < slots; ++slot) {
                total.add(group.loss[slot]);
                put_row(pass, group, slot);
                if (!closes) continue;
                blocks_close(pass, group, slot, targets.of_row(group.row[slot], buffers.masses), buffers,
                             transform, buffers.blocks + slot * count, 0, count);
                put_at_label(pass, group, slot);
            }
        }
        totals[chunk] = value_of(total);
    });
}

// Fewer rows than threads could take: all threads work on each row, a piece at a time. The row lies in
// the buffers of the first thread; what is needed for a block only, in each thread's own.
template <class T, class Targets>
bool by_shared_row(const fastxent_pass &pass, const Targets &targets, double *totals) {
    const fastxent_schedule &schedule = pass.schedule;
    const int64_t count = schedule.blocks;
    const transform_of<T> transform(pass);
    const bool closes = closes_rows(pass);
    const row_buffers<T> shared(pass, 0);
    const int64_t piece_blocks = (count + schedule.pieces - 1) / schedule.pieces;
    const chunk_loop loop = {schedule.pieces, piece_blocks * fastxent_block, pass.threads, pass.watch};
    const auto for_pieces_of_row = [&](const auto &body) {
        return for_chunks(loop, [&](int64_t piece, int thread) {
            const int64_t from = piece * piece_blocks, to = from + piece_blocks;
            body(row_buffers<T>(pass, thread), from < count ? from : count, to < count ? to : count);
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
        begin_row(pass, group, 0, row, fate.label, shared, transform);
        const bool is_forward = for_pieces_of_row([&](const row_buffers<T> &own, int64_t from, int64_t to) {
            blocks_forward(pass, group, 0, targets.of_row(row, own.masses), own, transform, shared.blocks,
                           from, to);
        });
        if (!is_forward) return false;
        merge_row(pass, group, 0, targets.of_row(row, shared.masses), shared.blocks);
        finish_group(pass, group);
        total.add(group.loss[0]);
        totals[row / schedule.chunk_rows] = value_of(total);
        put_row(pass, group, 0);
        if (!closes) continue;
        const bool is_closed = for_pieces_of_row([&](const row_buffers<T> &own, int64_t from, int64_t to) {
            blocks_close(pass, group, 0, targets.of_row(row, own.masses), own, transform, shared.blocks,
                         from, to);
        });
        if (!is_closed) return false;
        put_at_label(pass, group, 0);
    }
    return true;
}

}  // namespace
