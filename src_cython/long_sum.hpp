// Sums of many numbers whose error does not grow with their count: what each addition rounds off is
// added up beside (Ogita, Rump and Oishi, "Accurate Sum and Dot Product", 2005, algorithm Sum2).
#pragma once

#include "lanes.hpp"

namespace {

// `Number` is double, or lanes of it.
template <class Number> struct long_sum {
    Number total, rest;
    FASTXENT_INLINE void add(const Number &value) {
        const Number sum = total + value, added = sum - total;
        rest = rest + ((total - (sum - added)) + (value - added));
        total = sum;
    }
};

// The rest of an infinite sum is NaN.
FASTXENT_INLINE double value_of(const long_sum<double> &sum) {
    return sum.total - sum.total == 0.0 ? sum.total + sum.rest : sum.total;
}

// Lane by lane.
FASTXENT_INLINE lanes<double> value_of_lanes(const long_sum<lanes<double>> &sum) {
    return where_equal(sum.total - sum.total, splat(0.0), sum.total + sum.rest, sum.total);
}

FASTXENT_INLINE double sum_of(const double *numbers, int64_t count) {
    long_sum<double> sum = {0.0, 0.0};
    for (int64_t i = 0; i < count; ++i) sum.add(numbers[i]);
    return value_of(sum);
}

FASTXENT_INLINE double value_of(const long_sum<lanes<double>> &sum) {
    double total[lanes<double>::count], rest[lanes<double>::count];
    store(total, sum.total, whole{});
    store(rest, sum.rest, whole{});
    long_sum<double> all = {0.0, 0.0};
    for (int i = 0; i < lanes<double>::count; ++i) {
        all.add(total[i]);
        all.rest += rest[i];
    }
    return value_of(all);
}

}  // namespace
