// Some of the classes of rows, under JAX's shard_map: what rows hand up of these classes in one part,
// and the gradient from the rows' statistics. fastxent/jax says what comes in which place:
//
//     handler "partial"
//     operands  logits, target, class_offset [, weight]
//     results   max, sum [, mass, dot] [, label_logit]
//
//     handler "partial_backward"
//     operands  logits, target, class_offset, max, sum, mass, row_scale [, weight]
//     results   grad
//
// `logits` are the local ones, of (.., classes here, ..); `target` has class indices of all classes, or the
// local probabilities; `class_offset` is one integer, signed or not, of 4 or 8 bytes; `weight` has a
// number for each class here, in the type that is computed in: float64 for float64, else float32. `max`,
// `sum`, `mass`, `dot`, `label_logit` and `row_scale` are of the shape of the rows and float64: 1 + 1e-6 in
// float32 has lost what the loss of a confident row consists of.
//
// attribute "integers"  those of enum fastxent_shard_integer, and "numbers" those of enum fastxent_number,
// as for the loss: `fastxent_on_all` is spread over all `fastxent_shard_num_classes` classes.
//
//     max          largest z here; -inf where all are masked
//     sum          sum exp(z - max); where max is -inf, relative to 0: then 0
//     mass, dot    sum t and sum t * (z - max) without the label's own mass: results for probabilities,
//                  and where fastxent_on_all is not 0; relative to 0 as before
//     label_logit  z of the label where it is here, else 0: a result for class indices
//
// A skipped row has max 0, sum 1 and 0 elsewhere, and its gradient is 0. The backward takes max, sum and
// the whole mass T (the label's own too) of all classes, and adds the term of z_loss itself; its
// row_scale is the factor of each row's gradient, that of the logits gets logit_scale besides.
#pragma once

#include <cmath>
#include <initializer_list>

#include "jax_labels.hpp"
#include "pages.hpp"
#include "shard_pass.hpp"

namespace {

struct shard_call {
    const fastxent_call &call;
    char *message;
    size_t message_size;
    const fastxent_array &logits, &target, &offset;
    const fastxent_array *row_operands;  // max, sum, mass, row_scale
    const fastxent_array *weight = nullptr;
    bool backward, hard, everywhere;
    shape_of_rows shape;
    int64_t calls, rows_of_call, num_classes;
    int size, threads;

    shard_call(const fastxent_call &given, bool is_backward, char *text, size_t text_size)
        : call(given), message(text), message_size(text_size), logits(given.operands[0]),
          target(given.operands[1]), offset(given.operands[2]), row_operands(given.operands + 3),
          backward(is_backward) {
        if (option(fastxent_shard_has_weight)) weight = row_operands + (backward ? 4 : 0);
        shape = shape_of(logits, option(fastxent_shard_trailing));
        hard = target.rank < logits.rank;
        everywhere = !hard || number(fastxent_on_all) != 0.0;
        calls = product(logits.dims, 0, logits.rank - option(fastxent_shard_rank));
        rows_of_call = calls ? shape.rows() / calls : 0;
        num_classes = option(fastxent_shard_num_classes);
        size = logits.kind == fastxent_float64 ? 8 : 4;
        threads = threads_for(option(fastxent_shard_threads), shape.rows(),
                              shape.rows() * shape.classes * size_of(logits.kind));
    }

    int64_t option(fastxent_shard_integer name) const { return call.integers[name]; }
    double number(fastxent_number name) const { return call.numbers[name]; }
    call_labels labels() const {
        return {target, num_classes, option(fastxent_shard_has_skip), option(fastxent_shard_skip)};
    }

    int64_t offset_of(int64_t number_of_call) const {
        const char *place =
            static_cast<const char *>(offset.data) + number_of_call * size_of(offset.kind);
        if (size_of(offset.kind) == 8) {
            int64_t value;
            std::memcpy(&value, place, sizeof value);
            return value;
        }
        int32_t value;
        std::memcpy(&value, place, sizeof value);
        return value;
    }

    int fill(fastxent_shard &shard, class_masses &masses, double *spikes, int64_t number_of_call) {
        fastxent_pass &pass = shard.pass;
        const int64_t leads = shape.lead / calls, from = leads * number_of_call;
        pass.rows = rows_of_call, pass.classes = shape.classes, pass.size = size, pass.threads = threads;
        pass.logits = matrix_of(logits, shape, from, leads);
        pass.logit_scale = number(fastxent_scale);
        pass.softcap = number(fastxent_cap);
        pass.z_loss = number(fastxent_square);
        pass.spike = spikes;
        *spikes = number(fastxent_on_target);
        if (!hard)
            pass.soft = matrix_of(target, shape, from, leads);
        else
            pass.labels = labels().of_rows(rows_of_call * number_of_call, rows_of_call);
        if (hard && weight) {
            pass.spike_step = 1;
            for (int64_t k = 0; k < shape.classes; ++k)
                spikes[k] = number(fastxent_on_target) *
                            value_of(*weight, shape.classes * number_of_call + k);
        }
        shard.first_class = offset_of(number_of_call);
        if (shard.first_class < 0 || shard.first_class > num_classes - shape.classes)
            return refuse(message, message_size,
                          "fastxent: class_offset is %lld: %lld classes from there on do not lie inside "
                          "the %lld of num_classes",
                          static_cast<long long>(shard.first_class), static_cast<long long>(shape.classes),
                          static_cast<long long>(num_classes));
        return masses.fill(pass, number(fastxent_on_target), number(fastxent_on_all), num_classes, weight,
                           number_of_call)
                   ? fastxent_done
                   : fastxent_no_memory;
    }

    // One part from the blocks of a row, as merge() of row.hpp makes it.
    void put_part(const fastxent_part_sums &sums, int64_t row, int64_t to) const {
        double max = sums.max[row], sum = 0.0, mass = 0.0, dot = 0.0;
        for (int64_t b = 1; b < sums.parts; ++b) {
            const double here = sums.max[b * rows_of_call + row];
            if (here > max) max = here;
        }
        for (int64_t b = 0; b < sums.parts; ++b) {
            const int64_t at = b * rows_of_call + row;
            const double here = sums.max[at];
            sum += here == max ? sums.sum[at] : sums.sum[at] * std::exp(here - max);
            if (!everywhere) continue;
            const bool masked = here == -std::numeric_limits<double>::infinity();
            mass += sums.mass[at];
            dot += sums.dot[at];
            if (here != max) dot += sums.mass[at] * ((masked ? 0.0 : here) - max);
        }
        const fastxent_array *result = call.results;
        put_value(*result++, to, max);
        put_value(*result++, to, sum);
        if (everywhere) {
            put_value(*result++, to, mass);
            put_value(*result++, to, dot);
        }
        if (hard) put_value(*result, to, sums.label_logit[row]);
    }

    int partial(fastxent_shard &shard, int64_t number_of_call, scratch &memory) {
        fastxent_part_sums &sums = shard.sums;
        sums.parts = (shape.classes + fastxent_block - 1) / fastxent_block;
        const int64_t count = sums.parts * rows_of_call;
        scratch sums_memory;
        double *place = reinterpret_cast<double *>(sums_memory.get(8 * (4 * count + rows_of_call)));
        if (!place) return fastxent_no_memory;
        double one = 1.0;
        shard.pass.row_scale = &one;
        sums.max = place, sums.sum = place + count;
        if (everywhere) sums.mass = place + 2 * count, sums.dot = place + 3 * count;
        if (hard) sums.label_logit = place + 4 * count;
        if (!run(shard, memory, level.load()->partial)) return fastxent_no_memory;
        for (int64_t row = 0; row < rows_of_call; ++row)
            put_part(sums, row, number_of_call * rows_of_call + row);
        return fastxent_done;
    }

    int gradient(fastxent_shard &shard, int64_t number_of_call, scratch &memory) {
        scratch row_memory;
        double *place = reinterpret_cast<double *>(row_memory.get(8 * 4 * rows_of_call));
        if (!place) return fastxent_no_memory;
        for (int64_t operand = 0; operand < 4; ++operand)
            for (int64_t row = 0; row < rows_of_call; ++row)
                place[operand * rows_of_call + row] =
                    value_of(row_operands[operand], number_of_call * rows_of_call + row);
        shard.row_max = place, shard.row_sum = place + rows_of_call;
        shard.row_mass = place + 2 * rows_of_call;
        shard.pass.row_scale = place + 3 * rows_of_call, shard.pass.row_scale_step = 1;
        const int64_t leads = shape.lead / calls;
        shard.pass.grad = matrix_of(call.results[0], shape, leads * number_of_call, leads);
        return run(shard, memory, level.load()->partial_backward) ? fastxent_done : fastxent_no_memory;
    }

    static bool run(fastxent_shard &shard, scratch &memory, bool (*verb)(const fastxent_shard &)) {
        fastxent_plan_shard(shard);
        shard.pass.scratch = memory.get(fastxent_scratch_bytes(shard.pass));
        if (!shard.pass.scratch) return false;
        verb(shard);
        return true;
    }

    bool has_sizes() const {
        const auto has = [](const fastxent_array &array, int64_t count) {
            return product(array.dims, 0, array.rank) == count;
        };
        for (int64_t operand = 0; backward && operand < 4; ++operand)
            if (!has(row_operands[operand], shape.rows())) return false;
        for (int64_t result = 0; !backward && result < call.result_count; ++result)
            if (!has(call.results[result], shape.rows())) return false;
        return has(target, shape.rows() * (hard ? 1 : shape.classes)) && has(offset, calls) &&
               (!weight || has(*weight, calls * shape.classes)) &&
               (!backward || has(call.results[0], shape.rows() * shape.classes));
    }

    int run_all() {
        if (!has_sizes())
            return refuse(message, message_size,
                          "fastxent: operands or results have another shape than the rows or classes");
        int outcome = check_weights(weight, "weight", message, message_size);
        if (outcome != fastxent_done) return outcome;
        if (hard && !backward) {
            int64_t bad_row;
            double live;
            outcome = labels().check(0, shape.rows(), nullptr, nullptr, threads, &bad_row, &live);
            if (outcome != fastxent_done) return outcome;
            if (bad_row >= 0)
                return labels().refuse_row(bad_row, shape.rows(), calls, message, message_size);
        }
        if (backward)
            advise_large_pages(call.results[0].data, shape.rows() * shape.classes * size_of(logits.kind));
        scratch spike_memory, memory;
        double *spikes = reinterpret_cast<double *>(spike_memory.get(8 * (weight ? shape.classes : 1)));
        if (!spikes) return fastxent_no_memory;
        for (int64_t i = 0; i < calls && outcome == fastxent_done; ++i) {
            fastxent_shard shard = {};
            class_masses masses;
            outcome = fill(shard, masses, spikes, i);
            if (outcome == fastxent_done && rows_of_call)
                outcome = backward ? gradient(shard, i, memory) : partial(shard, i, memory);
        }
        return outcome;
    }
};

}  // namespace
