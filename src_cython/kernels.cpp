// The verbs, compiled once per instruction level with that level's flags.
#include <type_traits>
#include <utility>

#include "binary.hpp"
#include "by_row.hpp"
#include "by_shard.hpp"
#include "by_tile.hpp"
#include "jacobian.hpp"

#define FASTXENT_JOIN_(a, b) a##b
#define FASTXENT_JOIN(a, b) FASTXENT_JOIN_(a, b)
#define FASTXENT_QUOTE_(a) #a
#define FASTXENT_QUOTE(a) FASTXENT_QUOTE_(a)

namespace {

// The targets of one pass: of a row, with room for a block of masses, and of a tile.

struct plain_targets {
    template <class T> only_on_label of_row(int64_t, T *) const { return {}; }
    template <class T> only_on_label of_tile(const tile<T> &) const { return {}; }
};

template <class T> struct background_targets {
    const T *background;
    int64_t step;
    explicit background_targets(const fastxent_pass &pass)
        : background(static_cast<const T *>(pass.background)), step(pass.background_step) {}
    on_background<T> of_row(int64_t, T *) const { return {background, step}; }
    tile_on_background<T> of_tile(const tile<T> &) const { return {background, step}; }
};

template <class T> struct constant_targets {
    const T *background;
    explicit constant_targets(const fastxent_pass &pass)
        : background(static_cast<const T *>(pass.background)) {}
    on_constant<T> of_row(int64_t, T *) const {
        return {background, load<T>(background, whole{}, T(0))};
    }
    tile_on_background<T> of_tile(const tile<T> &) const { return {background, 0}; }
};

template <class T> struct soft_targets {
    const fastxent_pass &pass;
    on_soft<T> of_row(int64_t row, T *masses) const {
        return {pass, row_of(pass.soft, row), masses};
    }
    tile_on_soft<T> of_tile(const tile<T> &rows) const { return {rows.masses}; }
};

template <class T, bool labelled, class Targets>
bool forward_with(const fastxent_pass &pass, const Targets &targets) {
    const fastxent_schedule &schedule = pass.schedule;
    double *totals = reinterpret_cast<double *>(
        pass.scratch + schedule.thread_bytes * pass.threads + schedule.shared_bytes);
    const bool is_done = schedule.tiles        ? by_tile<T, labelled>(pass, targets, totals)
                         : schedule.pieces > 1 ? by_shared_row<T>(pass, targets, totals)
                                               : by_whole_row<T>(pass, targets, totals);
    if (is_done && pass.total) *pass.total = sum_of(totals, schedule.chunks);
    return is_done;
}

// Calls body(targets, whether rows may have labels).
template <class T, class Body> bool with_targets(const fastxent_pass &pass, const Body &body) {
    if (pass.soft.data) return body(soft_targets<T>{pass}, std::false_type{});
    if (pass.background && !pass.background_step)
        return body(constant_targets<T>(pass), std::true_type{});
    if (pass.background) return body(background_targets<T>(pass), std::true_type{});
    return body(plain_targets{}, std::true_type{});
}

template <class T> bool forward_of(const fastxent_pass &pass) {
    return with_targets<T>(pass, [&](const auto &targets, auto labelled) {
        return forward_with<T, decltype(labelled)::value>(pass, targets);
    });
}

bool forward(const fastxent_pass &pass) {
    return pass.size == 4 ? forward_of<float>(pass) : forward_of<double>(pass);
}

template <class T> bool partial_of(const fastxent_shard &shard) {
    return with_targets<T>(
        shard.pass, [&](const auto &targets, auto) { return partial_with<T>(shard, targets); });
}

bool partial(const fastxent_shard &shard) {
    return shard.pass.size == 4 ? partial_of<float>(shard) : partial_of<double>(shard);
}

bool merge_parts(const fastxent_shard &shard) {
    return shard.pass.size == 4 ? merge_of<float>(shard) : merge_of<double>(shard);
}

template <class T> bool partial_backward_of(const fastxent_shard &shard) {
    return with_targets<T>(shard.pass, [&](const auto &targets, auto) {
        return partial_backward_with<T>(shard, targets);
    });
}

bool partial_backward(const fastxent_shard &shard) {
    return shard.pass.size == 4 ? partial_backward_of<float>(shard) : partial_backward_of<double>(shard);
}

}  // namespace

extern const fastxent_level FASTXENT_JOIN(fastxent_level_, FASTXENT_LEVEL);
const fastxent_level FASTXENT_JOIN(fastxent_level_, FASTXENT_LEVEL) = {
    FASTXENT_QUOTE(FASTXENT_LEVEL), check_labels, forward, binary, softmax_backward,
    partial, merge_parts, partial_backward};
