// Rows of which some classes are here, the others elsewhere: always row by row, never in tiles, so that
// the sums of a block have the bits that they have in a single long row.
#pragma once

#include "by_row.hpp"
#include "shard_pass.hpp"

namespace {

// Rows from `begin` up to `end`, and the blocks of each from `from` up to `to`.
struct shard_task {
    int64_t begin, end, from, to;
};

// Blocks wait for nothing, so that pieces of rows are tasks like chunks of rows.
template <class Body> bool for_tasks(const fastxent_shard &shard, const Body &body) {
    const fastxent_schedule &schedule = shard.pass.schedule;
    const int64_t rows = shard.pass.rows, blocks = schedule.blocks, pieces = shard.pieces;
    const int64_t piece_blocks = (blocks + pieces - 1) / pieces;
    const int64_t elements = (schedule.chunk_rows * shard.pass.classes + pieces - 1) / pieces;
    const chunk_loop loop = {schedule.chunks * pieces, elements, shard.pass.threads, shard.pass.watch};
    return for_chunks(loop, [&](int64_t number, int thread) {
        const int64_t begin = number / pieces * schedule.chunk_rows, end = begin + schedule.chunk_rows;
        const int64_t from = number % pieces * piece_blocks, to = from + piece_blocks;
        body(shard_task{begin, end < rows ? end : rows, from < blocks ? from : blocks,
                        to < blocks ? to : blocks},
             thread);
    });
}

// A label among the classes from block `from` up to `to`, counted from the first class here; or -1.
FASTXENT_INLINE int64_t label_in(const fastxent_shard &shard, int64_t label, int64_t from, int64_t to) {
    if (label < 0) return -1;
    const int64_t here = label - shard.first_class, end = to * fastxent_block;
    const int64_t classes = shard.pass.classes;
    return here >= from * fastxent_block && here < (end < classes ? end : classes) ? here : -1;
}

FASTXENT_ONCE void put_parts(const fastxent_shard &shard, int64_t row, const fastxent_block_sums *blocks,
                             int64_t from, int64_t to) {
    const fastxent_part_sums &sums = shard.sums;
    for (int64_t b = from; b < to; ++b) {
        const int64_t at = b * shard.pass.rows + row;
        sums.max[at] = blocks[b].max;
        sums.sum[at] = blocks[b].sum;
        if (sums.mass) sums.mass[at] = blocks[b].mass;
        if (sums.dot) sums.dot[at] = blocks[b].dot;
        if (sums.spread) sums.spread[at] = blocks[b].spread;
        if (sums.argmax) sums.argmax[at] = shard.first_class + blocks[b].argmax;
    }
}

// The parts of a row that is not computed: see fill_row.
FASTXENT_ONCE void fill_parts(const fastxent_shard &shard, int64_t row, double value, int64_t from,
                              int64_t to) {
    const fastxent_part_sums &sums = shard.sums;
    if (sums.label_logit && from == 0) sums.label_logit[row] = value;
    for (int64_t b = from; b < to; ++b) {
        const int64_t at = b * shard.pass.rows + row;
        sums.max[at] = value;
        sums.sum[at] = value + 1.0;
        if (sums.mass) sums.mass[at] = value;
        if (sums.dot) sums.dot[at] = value;
        if (sums.spread) sums.spread[at] = value;
        if (sums.argmax) sums.argmax[at] = -1;
    }
}

template <class T, class Targets>
bool partial_with(const fastxent_shard &shard, const Targets &targets) {
    const fastxent_pass &pass = shard.pass;
    const transform_of<T> transform(pass);
    return for_tasks(shard, [&](const shard_task &task, int thread) {
        const row_buffers<T> buffers(pass, thread);
        row_group<T> group = {};
        // every part has an argmax, where blocks of one call would leave out what is not the highest
        const int64_t step = pass.argmax ? 1 : task.to - task.from;
        for (int64_t row = task.begin; row < task.end; ++row) {
            const row_fate fate = fate_of(pass, row);
            if (!fate.computed) {
                fill_parts(shard, row, fate.filling, task.from, task.to);
                continue;
            }
            const bool first_piece = task.from == 0;
            const int64_t label =
                first_piece ? label_in(shard, fate.label, 0, pass.schedule.blocks) : -1;
            const auto target = targets.of_row(row, buffers.masses);
            begin_row(pass, group, 0, row, label, buffers, transform);
            for (int64_t b = task.from; b < task.to; b += step)
                blocks_forward(pass, group, 0, target, buffers, transform, buffers.blocks, b, b + step);
            put_parts(shard, row, buffers.blocks, task.from, task.to);
            if (shard.sums.label_logit && first_piece) shard.sums.label_logit[row] = group.at_label[0];
        }
    });
}

// The same number for the classes of some blocks of a row.
template <class T>
FASTXENT_ONCE void fill_blocks(const fastxent_pass &pass, int64_t row, T number, int64_t from,
                               int64_t to) {
    fastxent_matrix part = pass.grad;
    const int64_t begin = from * fastxent_block, end = to * fastxent_block;
    part.data += begin * part.class_stride;
    if (from < to) fill_classes(part, row, (end < pass.classes ? end : pass.classes) - begin, number);
}

// Blocks of a row from its logits to its gradient, one after the other: unlike in a single call the
// row's sums are known before, so that a block is closed while it is still in L1.
template <class T, class Target>
FASTXENT_INLINE void blocks_backward(const fastxent_pass &pass, row_group<T> &group, int slot,
                                     const Target &target, const row_buffers<T> &buffers,
                                     const transform_of<T> &transform, int64_t from, int64_t to) {
    const int64_t label = group.label[slot];
    for (int64_t b = from; b < to; ++b) {
        blocks_forward(pass, group, slot, target, buffers, transform, buffers.blocks, b, b + 1);
        fastxent_block_sums &block = buffers.blocks[b];
        // as in merge()
        if (block.max != group.max[slot]) block.factor = exp_of_negative(block.max - group.max[slot]);
        if (label >= 0 && label / fastxent_block == b) {
            group.exp_at_label[slot] =
                static_cast<double>(get_number(group.exps[slot] + label)) * block.factor;
            if constexpr (Target::everywhere)
                group.mass_at_label[slot] =
                    static_cast<double>(target.block(label, 1).mass(0, first{1}).part[0][0]);
        }
        blocks_close(pass, group, slot, target, buffers, transform, buffers.blocks, b, b + 1);
    }
}

template <class T, class Targets>
bool partial_backward_with(const fastxent_shard &shard, const Targets &targets) {
    const fastxent_pass &pass = shard.pass;
    const transform_of<T> transform(pass);
    return for_tasks(shard, [&](const shard_task &task, int thread) {
        const row_buffers<T> buffers(pass, thread);
        row_group<T> group = {};
        for (int64_t row = task.begin; row < task.end;) {
            int slots = 0;
            for (; row < task.end && slots < pass.schedule.group_rows; ++row) {
                const row_fate fate = fate_of(pass, row);
                if (!fate.computed) {
                    fill_blocks(pass, row, static_cast<T>(fate.filling), task.from, task.to);
                    continue;
                }
                begin_row(pass, group, slots, row, label_in(shard, fate.label, task.from, task.to),
                          buffers, transform);
                group.max[slots] = shard.row_max[row];
                group.sum[slots] = shard.row_sum[row];
                group.mass[slots] = shard.row_mass[row];
                group.exp_at_label[slots] = group.mass_at_label[slots] = 0.0;
                ++slots;
            }
            finish_group(pass, group);
            for (int slot = 0; slot < slots; ++slot)
                blocks_backward(pass, group, slot, targets.of_row(group.row[slot], buffers.masses),
                                buffers, transform, task.from, task.to);
            finish_labels(pass, group);
            for (int slot = 0; slot < slots; ++slot) put_at_label(pass, group, slot);
        }
    });
}

// The sums of a row from those of its parts.
FASTXENT_INLINE fastxent_block_sums merged_parts(const fastxent_shard &shard, int64_t row,
                                                 fastxent_block_sums *blocks) {
    const fastxent_part_sums &sums = shard.sums;
    for (int64_t b = 0; b < sums.parts; ++b) {
        const int64_t at = b * shard.pass.rows + row;
        blocks[b] = {sums.max[at],
                     sums.sum[at],
                     sums.mass ? sums.mass[at] : 0.0,
                     sums.dot ? sums.dot[at] : 0.0,
                     sums.spread ? sums.spread[at] : 0.0,
                     1.0,
                     sums.argmax ? sums.argmax[at] : -1};
    }
    return sums.parts == 1 ? blocks[0] : merge(blocks, sums.parts);
}

template <class T>
double merge_chunk(const fastxent_shard &shard, int64_t begin, int64_t end, fastxent_block_sums *blocks) {
    const fastxent_pass &pass = shard.pass;
    long_sum<double> total = {0.0, 0.0};
    row_group<T> group = {};
    for (int64_t row = begin; row < end;) {
        int slots = 0;
        for (; row < end && slots < row_group<T>::slots; ++row) {
            const row_fate fate = fate_of(pass, row);
            if (!fate.computed) {
                total.add(fill_row<T>(pass, row, fate.filling));
                if (shard.mass) shard.mass[row] = fate.filling;
                continue;
            }
            const fastxent_block_sums sums = merged_parts(shard, row, blocks);
            const double spike = fate.label >= 0 ? pass.spike[fate.label * pass.spike_step] : 0.0;
            group.row[slots] = row;
            group.argmax[slots] = sums.argmax;
            group.max[slots] = sums.max;
            group.sum[slots] = sums.sum;
            group.mass[slots] = pass.labels.data ? spike + pass.background_total : sums.mass;
            group.dot[slots] = sums.dot;
            group.spread[slots] = sums.spread;
            group.spike[slots] = spike;
            group.at_label[slots] = fate.label >= 0 ? shard.sums.label_logit[row] : 0.0;
            ++slots;
        }
        finish_group(pass, group);
        for (int slot = 0; slot < slots; ++slot) {
            total.add(group.loss[slot]);
            put_row(pass, group, slot);
            if (shard.mass) shard.mass[group.row[slot]] = group.mass[slot];
        }
    }
    return value_of(total);
}

// Losses are added up as those of a single call are, which chunks of rows have.
template <class T> bool merge_of(const fastxent_shard &shard) {
    const fastxent_pass &pass = shard.pass;
    const fastxent_schedule &schedule = pass.schedule;
    double *totals = reinterpret_cast<double *>(pass.scratch + schedule.thread_bytes * pass.threads);
    const int64_t tasks = (schedule.chunks + shard.task_chunks - 1) / shard.task_chunks;
    const chunk_loop loop = {tasks, shard.task_chunks * schedule.chunk_rows * (shard.sums.parts + 1), pass.threads,
                             pass.watch};
    const bool is_done = for_chunks(loop, [&](int64_t task, int thread) {
        auto *blocks =
            reinterpret_cast<fastxent_block_sums *>(pass.scratch + thread * schedule.thread_bytes);
        const int64_t last = (task + 1) * shard.task_chunks;
        for (int64_t chunk = task * shard.task_chunks; chunk < last && chunk < schedule.chunks; ++chunk) {
            const int64_t begin = chunk * schedule.chunk_rows, end = begin + schedule.chunk_rows;
            totals[chunk] = merge_chunk<T>(shard, begin, end < pass.rows ? end : pass.rows, blocks);
        }
    });
    if (is_done && pass.total) *pass.total = sum_of(totals, schedule.chunks);
    return is_done;
}

}  // namespace
