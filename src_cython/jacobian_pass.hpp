// One Jacobian product, as the Cython module describes it, and how it is cut up.
#pragma once

#include "kernels.hpp"

constexpr int fastxent_most_dims = 4;
constexpr int64_t fastxent_jacobian_tiles = 4;  // that are taken together where positions lie close

// Rows of classes with any strides, in bytes. The row number counts through the leading dimensions in
// C order.
struct fastxent_strided {
    void *data;
    int dims;  // leading ones, at least one
    int64_t sizes[fastxent_most_dims], strides[fastxent_most_dims], class_stride;
    bool aligned;  // data and strides are multiples of the item's size
};

// It depends on shape and layout only, but for `pieces` and `chunk_rows`, which change no bit.
struct fastxent_jacobian_schedule {
    bool tiles;  // rows in the lanes, or one by one
    int64_t chunk_rows, chunks, blocks;
    int64_t pieces;  // of a row: more than one where threads share it
};

struct fastxent_jacobian {
    int64_t rows, classes;
    char kind;    // of the numbers: f, d, e (binary16) or b (bfloat16)
    bool is_log;  // whether `first` holds logarithms
    fastxent_strided first, grad, out;
    int threads;
    fastxent_jacobian_schedule schedule;
    void *scratch;
};

inline int64_t fastxent_item_bytes(const fastxent_jacobian &pass) {
    return pass.kind == 'f' ? 4 : pass.kind == 'd' ? 8 : 2;
}

inline fastxent_jacobian_schedule fastxent_jacobian_schedule_of(const fastxent_jacobian &pass) {
    // elements a chunk, as in levels.cpp
    constexpr int64_t chunk_elements = 1 << 14;
    const auto over = [](int64_t number, int64_t by) { return (number + by - 1) / by; };
    const int64_t item = fastxent_item_bytes(pass), lanes = item == 8 ? 8 : 16;
    const auto close = [&](const fastxent_strided &array) {
        return array.aligned && array.class_stride == item;
    };
    fastxent_jacobian_schedule plan = {false, 1, 1, over(pass.classes, fastxent_block), 1};
    plan.chunk_rows = pass.classes < chunk_elements ? chunk_elements / pass.classes : 1;
    if (pass.classes > fastxent_tile_classes && close(pass.first) && close(pass.grad) &&
        close(pass.out)) {
        plan.chunks = over(pass.rows, plan.chunk_rows);
        if (pass.threads > 1 && plan.chunks < 2 * pass.threads) {
            const int64_t most = over(pass.classes, chunk_elements);
            plan.pieces = most < 8 * pass.threads ? most : 8 * pass.threads;
        }
        return plan;
    }
    plan.tiles = true;
    // whole strips of tiles, unless some threads would have nothing to do
    const int64_t strip = fastxent_jacobian_tiles * lanes;
    const int64_t step = pass.rows < 2 * pass.threads * strip ? lanes : strip;
    plan.chunk_rows = over(plan.chunk_rows, step) * step;
    plan.chunks = over(pass.rows, plan.chunk_rows);
    return plan;
}

inline int64_t fastxent_jacobian_scratch_bytes(const fastxent_jacobian &pass) {
    const fastxent_jacobian_schedule &plan = pass.schedule;
    if (plan.tiles) return 2 * 64 * fastxent_jacobian_tiles * pass.classes * pass.threads;
    return 8 * plan.blocks * (plan.pieces > 1 ? pass.rows : pass.threads);
}
