// The Jacobian products of rows of many classes that lie close, one row after the other.
#pragma once

#include <type_traits>

#include "jacobian_products.hpp"
#include "parallel.hpp"
#include "row.hpp"

namespace {
namespace jacobian {

// With `ahead` the lines of later rows are fetched, as in row.hpp.
template <class S, class Product, bool ahead>
FASTXENT_ONCE double block_sum(const S *first, const S *grad, int64_t n) {
    using T = compute_of<S>;
    chains<T> total(T(0));
    for_lanes<T>(n, [&](int64_t k, auto some, int chain) __attribute__((always_inline)) {
        if constexpr (ahead) {
            __builtin_prefetch(first + k + fastxent_block, 0, 2);
            __builtin_prefetch(grad + k + fastxent_block, 0, 2);
        }
        lanes<T> of_first = splat(T(0));
        if constexpr (std::is_same_v<Product, of_proba>)
            of_first = read_lanes(first + k, some, T(0));
        total.of[chain] =
            Product::plus(total.of[chain], of_first, read_lanes(grad + k, some, T(0)));
    });
    return sum(total.sum());
}

template <class S, class Product>
FASTXENT_ONCE void close_classes(const S *first, const S *grad, S *out, double sum, int64_t n) {
    using T = compute_of<S>;
    const lanes<T> sums = splat(static_cast<T>(sum));
    for_lanes<T>(n, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
        // beside exponentials it is no gain
        if constexpr (std::is_same_v<Product, of_proba>)
            __builtin_prefetch(out + k + fastxent_block, 1, 2);
        const lanes<T> p = read_lanes(first + k, some, T(0)), g = read_lanes(grad + k, some, T(0));
        write_lanes(out + k, Product::closed(p, g, sums), some);
    });
}

// The sums of a row's blocks from block `from` up to `to`.
template <class S, class Product>
FASTXENT_INLINE void sum_blocks(const fastxent_jacobian &pass, const S *first, const S *grad,
                                double *sums, int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b) {
        const int64_t begin = b * fastxent_block;
        const int64_t n = block_length(begin, pass.classes);
        if (pass.classes <= fastxent_block)
            sums[b] = block_sum<S, Product, true>(first, grad, n);
        else
            sums[b] = block_sum<S, Product, false>(first + begin, grad + begin, n);
    }
}

FASTXENT_INLINE double merged(const double *sums, int64_t count) {
    long_sum<double> all = {0.0, 0.0};
    for (int64_t b = 0; b < count; ++b) all.add(sums[b]);
    return value_of(all);
}

// An item is a piece of a row, or some whole rows; the sums of all pieces are known before any is
// closed.
template <class S, class Product> bool by_row(const fastxent_jacobian &pass) {
    const fastxent_jacobian_schedule &plan = pass.schedule;
    const int64_t count = plan.blocks, piece_blocks = (count + plan.pieces - 1) / plan.pieces;
    double *scratch = static_cast<double *>(pass.scratch);
    const auto with_row = [&](int64_t row, const auto &body) __attribute__((always_inline)) {
        body(reinterpret_cast<const S *>(row_of(pass.first, row)),
             reinterpret_cast<const S *>(row_of(pass.grad, row)),
             reinterpret_cast<S *>(row_of(pass.out, row)));
    };
    if (plan.pieces == 1) {
        const chunk_loop loop = {plan.chunks, plan.chunk_rows * pass.classes, pass.threads, pass.watch};
        return for_chunks(loop, [&](int64_t chunk, int thread) {
            double *sums = scratch + thread * count;
            const int64_t begin = chunk * plan.chunk_rows, to = begin + plan.chunk_rows;
            for (int64_t row = begin; row < (to < pass.rows ? to : pass.rows); ++row)
                with_row(row, [&](const S *first, const S *grad, S *out) {
                    sum_blocks<S, Product>(pass, first, grad, sums, 0, count);
                    close_classes<S, Product>(first, grad, out, merged(sums, count), pass.classes);
                });
        });
    }
    const chunk_loop loop = {pass.rows * plan.pieces, piece_blocks * fastxent_block, pass.threads,
                             pass.watch};
    const auto for_pieces_of_rows = [&](const auto &body) {
        return for_chunks(loop, [&](int64_t item, int) {
            const int64_t row = item / plan.pieces;
            const int64_t from = item % plan.pieces * piece_blocks, to = from + piece_blocks;
            if (from < count) body(row, from, to < count ? to : count);
        });
    };
    const bool is_summed = for_pieces_of_rows([&](int64_t row, int64_t from, int64_t to) {
        with_row(row, [&](const S *first, const S *grad, S *) {
            sum_blocks<S, Product>(pass, first, grad, scratch + row * count, from, to);
        });
    });
    return is_summed && for_pieces_of_rows([&](int64_t row, int64_t from, int64_t to) {
        with_row(row, [&](const S *first, const S *grad, S *out) {
            const int64_t begin = from * fastxent_block, end = to * fastxent_block;
            const int64_t n = (end < pass.classes ? end : pass.classes) - begin;
            close_classes<S, Product>(first + begin, grad + begin, out + begin,
                                      merged(scratch + row * count, count), n);
        });
    });
}

}  // namespace jacobian
}  // namespace
