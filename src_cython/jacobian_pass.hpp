// One Jacobian product, as the Cython module describes it, and how it is cut up.
#pragma once

#include "kernels.hpp"

constexpr int fastxent_most_dims = 4;
constexpr int64_t fastxent_jacobian_tiles = 8;

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
    int64_t tiles;  // that a thread reads before it writes; 0: rows one by one
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
    // elements a chunk, as in levels.cpp; bytes of tiles that are to stay in L2
    constexpr int64_t chunk_elements = 1 << 14, tile_bytes = 1 << 16;
    const auto over = [](int64_t number, int64_t by) { return (number + by - 1) / by; };
    const int64_t item = fastxent_item_bytes(pass), lanes = item == 8 ? 8 : 16;
    const auto close = [&](const fastxent_strided &array) {
        return array.aligned && array.class_stride == item;
    };
    fastxent_jacobian_schedule plan = {0, 1, 1, over(pass.classes, fastxent_block), 1};
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
    const int64_t room = tile_bytes / (128 * pass.classes);
    const int64_t shared = pass.rows / (2 * pass.threads * lanes);  // all threads are to have some
    plan.tiles = room < fastxent_jacobian_tiles ? room : fastxent_jacobian_tiles;
    if (plan.tiles > shared) plan.tiles = shared;
    if (plan.tiles < 1) plan.tiles = 1;
    plan.chunk_rows = over(plan.chunk_rows, plan.tiles * lanes) * plan.tiles * lanes;
    plan.chunks = over(pass.rows, plan.chunk_rows);
    return plan;
}

inline int64_t fastxent_jacobian_scratch_bytes(const fastxent_jacobian &pass) {
    const fastxent_jacobian_schedule &plan = pass.schedule;
    if (plan.tiles) return 2 * 64 * plan.tiles * pass.classes * pass.threads;
    return 8 * plan.blocks * (plan.pieces > 1 ? pass.rows : pass.threads);
}
