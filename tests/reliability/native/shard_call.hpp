// The loss over classes in several parts: partial, merge and partial_backward, against the whole by hand.
#pragma once

#include <deque>

#include "rows.hpp"
#include "shard_pass.hpp"

struct sharded {
    int64_t rows, classes, blocks = 0;
    fastxent_pass options = {};
    std::vector<int64_t> ends;
    std::deque<array> logits, grad;
    drawn_labels labels;
    column<double> max, sum, label_logit, spike, row_scale, row_max, row_sum, mass, total, loss;
    column<float> narrow_loss, narrow_max;
    column<int64_t> argmax;
    scratch memory;

    void draw(source &from, int64_t most) {
        classes = 1 + draw_classes(from, most);
        rows = 1 + from.below(most / classes < 1 ? 1 : most / classes);
        options.size = from.chance(2) ? 8 : 4, options.logit_scale = from.one_of({1.0, 0.7});
        if (from.chance(3)) options.z_loss = 1e-3;
        if (from.chance(3)) options.softcap = 30.0;
        labels.make(from, rows, classes, false);
        spike.make(classes), row_scale.make(rows);
        for (int64_t k = 0; k < classes; ++k) spike[k] = from.between(0, 2);
        for (int64_t row = 0; row < rows; ++row) row_scale[row] = from.between(0, 2);
        int64_t begin = 0;
        while (begin < classes) {
            const int64_t end = from.chance(2) ? classes : begin + 1 + from.below(classes - begin);
            const int kind = options.size == 8 ? fastxent_float64 : fastxent_float32;
            logits.emplace_back().make(from, kind, {rows, end - begin}, false);
            logits.back().draw(from, false, 3.0);
            grad.emplace_back().make(from, kind, {rows, end - begin}, true);
            ends.push_back(end);
            blocks += (end - begin + fastxent_block - 1) / fastxent_block;
            begin = end;
        }
        max.make(blocks * rows), sum.make(blocks * rows), argmax.make(rows), label_logit.make(rows);
        row_max.make(rows), row_sum.make(rows), mass.make(rows), total.make(1), loss.make(rows);
        narrow_loss.make(rows), narrow_max.make(rows);
        for (int64_t row = 0; row < rows; ++row) label_logit[row] = 0.0;
    }
    int64_t begin_of(size_t part) const { return part ? ends[part - 1] : 0; }

    fastxent_shard of_part(size_t part, int threads) {
        fastxent_shard shard = {};
        shard.pass = options;
        shard.pass.threads = threads;
        shard.pass.rows = rows, shard.pass.classes = ends[part] - begin_of(part);
        shard.pass.logits = logits[part].matrix();
        shard.pass.labels = labels.labels;
        shard.first_class = begin_of(part);
        shard.pass.spike = spike.data() + shard.first_class, shard.pass.spike_step = 1;
        shard.pass.row_scale = row_scale.data(), shard.pass.row_scale_step = 1;
        return shard;
    }
    void plan(fastxent_shard &shard) {
        fastxent_plan_shard(shard);
        shard.pass.scratch = memory.make(fastxent_scratch_bytes(shard.pass));
    }

    void run(const fastxent_level &level, int threads) {
        int64_t done = 0;
        column<double> logit_here;
        logit_here.make(rows);
        for (size_t part = 0; part < ends.size(); ++part) {
            fastxent_shard shard = of_part(part, threads);
            shard.sums.max = max.data() + done * rows, shard.sums.sum = sum.data() + done * rows;
            shard.sums.label_logit = logit_here.data();
            plan(shard);
            shard.sums.parts = shard.pass.schedule.blocks;
            level.partial(shard);
            done += shard.sums.parts;
            for (int64_t row = 0; row < rows; ++row) {
                const int64_t label = labels.numbers[row];
                if (label >= begin_of(part) && label < ends[part] && !labels.skipped(row))
                    label_logit[row] = logit_here[row];
            }
        }
        REQUIRE(done == blocks, "%lld parts, not %lld", static_cast<long long>(done),
                static_cast<long long>(blocks));
        merge(level, threads);
        for (size_t part = 0; part < ends.size(); ++part) {
            fastxent_shard shard = of_part(part, threads);
            shard.row_max = row_max.data(), shard.row_sum = row_sum.data(), shard.row_mass = mass.data();
            shard.pass.grad = grad[part].matrix();
            plan(shard);
            level.partial_backward(shard);
        }
    }

  private:
    void merge(const fastxent_level &level, int threads) {
        fastxent_shard shard = {};
        shard.pass.rows = rows, shard.pass.classes = classes, shard.pass.size = options.size;
        shard.pass.threads = threads, shard.pass.z_loss = options.z_loss;
        shard.pass.labels = labels.labels;
        shard.pass.spike = spike.data(), shard.pass.spike_step = 1;
        shard.sums.parts = blocks, shard.sums.max = max.data(), shard.sums.sum = sum.data();
        shard.sums.label_logit = label_logit.data();
        shard.pass.total = total.data(), shard.pass.row_sum = row_sum.data(), shard.mass = mass.data();
        const bool wide = options.size == 8;
        shard.pass.loss = wide ? static_cast<void *>(loss.data()) : narrow_loss.data();
        shard.pass.row_max = wide ? static_cast<void *>(row_max.data()) : narrow_max.data();
        fastxent_plan_merge(shard);
        shard.pass.scratch = memory.make(fastxent_scratch_bytes(shard.pass));
        level.merge(shard);
        for (int64_t row = 0; !wide && row < rows; ++row)
            loss[row] = narrow_loss[row], row_max[row] = narrow_max[row];
    }
};

inline void check_sharded_row(const sharded &call, int64_t row) {
    const naive_options options = {call.options.logit_scale, call.options.softcap, call.options.z_loss};
    const bool skipped = call.labels.skipped(row);
    const int64_t label = skipped ? -1 : call.labels.numbers[row];
    std::vector<double> z, t(call.classes, 0.0);
    for (size_t part = 0; part < call.ends.size(); ++part)
        for (int64_t k = 0, here = call.ends[part] - call.begin_of(part); k < here; ++k)
            z.push_back(options.transformed(call.logits[part].number(row * here + k)));
    if (!skipped) t[label] = call.spike[label];
    const naive_row truth = row_by_hand(z, t, label, options);
    const int size = call.options.size;
    require_close(call.loss[row], skipped ? 0.0 : truth.loss, skipped ? 0.0 : truth.scale, size,
                  fastxent_float64, "merged loss");
    for (size_t part = 0; part < call.ends.size(); ++part)
        for (int64_t k = 0, begin = call.begin_of(part), here = call.ends[part] - begin; k < here; ++k) {
            const double one = z[begin + k], mass = t[begin + k];
            const double grad = skipped ? 0.0 : call.row_scale[row] * grad_by_hand(truth, one, mass, options);
            const double terms = (std::fabs(mass) + (truth.mass + 0.1 * std::fabs(truth.max)) *
                                                        std::exp(one - truth.max) / truth.sum) *
                                 (8 + std::fabs(one) + std::fabs(truth.max)) * 4;
            require_close(call.grad[part].number(row * here + k), grad, skipped ? 0.0 : terms + 1e-30, size,
                          call.grad[part].kind, "gradient of a part");
        }
}

inline void check_shards(source &from, const fastxent_level &level, int64_t most) {
    sharded call;
    call.draw(from, most);
    std::vector<std::vector<char>> before, after;
    for (const array &one : call.grad) before.push_back(one.image());
    call.run(level, 1);
    for (size_t part = 0; part < call.grad.size(); ++part) {
        call.grad[part].require_gaps_untouched(before[part]);
        after.push_back(call.grad[part].image());
    }
    for (int64_t row = 0; row < call.rows; ++row) check_sharded_row(call, row);
    const double total = call.total[0];
    call.run(level, 3);
    REQUIRE(total == call.total[0], "the total of parts has other bits on three threads");
    for (size_t part = 0; part < call.grad.size(); ++part)
        require_same_bits(call.grad[part], after[part], "the gradient of a part");
}
