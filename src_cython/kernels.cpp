// The verbs, compiled once per instruction level with that level's flags.
#include <type_traits>

#include "by_row.hpp"
#include "by_tile.hpp"
#include "jacobian.hpp"

#define FASTXENT_JOIN_(a, b) a##b
#define FASTXENT_JOIN(a, b) FASTXENT_JOIN_(a, b)
#define FASTXENT_QUOTE_(a) #a
#define FASTXENT_QUOTE(a) FASTXENT_QUOTE_(a)

namespace {

// The targets of one pass: for a row, or for a tile with its own copy of the probabilities.

template <class T> struct plain_targets {
    static constexpr int numbers = 1;
    only_on_label operator()(int64_t) const { return {}; }
    only_on_label operator()(int64_t, int64_t, T *) const { return {}; }
};

template <class T> struct background_targets {
    static constexpr int numbers = 1;
    const fastxent_pass &pass;
    const T *background() const { return static_cast<const T *>(pass.background); }
    on_background<T> operator()(int64_t) const { return {background(), pass.background_step}; }
    tile_on_background<T> operator()(int64_t, int64_t, T *) const {
        return {background(), pass.background_step};
    }
};

// Probabilities of rows, as they are stored, or gathered into a tile; rows that the last tile lacks
// repeat its first.
template <class T, class S> struct soft_rows {
    static constexpr int numbers = fastxent_tile_classes;
    const fastxent_pass &pass;
    const S *of(int64_t row) const {
        return static_cast<const S *>(pass.soft) + row * pass.soft_stride;
    }
    void fill(int64_t row, int64_t count, T *tile_numbers) const {
        const S *rows[lanes<T>::count];
        for (int64_t r = 0; r < lanes<T>::count; ++r) rows[r] = of(r < count ? row + r : row);
        gather(rows, pass.classes, tile_numbers);
    }
};

template <class T, class S> struct soft_targets : soft_rows<T, S> {
    on_soft<T, S> operator()(int64_t row) const { return {this->of(row)}; }
    tile_on_soft<T> operator()(int64_t row, int64_t count, T *numbers) const {
        this->fill(row, count, numbers);
        return {numbers};
    }
};

template <class T, class S> struct weighted_soft_targets : soft_rows<T, S> {
    const T *gain() const { return static_cast<const T *>(this->pass.gain); }
    const T *background() const { return static_cast<const T *>(this->pass.background); }
    on_weighted_soft<T, S> operator()(int64_t row) const {
        return {this->of(row), gain(), background(), this->pass.gain_step,
                this->pass.background_step};
    }
    tile_on_weighted_soft<T> operator()(int64_t row, int64_t count, T *numbers) const {
        this->fill(row, count, numbers);
        return {numbers, gain(), background(), this->pass.gain_step, this->pass.background_step};
    }
};

template <class T, bool labelled, class Targets>
void forward_with(const fastxent_pass &pass, const Targets &targets) {
    const fastxent_schedule &schedule = pass.schedule;
    double *totals = static_cast<double *>(pass.scratch);
    fastxent_pass rest = pass;
    rest.scratch = totals + schedule.chunks;
    if (schedule.tiles)
        by_tile<T, labelled>(rest, targets, totals);
    else if (schedule.pieces > 1)
        by_shared_row<T>(rest, targets, totals);
    else
        by_whole_row<T>(rest, targets, totals);
    if (!pass.total) return;
    long_sum<double> total = {0.0, 0.0};
    for (int64_t chunk = 0; chunk < schedule.chunks; ++chunk) total.add(totals[chunk]);
    *pass.total = value_of(total);
}

template <class T, class S> void forward_soft(const fastxent_pass &pass) {
    if (pass.gain)
        forward_with<T, false>(pass, weighted_soft_targets<T, S>{{pass}});
    else
        forward_with<T, false>(pass, soft_targets<T, S>{{pass}});
}

template <class T> void forward_of(const fastxent_pass &pass) {
    if (pass.soft) {
        if (pass.soft_size == 1) return forward_soft<T, uint8_t>(pass);
        if (pass.soft_size == 4) return forward_soft<T, float>(pass);
        return forward_soft<T, double>(pass);
    }
    if (pass.background) return forward_with<T, true>(pass, background_targets<T>{pass});
    forward_with<T, true>(pass, plain_targets<T>{});
}

void forward(const fastxent_pass &pass) {
    pass.size == 4 ? forward_of<float>(pass) : forward_of<double>(pass);
}

}  // namespace

extern const fastxent_level FASTXENT_JOIN(fastxent_level_, FASTXENT_LEVEL);
const fastxent_level FASTXENT_JOIN(fastxent_level_, FASTXENT_LEVEL) = {
    FASTXENT_QUOTE(FASTXENT_LEVEL), check_labels, forward, softmax_backward};
