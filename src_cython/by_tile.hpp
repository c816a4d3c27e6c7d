// The pass over rows of few classes: as many rows at a time as there are lanes.
#pragma once

#include "by_row.hpp"
#include "tile.hpp"

namespace {

// What the rows of a tile have in double precision, and which of them are computed.
template <class T> struct tile_facts {
    double spike[tile<T>::rows] = {}, scale[tile<T>::rows] = {}, loss[tile<T>::rows];
    double max[tile<T>::rows];
    int64_t begin, count;  // rows of the array
    bool whole;            // all rows of the tile are there, and are computed
};

template <class T> constexpr T no_logits[fastxent_tile_classes] = {};

// The labels as numbers, -1 for a row that is not computed.
template <class T>
FASTXENT_ONCE void read_labels(const fastxent_pass &pass, tile<T> &rows, tile_facts<T> &facts) {
    for (int r = 0; r < tile<T>::rows; ++r) rows.label[r] = T(-1);
    if (!pass.labels.data) return;
    with_labels(pass.labels, [&](auto *labels) __attribute__((always_inline)) {
        bool good = true;
        const int count = facts.whole ? tile<T>::rows : static_cast<int>(facts.count);
        for (int r = 0; r < count; ++r) {
            const int64_t label = static_cast<int64_t>(labels[facts.begin + r]);
            const bool here = is_class(pass.labels, label) & !is_skipped(pass.labels, label);
            rows.label[r] = here ? static_cast<T>(label) : T(-1);
            good &= here;
        }
        facts.whole &= good;
    });
}

// Where each row is read and written, its factors; rows that are not computed read zeros and write
// to `sink`.
template <class T>
FASTXENT_ONCE void place_rows(const fastxent_pass &pass, tile<T> &rows, tile_facts<T> &facts,
                                T *sink) {
    const T *logits = static_cast<const T *>(pass.logits) + facts.begin * pass.logits_stride;
    void *written = pass.grad ? pass.grad : pass.log_proba;
    T *out = written ? static_cast<T *>(written) + facts.begin * pass.out_stride : sink;
    const int64_t out_stride = written ? pass.out_stride : 0;
    for (int r = 0; r < tile<T>::rows; ++r) {
        rows.from[r] = logits + r * pass.logits_stride;
        rows.to[r] = out + r * out_stride;
    }
    if (!facts.whole)
        for (int r = 0; r < tile<T>::rows; ++r)
            if (r >= facts.count || (pass.labels.data && rows.label[r] < 0))
                rows.from[r] = no_logits<T>, rows.to[r] = sink;
    for (int r = 0; r < facts.count; ++r)
        facts.scale[r] = pass.row_scale[(facts.begin + r) * pass.row_scale_step];
    if (!pass.labels.data) return;
    for (int r = 0; r < facts.count; ++r) {
        const int64_t label = static_cast<int64_t>(rows.label[r]);
        facts.spike[r] = pass.spike[(label < 0 ? 0 : label) * pass.spike_step];
    }
}

template <class T>
FASTXENT_INLINE void narrow(T *to, const lanes<double> &value) {
    double numbers[lanes<double>::count];
    store(numbers, value, whole{});
    for (int i = 0; i < lanes<double>::count; ++i) to[i] = static_cast<T>(numbers[i]);
}

// Losses and the factors of the gradient from the sums, eight rows at a time: finish_row on lanes.
template <class T, class Target>
FASTXENT_ONCE void finish_rows(const fastxent_pass &pass, tile<T> &rows, tile_facts<T> &facts) {
    for (int r = 0; r < tile<T>::rows; r += lanes<double>::count) {
        const auto wide = [&](const auto *numbers) __attribute__((always_inline)) {
            return load<double>(numbers + r, whole{}, 0.0);
        };
        const lanes<double> sum = wide(rows.sum), max = wide(rows.max), log_sum = log_of_sum(sum);
        const lanes<double> spike = wide(facts.spike), scale = wide(facts.scale);
        const lanes<double> mass =
            pass.soft ? wide(rows.mass) : spike + splat(pass.background_total);
        const lanes<double> dot = Target::everywhere ? wide(rows.dot) : splat(0.0);
        store(facts.max + r, max, whole{});
        store(facts.loss + r, loss_of(mass, log_sum, dot, spike, wide(rows.at_label), max),
              whole{});
        const lanes<double> share = mass / sum;
        const lanes<double> t = Target::everywhere ? spike + wide(rows.mass_at_label) : spike;
        narrow(rows.factor + r, Target::everywhere ? share : scale * share);
        narrow(rows.scale + r, scale);
        narrow(rows.grad_at_label + r, grad_at_label(scale, share, wide(rows.exp_at_label), t));
        narrow(rows.log_sum + r, log_sum);
    }
}

// Rows that are not computed, after the others: what they hold instead. Their loss goes to the facts.
template <class T>
FASTXENT_ONCE void fill_rows(const fastxent_pass &pass, const tile<T> &rows, tile_facts<T> &facts) {
    for (int r = 0; r < tile<T>::rows; ++r) {
        if (r >= facts.count) {
            facts.loss[r] = 0.0;
        } else if (pass.labels.data && rows.label[r] < 0) {
            const int64_t row = facts.begin + r;
            facts.loss[r] = fill_row<T>(pass, row, fate_of(pass, row).filling);
        }
    }
}

template <class T>
FASTXENT_ONCE void put_rows(const fastxent_pass &pass, const tile<T> &rows,
                            const tile_facts<T> &facts) {
    T *loss = static_cast<T *>(pass.loss), *row_max = static_cast<T *>(pass.row_max);
    for (int r = 0; loss && r < facts.count; ++r)
        loss[facts.begin + r] = static_cast<T>(facts.loss[r]);
    for (int r = 0; row_max && r < facts.count; ++r)
        row_max[facts.begin + r] = static_cast<T>(facts.max[r]);
    for (int r = 0; pass.row_sum && r < facts.count; ++r)
        pass.row_sum[facts.begin + r] = rows.sum[r];
}

// `TargetOf` makes the target of a tile from the number of its first row.
template <class T, bool labelled, class TargetOf>
void by_tile(const fastxent_pass &pass, const TargetOf &target_of, double *totals) {
    const fastxent_schedule &schedule = pass.schedule;
    for_chunks(schedule.chunks, pass.threads, [&](int64_t chunk, int) {
        tile<T> rows;
        T sink[fastxent_tile_classes], soft[TargetOf::numbers * tile<T>::rows];
        const int64_t begin = chunk * schedule.chunk_rows;
        const int64_t end =
            begin + schedule.chunk_rows < pass.rows ? begin + schedule.chunk_rows : pass.rows;
        lanes<double> total = splat(0.0);
        for (int64_t row = begin; row < end; row += tile<T>::rows) {
            tile_facts<T> facts;
            facts.begin = row;
            facts.count = end - row < tile<T>::rows ? end - row : tile<T>::rows;
            facts.whole = facts.count == tile<T>::rows;
            read_labels(pass, rows, facts);
            place_rows(pass, rows, facts, sink);
            const auto target = target_of(row, facts.count, soft);
            using Target = std::decay_t<decltype(target)>;
            tile_forward<T, Target, labelled>(rows, pass.classes, target);
            finish_rows<T, Target>(pass, rows, facts);
            if (pass.grad)
                tile_close<T, Target, labelled>(rows, pass.classes, target);
            else if (pass.log_proba)
                tile_log_proba(rows, pass.classes);
            put_rows(pass, rows, facts);
            if (!facts.whole) fill_rows(pass, rows, facts);
            for (int r = 0; r < tile<T>::rows; r += lanes<double>::count)
                total = total + load<double>(facts.loss + r, whole{}, 0.0);
        }
        totals[chunk] = sum(total);
    });
}

}  // namespace
