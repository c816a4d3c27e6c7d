// One Jacobian product of the softmax or of its logarithm, and the same by hand.
#pragma once

#include "jacobian_pass.hpp"
#include "rows.hpp"

inline void check_jacobian(source &from, const fastxent_level &level, int64_t most) {
    const int64_t classes = draw_classes(from, most);
    std::vector<int64_t> shape = draw_rows(from, most / classes);
    shape.push_back(classes);
    const bool wild = from.chance(4), in_place = from.chance(4);
    const int kind = static_cast<int>(from.below(4));
    array first, grad, out;
    fastxent_jacobian pass = {};
    pass.is_log = from.chance(2), pass.classes = classes;
    first.make(from, kind, shape, false), first.draw(from, wild, 0.3);
    grad.make(from, kind, shape, in_place), grad.draw(from, wild, 1.0);
    if (!in_place) out.make(from, kind, shape, true);
    array &result = in_place ? grad : out;
    pass.rows = first.count() / classes;
    pass.first = first.matrix(), pass.grad = grad.matrix(), pass.out = result.matrix();
    const std::vector<double> p = first.numbers(), g = grad.numbers();
    const std::vector<char> before = result.image();
    scratch memory;
    const auto run = [&](int threads) {
        pass.threads = threads;
        pass.schedule = fastxent_jacobian_schedule_of(pass);
        pass.scratch = memory.make(pass.schedule.scratch_bytes);
        level.softmax_backward(pass);
    };
    run(1);
    result.require_gaps_untouched(before);
    for (int64_t row = 0; !wild && row < pass.rows; ++row) {
        careful_sum sum;
        double size = 0.0;
        for (int64_t at = row * classes; at < (row + 1) * classes; ++at) {
            const double term = pass.is_log ? g[at] : p[at] * g[at];
            sum += term, size += std::fabs(term);
        }
        for (int64_t at = row * classes; at < (row + 1) * classes; ++at) {
            const double factor = pass.is_log ? std::exp(p[at]) : p[at];
            const double truth = pass.is_log ? g[at] - factor * sum.value()
                                             : factor * (g[at] - sum.value());
            require_close(result.number(at), truth, 1e-30 + (1 + std::fabs(factor)) * (size + std::fabs(g[at])),
                          kind == fastxent_float64 ? 8 : 4, kind, "Jacobian product");
        }
    }
    const std::vector<char> after = result.image();
    result.restore(before);
    run(3);
    require_same_bits(result, after, "a Jacobian product");
}
