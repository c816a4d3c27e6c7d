// One call of the verb binary, and its results by hand; and one of check_labels.
#pragma once

#include "binary_pass.hpp"
#include "rows.hpp"

struct binary_call {
    fastxent_binary_pass pass = {};
    std::vector<int64_t> shape;
    int64_t count;
    bool wild;
    array logits, target, ones, factor, upstream, loss, grad, proba, hess;
    column<double> total, totals;
    column<int64_t> bad;

    binary_call(source &from, int64_t most) {
        shape = draw_rows(from, from.chance(4) ? most : 700);
        if (from.chance(2)) shape.push_back(1 + from.below(9));
        count = 1;
        for (int64_t n : shape) count *= n;
        wild = from.chance(4);
        const int kind = static_cast<int>(from.below(4)), compute = kind == fastxent_float64;
        pass.dims = static_cast<int>(shape.size()), pass.size = compute ? 8 : 4;
        pass.shape = shape.data(), pass.count = count;
        logits.make(from, kind, shape, false), logits.draw(from, wild, 3.0);
        target.make(from, static_cast<int>(from.below(12)), shape, false);
        draw_target(from);
        place(pass.logits, logits), place(pass.target, target);
        draw_factor(from, pass.ones, ones, compute), draw_factor(from, pass.factor, factor, compute);
        draw_factor(from, pass.upstream, upstream, compute);
        pass.gain = from.one_of({1.0, 0.9}), pass.background = from.one_of({0.0, 0.05});
        if (from.chance(2)) loss.make(from, compute, shape, true), place(pass.loss, loss);
        if (from.chance(2)) grad.make(from, kind, shape, true), place(pass.grad, grad);
        if (from.chance(4)) proba.make(from, kind, shape, true), place(pass.proba, proba);
        if (from.chance(4)) hess.make(from, kind, shape, true), place(pass.hess, hess);
        pass.hess_is_distance = from.chance(2), pass.hess_factor = 2.0;
        pass.hess_floor = from.one_of({0.0, 1e-16, 0.05});
        if (from.chance(2)) pass.total = total.make(1);
    }
    void run(const fastxent_level &level, int threads) {
        const int64_t chunks = (count + fastxent_chunk_elements - 1) / fastxent_chunk_elements;
        pass.threads = threads, pass.totals = totals.make(chunks), pass.bad = bad.make(chunks);
        level.binary(pass);
    }
    bool found_bad() const {
        for (int64_t i = 0; i < bad.count(); ++i)
            if (bad[i]) return true;
        return false;
    }
    bool is_bad() const {
        for (int64_t i = 0; target.kind >= fastxent_uint8 && i < count; ++i)
            if (target.number(i) != 0.0 && target.number(i) != 1.0) return true;
        return false;
    }

  private:
    static void place(fastxent_elements &of, const array &from) {
        of = {from.first, from.kind, from.strides.data(), 0.0};
    }
    void draw_target(source &from) {
        target.draw(from, wild, 1.0);
        for (int64_t i = 0; i < count; ++i) {
            char *at = target.at(i);
            if (target.kind > fastxent_uint8) {
                std::memset(at, 0, item_sizes[target.kind]);
                *at = from.byte() & 1;
            }
            if (target.kind < fastxent_uint8 && !wild) at[item_sizes[target.kind] - 1] &= 0x7f;
        }
        if (target.kind >= fastxent_uint8 && count && from.chance(6)) *target.at(from.below(count)) = 2;
    }
    void draw_factor(source &from, fastxent_elements &of, array &numbers, int kind) {
        of.kind = kind, of.constant = from.one_of({1.0, 1.0, 0.3});
        if (!from.chance(4)) return;
        numbers.make(from, kind, shape, false), numbers.draw(from, wild, 1.0);
        place(of, numbers);
    }
};

inline double operand(const fastxent_elements &of, const array &numbers, int64_t i) {
    return of.data ? numbers.number(i) : of.constant;
}

inline void check_element(const binary_call &call, int64_t i, careful_sum &total, double &terms) {
    const fastxent_binary_pass &pass = call.pass;
    const double x = call.logits.number(i), y = call.target.number(i);
    const double ones = operand(pass.ones, call.ones, i), factor = operand(pass.factor, call.factor, i);
    const double positive = ones * (pass.gain * y + pass.background);
    const double negative = pass.gain * (1 - y) + pass.background;
    const double e = std::exp(-std::fabs(x));
    const double p = (x < 0 ? e : 1) / (1 + e), rest = (x < 0 ? 1 : e) / (1 + e);
    const double loss = factor * (positive * (std::log1p(e) + std::fmax(-x, 0)) +
                                  negative * (std::log1p(e) + std::fmax(x, 0)));
    const double size = std::fabs(factor) * (std::fabs(positive) + std::fabs(negative)) * (1 + std::fabs(x));
    const double side = negative * p - positive * rest;
    const double scale = factor * operand(pass.upstream, call.upstream, i);
    total += loss, terms += size;
    const auto require = [&](const fastxent_elements &of, const array &results, double truth, double allowed,
                             const char *what) {
        if (of.data) require_close(results.number(i), truth, allowed + 1e-30, pass.size, results.kind, what);
    };
    const double slope = std::fabs(scale) * (std::fabs(positive) + std::fabs(negative) + 1);
    require(pass.loss, call.loss, loss, size, "loss of an element");
    require(pass.grad, call.grad, scale * side, slope, "gradient of an element");
    require(pass.proba, call.proba, p, 1, "probability of an element");
    const double share = pass.hess_is_distance ? std::fabs(side) : p * rest;
    require(pass.hess, call.hess, std::fmax(pass.hess_floor, share * scale * pass.hess_factor), 2 * slope,
            "Hessian of an element");
}

inline void check_binary(source &from, const fastxent_level &level, int64_t most) {
    binary_call call(from, most);
    array *const arrays[] = {&call.loss, &call.grad, &call.proba, &call.hess};
    std::vector<std::vector<char>> before, after;
    for (const array *one : arrays) before.push_back(one->image());
    call.run(level, 1);
    for (int i = 0; i < 4; ++i) {
        arrays[i]->require_gaps_untouched(before[i]);
        after.push_back(arrays[i]->image());
    }
    REQUIRE(call.found_bad() == call.is_bad(), "a target that is neither 0 nor 1");
    if (!call.wild && !call.is_bad()) {
        careful_sum total;
        double terms = 1.0;
        for (int64_t i = 0; i < call.count; ++i) check_element(call, i, total, terms);
        if (call.pass.total)
            require_close(*call.pass.total, total.value(), terms, call.pass.size,
                          fastxent_float64, "total of elements");
    }
    call.run(level, 3);
    for (int i = 0; i < 4; ++i) require_same_bits(*arrays[i], after[i], "an output of elements");
}

inline void check_labels(source &from, const fastxent_level &level, int64_t most) {
    const int64_t classes = 1 + from.below(300), rows = from.below(from.chance(3) ? 40 * most : most);
    const int64_t chunks = (rows + fastxent_label_chunk - 1) / fastxent_label_chunk;
    drawn_labels labels;
    labels.make(from, rows, classes, from.chance(2));
    column<double> class_mass, row_mass, mass;
    column<int64_t> bad_row, live;
    fastxent_label_check check = {};
    check.labels = labels.labels, check.threads = 3;
    if (from.chance(2)) check.class_mass = class_mass.make(classes);
    if (from.chance(2)) check.row_mass = row_mass.make(rows);
    for (int64_t k = 0; check.class_mass && k < classes; ++k) class_mass[k] = 0.5;
    for (int64_t row = 0; check.row_mass && row < rows; ++row) row_mass[row] = 2.0;
    check.bad_row = bad_row.make(chunks), check.live = live.make(chunks), check.mass = mass.make(chunks);
    level.check_labels(check);
    int64_t first_bad = -1, alive = 0, found = -1, counted = 0;
    for (int64_t row = rows - 1; row >= 0; --row) {
        if (labels.skipped(row)) continue;
        labels.is_class(row) ? ++alive : first_bad = row;
    }
    double sum = 0.0;
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
        if (bad_row[chunk] >= 0) found = bad_row[chunk];
        counted += live[chunk], sum += mass[chunk];
    }
    REQUIRE(found == first_bad, "first bad row %lld, not %lld", static_cast<long long>(found),
            static_cast<long long>(first_bad));
    if (first_bad >= 0) return;
    const double each = (check.class_mass ? 0.5 : 1.0) * (check.row_mass ? 2.0 : 1.0);
    REQUIRE(counted == alive && sum == each * static_cast<double>(alive), "live rows and their mass");
}
