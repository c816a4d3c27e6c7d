// The loss: operands and options of a call become a pass over rows.
//
// Leading dimensions beyond those of one call number independent calls, "groups" (jax.vmap): their rows
// are computed in one pass, each group has a denominator of its own.
#pragma once

#include <initializer_list>
#include <limits>

#include "jax_labels.hpp"
#include "pages.hpp"

namespace {

// One call of cross_entropy.
struct loss_call {
    const fastxent_call &call;
    char *message;
    size_t message_size;
    const fastxent_array &logits, &target;
    const fastxent_array *factor = nullptr, *row_weight = nullptr, *denominator = nullptr;
    const fastxent_array &loss;
    const fastxent_array *grad = nullptr, *target_grad = nullptr, *row_max = nullptr, *row_sum = nullptr;
    bool hard;
    shape_of_rows shape;
    int64_t groups, rows_of_group;
    int size, threads;
    double live = 0.0;  // rows that count, all groups together

    loss_call(const fastxent_call &given, char *text, size_t text_size)
        : call(given), message(text), message_size(text_size), logits(given.operands[0]),
          target(given.operands[1]), loss(given.results[0]) {
        const fastxent_array *operand = given.operands + 2, *result = given.results + 1;
        if (option(fastxent_has_factor)) factor = operand++;
        if (option(fastxent_has_row_weight)) row_weight = operand++;
        if (option(fastxent_has_denominator)) denominator = operand++;
        if (option(fastxent_wants_grad)) grad = result++;
        if (option(fastxent_wants_target_grad)) target_grad = result++;
        if (option(fastxent_wants_sums)) row_max = result++, row_sum = result++;
        shape = shape_of(logits, option(fastxent_trailing));
        hard = target.rank < logits.rank;
        groups = product(logits.dims, 0, logits.rank - option(fastxent_rank));
        if (groups && option(fastxent_reduce) == 0 && !factor) groups = 1;  // rows have nothing in common
        rows_of_group = groups ? shape.rows() / groups : 0;
        size = logits.kind == fastxent_float64 ? 8 : 4;
        threads = threads_for(option(fastxent_threads), shape.rows(),
                              shape.rows() * shape.classes * size_of(logits.kind));
    }

    int64_t option(fastxent_integer name) const { return call.integers[name]; }
    double number(fastxent_number name) const { return call.numbers[name]; }
    bool is_mean() const { return option(fastxent_reduce) == 2; }

    call_labels labels() const {
        return {target, shape.classes, option(fastxent_has_skip), option(fastxent_skip)};
    }

    int bad_label(int64_t row) {
        const int64_t calls = product(logits.dims, 0, logits.rank - option(fastxent_rank));
        return labels().refuse_row(row, shape.rows(), calls, message, message_size);
    }

    // What the sum of a group's losses is divided by.
    int denominator_of(int64_t group, const double *class_mass, const double *row_mass, double *divisor) {
        *divisor = 1.0;
        if (!is_mean()) return fastxent_done;
        if (denominator) {
            *divisor = value_of(*denominator, group);
            if (*divisor >= 0.0 && *divisor <= std::numeric_limits<double>::max()) return fastxent_done;
            return refuse(message, message_size,
                          "fastxent: normalizer must be finite and not negative, it is %g", *divisor);
        }
        if (hard) {
            int64_t bad_row;
            if (groups > 1 || class_mass || row_mass)
                return labels().check(group * rows_of_group, rows_of_group, class_mass, row_mass, threads,
                                      &bad_row, divisor);
            *divisor = live;
            return fastxent_done;
        }
        *divisor = static_cast<double>(rows_of_group);
        if (row_mass) {
            *divisor = 0.0;
            for (int64_t row = 0; row < rows_of_group; ++row) *divisor += row_mass[row];
        }
        return fastxent_done;
    }

    void fill_zero(const fastxent_array *array, int64_t group) const {
        if (!array) return;
        const int64_t bytes = rows_of_group * shape.classes * size_of(array->kind);
        std::memset(static_cast<char *>(array->data) + group * bytes, 0, static_cast<size_t>(bytes));
    }

    bool same_factors() const {
        if (!factor) return true;
        const size_t bytes = static_cast<size_t>(shape.classes * size);
        const char *first = static_cast<const char *>(factor->data);
        for (int64_t group = 1; group < groups; ++group)
            if (std::memcmp(first, first + static_cast<size_t>(group) * bytes, bytes)) return false;
        return true;
    }

    // Some groups that have their factors of classes in common.
    int run_groups(int64_t first, int64_t count) {
        const int64_t rows = count * rows_of_group, classes = shape.classes;
        double total = 0.0;
        class_masses masses;
        scratch class_memory, row_memory, scale_memory, divisor_memory, loss_memory, sum_memory, pass_memory;
        double *divisors = reinterpret_cast<double *>(divisor_memory.get(8 * count));
        if (!divisors) return fastxent_no_memory;

        double one = 1.0, *class_mass = nullptr, *row_mass = nullptr;
        if (factor) {
            class_mass = reinterpret_cast<double *>(class_memory.get(8 * classes));
            if (!class_mass) return fastxent_no_memory;
            for (int64_t k = 0; k < classes; ++k) class_mass[k] = value_of(*factor, first * classes + k);
        }
        if (row_weight) {
            row_mass = reinterpret_cast<double *>(row_memory.get(8 * rows));
            if (!row_mass) return fastxent_no_memory;
            for (int64_t i = 0; i < rows; ++i) row_mass[i] = value_of(*row_weight, first * rows_of_group + i);
        }
        bool counts = false;
        for (int64_t i = 0; i < count; ++i) {
            const double *own = row_mass ? row_mass + i * rows_of_group : nullptr;
            const int outcome = denominator_of(first + i, class_mass, own, divisors + i);
            if (outcome != fastxent_done) return outcome;
            counts |= divisors[i] != 0.0;
        }

        fastxent_pass pass = {};
        const int64_t leads = shape.lead / groups * count, from = shape.lead / groups * first;
        const int64_t first_row = first * rows_of_group;
        pass.rows = rows, pass.classes = classes, pass.size = size, pass.threads = threads;
        pass.logits = matrix_of(logits, shape, from, leads);
        pass.logit_scale = number(fastxent_scale);
        pass.softcap = number(fastxent_cap);
        pass.z_loss = number(fastxent_square);
        const double on_target = number(fastxent_on_target);
        if (hard) {
            pass.labels = labels().of_rows(first_row, rows);
            pass.spike = &one;
            if (factor) {
                pass.spike_step = 1;
                pass.spike = class_mass;
            }
        } else {
            pass.soft = matrix_of(target, shape, from, leads);
            pass.spike = &total;
        }
        if (!masses.fill(pass, on_target, number(fastxent_on_all), classes, factor, first))
            return fastxent_no_memory;
        // the mass of the labels themselves is known by now: the same memory takes the spikes
        if (hard && factor)
            for (int64_t k = 0; k < classes; ++k) class_mass[k] *= on_target;
        else
            one = on_target;

        double scale = 1.0 / divisors[0];
        pass.row_scale = &scale;
        if (row_weight || count > 1) {
            double *scales = row_mass;
            if (!scales) scales = reinterpret_cast<double *>(scale_memory.get(8 * rows));
            if (!scales) return fastxent_no_memory;
            pass.row_scale = scales, pass.row_scale_step = 1;
            for (int64_t i = 0; i < rows; ++i)
                scales[i] = (row_weight ? row_mass[i] : 1.0) / divisors[i / rows_of_group];
        }
        if (grad) pass.grad = matrix_of(*grad, shape, from, leads);
        if (target_grad) pass.target_grad = matrix_of(*target_grad, shape, from, leads);
        if (row_sum) {
            pass.row_max = static_cast<char *>(row_max->data) + first_row * size;
            pass.row_sum = reinterpret_cast<double *>(sum_memory.get(8 * rows));
            if (!pass.row_sum) return fastxent_no_memory;
        }
        const bool each = option(fastxent_reduce) == 0, in_rows = each || row_weight || count > 1;
        fastxent_array losses = loss;
        if (each)
            losses.data = static_cast<char *>(loss.data) + first_row * size;
        else if (in_rows)
            losses.data = loss_memory.get(rows * size);
        if (!losses.data) return fastxent_no_memory;
        if (in_rows)
            pass.loss = losses.data;
        else
            pass.total = &total;
        if (rows > 0 && counts) {
            const int outcome = run(pass, pass_memory);
            if (outcome != fastxent_done) return outcome;
            for (int64_t i = 0; row_sum && i < rows; ++i) put_value(*row_sum, first_row + i, pass.row_sum[i]);
        }
        for (int64_t i = 0; i < count; ++i)
            if (divisors[i] == 0.0) {
                fill_zero(grad, first + i);
                fill_zero(target_grad, first + i);
            }
        finish(first, count, divisors, losses, in_rows, total);
        return fastxent_done;
    }

    void finish(int64_t first, int64_t count, const double *divisors, const fastxent_array &losses,
                bool in_rows, double total) {
        const bool each = option(fastxent_reduce) == 0;
        const int64_t first_row = first * rows_of_group;
        if (each && !row_weight) return;
        for (int64_t i = 0; i < count; ++i) {
            if (in_rows) {
                total = 0.0;
                for (int64_t row = i * rows_of_group; row < (i + 1) * rows_of_group; ++row) {
                    const double factor_of_row = row_weight ? value_of(*row_weight, first_row + row) : 1.0;
                    const double weighted = value_of(losses, row) * factor_of_row;
                    if (each) put_value(losses, row, weighted);
                    else total += weighted;
                }
            }
            if (each) continue;
            double value = total / divisors[i];
            if (divisors[i] == 0.0)
                value = option(fastxent_zero_of_nothing) ? 0.0 : std::numeric_limits<double>::quiet_NaN();
            put_value(loss, first + i, value);
        }
    }

    static bool has_size(const fastxent_array *array, int64_t size) {
        return !array || product(array->dims, 0, array->rank) == size;
    }

    int check_all() {
        // sizes may be known only now (jax.export with symbolic shapes)
        if (product(target.dims, 0, target.rank) != shape.rows() * (hard ? 1 : shape.classes))
            return refuse(message, message_size, "fastxent: the target has another shape than the rows");
        const int64_t calls = product(logits.dims, 0, logits.rank - option(fastxent_rank));
        if (!has_size(factor, calls * shape.classes) || !has_size(row_weight, shape.rows()) ||
            !has_size(denominator, calls))
            return refuse(message, message_size,
                          "fastxent: weights have another shape than the rows or classes");
        int outcome = check_weights(factor, "weight", message, message_size);
        if (outcome == fastxent_done) outcome = check_weights(row_weight, "sample_weight", message, message_size);
        if (outcome != fastxent_done) return outcome;
        if (hard) {
            int64_t bad_row;
            outcome = labels().check(0, shape.rows(), nullptr, nullptr, threads, &bad_row, &live);
            if (outcome != fastxent_done) return outcome;
            if (bad_row >= 0) return bad_label(bad_row);
        }
        return fastxent_done;
    }

    // The checks, and what the mean of one group of rows is divided by.
    int run_denominator() {
        int outcome = check_all();
        if (outcome != fastxent_done) return outcome;
        scratch class_memory, row_memory;
        double *masses[] = {nullptr, nullptr}, divisor;
        const fastxent_array *weights[] = {factor, row_weight};
        scratch *memory[] = {&class_memory, &row_memory};
        for (int i = 0; i < 2; ++i) {
            if (!weights[i]) continue;
            const int64_t count = product(weights[i]->dims, 0, weights[i]->rank);
            masses[i] = reinterpret_cast<double *>(memory[i]->get(8 * count));
            if (!masses[i]) return fastxent_no_memory;
            for (int64_t k = 0; k < count; ++k) masses[i][k] = value_of(*weights[i], k);
        }
        outcome = denominator_of(0, masses[0], masses[1], &divisor);
        if (outcome == fastxent_done) put_value(loss, 0, divisor);
        return outcome;
    }

    int run_all() {
        int outcome = check_all();
        if (outcome != fastxent_done) return outcome;
        for (const fastxent_array *array : {grad, target_grad})
            if (array) advise_large_pages(array->data, shape.rows() * shape.classes * size_of(array->kind));
        if (same_factors()) return groups ? run_groups(0, groups) : fastxent_done;
        for (int64_t group = 0; group < groups && outcome == fastxent_done; ++group)
            outcome = run_groups(group, 1);
        return outcome;
    }
};

}  // namespace
