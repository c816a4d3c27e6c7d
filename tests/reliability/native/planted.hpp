// Faults that a sanitizer must find, or its silence would mean nothing: they are the caller's, the kernels
// do as they are told.
#pragma once

#include <thread>

#include "rows.hpp"

inline void count_weighted(int64_t weights, int64_t *live, double *mass) {
    column<int64_t> target, bad_row;
    column<double> weight;
    target.make(64), bad_row.make(1), weight.make(weights);
    for (int64_t i = 0; i < 64; ++i) target[i] = i % 8;
    for (int64_t k = 0; k < weights; ++k) weight[k] = 1.0;
    fastxent_label_check check = {};
    check.labels = {target.data(), 64, 8, 8, 1, 0, 0};
    check.class_mass = weight.data();
    check.threads = 1;
    check.bad_row = bad_row.data(), check.live = live, check.mass = mass;
    fastxent_levels[0]->check_labels(check);
}

inline int planted(const char *what) {
    int64_t live = 0;
    double mass = 0.0;
    if (std::strcmp(what, "overflow") == 0) {  // eight classes, seven weights
        count_weighted(7, &live, &mass);
    } else if (std::strcmp(what, "uninitialised") == 0) {
        std::unique_ptr<double[]> unknown(new double[1]);
        if (std::memchr(unknown.get(), 1, 8)) std::puts("a 1");
    } else if (std::strcmp(what, "leak") == 0) {
        column<double> *volatile lost = new column<double>;
        std::printf("%d\n", lost != nullptr);
    } else if (std::strcmp(what, "race") == 0) {  // two callers, one place for the result
        std::thread one([&] { count_weighted(8, &live, &mass); });
        std::thread other([&] { count_weighted(8, &live, &mass); });
        one.join(), other.join();
    } else {
        REQUIRE(false, "nobody planted %s", what);
    }
    std::printf("%g\n", mass);
    return 0;
}
