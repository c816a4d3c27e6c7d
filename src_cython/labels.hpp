// Class indices of any integer type: which one, and whether it counts.
#pragma once

#include "kernels.hpp"
#include "lanes.hpp"
#include "long_sum.hpp"
#include "parallel.hpp"

namespace {

// Calls body(labels) with a pointer of their type.
template <class Body> void with_labels(const fastxent_labels &labels, const Body &body) {
    switch (labels.size * 2 + labels.is_signed) {
    case 2: return body(static_cast<const uint8_t *>(labels.data));
    case 3: return body(static_cast<const int8_t *>(labels.data));
    case 4: return body(static_cast<const uint16_t *>(labels.data));
    case 5: return body(static_cast<const int16_t *>(labels.data));
    case 8: return body(static_cast<const uint32_t *>(labels.data));
    case 9: return body(static_cast<const int32_t *>(labels.data));
    default: return body(static_cast<const int64_t *>(labels.data));
    }
}

// A label as a 64-bit pattern: a uint64 beyond the largest int64 comes out negative, and is as
// far out of range as it was.
FASTXENT_ONCE int64_t label_at(const fastxent_labels &labels, int64_t row) {
    int64_t label = 0;
    with_labels(labels, [&](auto *all) { label = static_cast<int64_t>(all[row]); });
    return label;
}

FASTXENT_INLINE bool is_skipped(const fastxent_labels &labels, int64_t label) {
    return labels.has_skip && label == labels.skip;
}

FASTXENT_INLINE bool is_class(const fastxent_labels &labels, int64_t label) {
    return static_cast<uint64_t>(label) < static_cast<uint64_t>(labels.classes);
}

struct label_sums {
    int64_t bad_row, live;
    double mass;
};

// Without weights the mass is the number of live rows, and a loop without branches finds whether
// there is a bad label at all: 0.2 ns a label instead of 1.3.
template <class Label>
label_sums count_labels(const fastxent_labels &labels, const Label *all, int64_t begin, int64_t end) {
    const int64_t classes = labels.classes, skip = labels.skip;
    const bool has_skip = labels.has_skip;
    int64_t live = 0, skipped = 0;
    for (int64_t row = begin; row < end; ++row) {
        const int64_t label = static_cast<int64_t>(all[row]);
        const bool is_skip = has_skip & (label == skip);
        skipped += is_skip;
        live += !is_skip & (static_cast<uint64_t>(label) < static_cast<uint64_t>(classes));
    }
    int64_t bad_row = -1;
    if (live + skipped != end - begin)
        // bounded: another thread may have mended the label meanwhile
        for (int64_t row = begin; row < end && bad_row < 0; ++row) {
            const int64_t label = static_cast<int64_t>(all[row]);
            if (!is_skipped(labels, label) && !is_class(labels, label)) bad_row = row;
        }
    return {bad_row, live, static_cast<double>(live)};
}

label_sums weigh_labels(const fastxent_label_check &check, int64_t begin, int64_t end) {
    label_sums sums = {-1, 0, 0.0};
    // 8,192 equal masses added up plainly are off by 740 units in the last place
    long_sum<double> mass = {0.0, 0.0};
    for (int64_t row = begin; row < end; ++row) {
        const int64_t label = label_at(check.labels, row);
        if (is_skipped(check.labels, label)) continue;
        if (!is_class(check.labels, label)) {
            sums.bad_row = row;
            break;
        }
        ++sums.live;
        mass.add((check.class_mass ? check.class_mass[label] : 1.0) *
                 (check.row_mass ? check.row_mass[row] : 1.0));
    }
    sums.mass = value_of(mass);
    return sums;
}

bool check_labels(const fastxent_label_check &check) {
    const int64_t rows = check.labels.rows;
    const int64_t chunks = (rows + fastxent_label_chunk - 1) / fastxent_label_chunk;
    // counting takes 1.6 us a chunk, a team of threads 3 to 8
    const bool worth = chunks >= 16 || check.class_mass || check.row_mass;
    const chunk_loop loop = {chunks, fastxent_label_chunk, worth ? check.threads : 1, check.watch};
    return for_chunks(loop, [&](int64_t chunk, int) {
        const int64_t begin = chunk * fastxent_label_chunk;
        const int64_t end =
            begin + fastxent_label_chunk < rows ? begin + fastxent_label_chunk : rows;
        label_sums sums;
        if (check.class_mass || check.row_mass)
            sums = weigh_labels(check, begin, end);
        else
            with_labels(check.labels,
                        [&](auto *all) { sums = count_labels(check.labels, all, begin, end); });
        check.bad_row[chunk] = sums.bad_row;
        check.live[chunk] = sums.live;
        check.mass[chunk] = sums.mass;
    });
}

}  // namespace
