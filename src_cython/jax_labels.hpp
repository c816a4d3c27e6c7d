// Class indices of a call from JAX: their check, and what is said of a bad one.
#pragma once

#include "jax_arrays.hpp"
#include "jax_run.hpp"
#include "long_sum.hpp"

namespace {

// Of `calls` calls one after the other, some or all of whose rows are meant.
struct call_labels {
    const fastxent_array &target;
    int64_t classes, has_skip, skip;

    fastxent_labels of_rows(int64_t first, int64_t count) const {
        fastxent_labels all = {};
        all.size = static_cast<int>(size_of(target.kind));
        all.data = static_cast<const char *>(target.data) + first * all.size;
        all.rows = count;
        all.classes = classes;
        all.is_signed = target.kind % 2;  // of integer kinds the signed ones have odd numbers
        all.has_skip = has_skip != 0;
        all.skip = skip;
        return all;
    }

    // First bad label of these rows or -1, and the mass of the live rows.
    int check(int64_t first, int64_t count, const double *class_mass, const double *row_mass,
              int threads, int64_t *bad_row, double *mass) const {
        fastxent_label_check check = {};
        check.labels = of_rows(first, count);
        check.class_mass = class_mass;
        check.row_mass = row_mass;
        check.threads = threads;
        const int64_t chunks = (count + fastxent_label_chunk - 1) / fastxent_label_chunk;
        scratch memory;
        char *place = memory.get(24 * chunks);
        if (!place) return fastxent_no_memory;
        check.bad_row = reinterpret_cast<int64_t *>(place);
        check.live = check.bad_row + chunks;
        check.mass = reinterpret_cast<double *>(check.live + chunks);
        level.load()->check_labels(check);
        *bad_row = -1;
        long_sum<double> sum = {0.0, 0.0};
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            if (*bad_row < 0) *bad_row = check.bad_row[chunk];
            sum.add(check.mass[chunk]);
        }
        *mass = value_of(sum);
        return fastxent_done;
    }

    int refuse_row(int64_t row, int64_t rows, int64_t calls, char *message, size_t message_size) const {
        const fastxent_labels all = of_rows(0, rows);
        const char *place = static_cast<const char *>(all.data) + row * all.size;
        char label[32], ignored[64] = "", place_in_call[80] = "";
        int64_t value = 0;
        std::memcpy(&value, place, static_cast<size_t>(all.size));
        if (all.is_signed && all.size < 8) {
            const int unused = 64 - 8 * all.size;
            value = static_cast<int64_t>(static_cast<uint64_t>(value) << unused) >> unused;
        }
        std::snprintf(label, sizeof label, all.is_signed ? "%lld" : "%llu",
                      static_cast<long long>(value));
        if (all.has_skip)
            std::snprintf(ignored, sizeof ignored, " and is not the ignored label %lld",
                          static_cast<long long>(all.skip));
        if (calls > 1)
            std::snprintf(place_in_call, sizeof place_in_call, " (row %lld of call %lld)",
                          static_cast<long long>(row % (rows / calls)),
                          static_cast<long long>(row / (rows / calls)));
        return refuse(message, message_size,
                      "fastxent: the target of row %lld%s is %s: it lies outside [0, %lld) for C = %lld "
                      "classes%s",
                      static_cast<long long>(row), place_in_call, label, static_cast<long long>(classes),
                      static_cast<long long>(classes), ignored);
    }
};

}  // namespace
