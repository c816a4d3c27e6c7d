// The Jacobian products of softmax and its logarithm (docs/math.md has the formulas):
//
//     p * (g - sum p * g)      and      g - exp(log p) * sum g
//
// Rows of many classes that lie close are taken one by one, all others a tile at a time, a row in each
// lane. Inputs and output have any strides, each its own.
#pragma once

#include <type_traits>

#include "jacobian_numbers.hpp"
#include "jacobian_pass.hpp"
#include "parallel.hpp"
#include "row.hpp"
#include "tile.hpp"

namespace {
namespace jacobian {

// Added up in one go where rows lie in the lanes: a tile of the most classes is one such run.
constexpr int64_t run_classes = 128;
static_assert(run_classes >= fastxent_tile_classes);
// Tiles of which a thread reads all before it writes any, where positions lie close.
constexpr int64_t most_tiles = fastxent_jacobian_tiles;

// exp of x <= 0, and of what rounding may have put above: valid up to where the result overflows.
template <class T> FASTXENT_INLINE lanes<T> exp_of_log_proba(const lanes<T> &x) {
    constexpr T top = sizeof(T) == 4 ? T(89) : T(710);  // 2^k is infinite there
    return exp_of_negative(each<T>([&](int p) {
        const typename machine<T>::vector most = top - typename machine<T>::vector{};
        return most < x.part[p] ? most : x.part[p];
    }));
}

// The two products: what of each class is summed, and what becomes of it.
struct of_proba {
    template <class T>
    static FASTXENT_INLINE lanes<T> summed(const lanes<T> &p, const lanes<T> &g) {
        return p * g;
    }
    template <class T>
    static FASTXENT_INLINE lanes<T> plus(const lanes<T> &sum, const lanes<T> &p, const lanes<T> &g) {
        return fma(p, g, sum);
    }
    template <class T>
    static FASTXENT_INLINE lanes<T> closed(const lanes<T> &p, const lanes<T> &g, const lanes<T> &sum) {
        return p * (g - sum);
    }
};

struct of_log_proba {
    template <class T>
    static FASTXENT_INLINE lanes<T> summed(const lanes<T> &, const lanes<T> &g) {
        return g;
    }
    template <class T>
    static FASTXENT_INLINE lanes<T> plus(const lanes<T> &sum, const lanes<T> &, const lanes<T> &g) {
        return sum + g;
    }
    template <class T>
    static FASTXENT_INLINE lanes<T> closed(const lanes<T> &log_p, const lanes<T> &g,
                                           const lanes<T> &sum) {
        return fma(exp_of_log_proba(log_p), splat(T(0)) - sum, g);
    }
};

// Bytes from the array's beginning to `count` rows from `row` on.
FASTXENT_INLINE void offsets_of(const fastxent_strided &array, int64_t row, int64_t count,
                                int64_t *offsets) {
    const int last = array.dims - 1;
    int64_t place[fastxent_most_dims] = {}, offset = 0;
    for (int d = last; d > 0; --d) {
        place[d] = row % array.sizes[d];
        row /= array.sizes[d];
        offset += place[d] * array.strides[d];
    }
    offset += row * array.strides[0];
    for (int64_t r = 0; r < count; ++r) {
        offsets[r] = offset;
        offset += array.strides[last];
        for (int d = last; d > 0 && ++place[d] == array.sizes[d]; --d) {
            offset += array.strides[d - 1] - array.sizes[d] * array.strides[d];
            place[d] = 0;
        }
    }
}

FASTXENT_INLINE char *row_at(const fastxent_strided &array, int64_t row) {
    int64_t offset;
    offsets_of(array, row, 1, &offset);
    return static_cast<char *>(array.data) + offset;
}

// --- rows of many classes, which lie close

template <class S, class Product>
FASTXENT_ONCE double block_sum(const S *first, const S *grad, int64_t n) {
    using T = typename compute_of<S>::type;
    chains<T> total(T(0));
    for_lanes<T>(n, [&](int64_t k, auto some, int chain) __attribute__((always_inline)) {
        lanes<T> of_first = splat(T(0));
        if constexpr (std::is_same_v<Product, of_proba>) of_first = read(first + k, some);
        total.of[chain] = Product::plus(total.of[chain], of_first, read(grad + k, some));
    });
    return sum(total.sum());
}

template <class S, class Product>
FASTXENT_ONCE void close_classes(const S *first, const S *grad, S *out, double sum, int64_t n) {
    using T = typename compute_of<S>::type;
    const lanes<T> sums = splat(static_cast<T>(sum));
    for_lanes<T>(n, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
        write(out + k, Product::closed(read(first + k, some), read(grad + k, some), sums), some);
    });
}

// The sums of a row's blocks from block `from` up to `to`.
template <class S, class Product>
FASTXENT_INLINE void sum_blocks(const fastxent_jacobian &pass, const S *first, const S *grad,
                                double *sums, int64_t from, int64_t to) {
    for (int64_t b = from; b < to; ++b) {
        const int64_t begin = b * fastxent_block;
        sums[b] = block_sum<S, Product>(first + begin, grad + begin,
                                        block_length(begin, pass.classes));
    }
}

FASTXENT_INLINE double merged(const double *sums, int64_t count) {
    long_sum<double> all = {0.0, 0.0};
    for (int64_t b = 0; b < count; ++b) all.add(sums[b]);
    return value_of(all);
}

// An item is a piece of a row, or some whole rows; the sums of all pieces are known before any is
// closed.
template <class S, class Product> void by_row(const fastxent_jacobian &pass) {
    const fastxent_jacobian_schedule &plan = pass.schedule;
    const int64_t count = plan.blocks, piece_blocks = (count + plan.pieces - 1) / plan.pieces;
    double *scratch = static_cast<double *>(pass.scratch);
    const auto with_row = [&](int64_t row, const auto &body) __attribute__((always_inline)) {
        body(reinterpret_cast<const S *>(row_at(pass.first, row)),
             reinterpret_cast<const S *>(row_at(pass.grad, row)),
             reinterpret_cast<S *>(row_at(pass.out, row)));
    };
    if (plan.pieces == 1) {
        for_chunks(plan.chunks, pass.threads, [&](int64_t chunk, int thread) {
            double *sums = scratch + thread * count;
            const int64_t begin = chunk * plan.chunk_rows, to = begin + plan.chunk_rows;
            for (int64_t row = begin; row < (to < pass.rows ? to : pass.rows); ++row)
                with_row(row, [&](const S *first, const S *grad, S *out) {
                    sum_blocks<S, Product>(pass, first, grad, sums, 0, count);
                    close_classes<S, Product>(first, grad, out, merged(sums, count), pass.classes);
                });
        });
        return;
    }
    const auto for_pieces_of_rows = [&](const auto &body) {
        for_chunks(pass.rows * plan.pieces, pass.threads, [&](int64_t item, int) {
            const int64_t row = item / plan.pieces;
            const int64_t from = item % plan.pieces * piece_blocks, to = from + piece_blocks;
            if (from < count) body(row, from, to < count ? to : count);
        });
    };
    for_pieces_of_rows([&](int64_t row, int64_t from, int64_t to) {
        with_row(row, [&](const S *first, const S *grad, S *) {
            sum_blocks<S, Product>(pass, first, grad, scratch + row * count, from, to);
        });
    });
    for_pieces_of_rows([&](int64_t row, int64_t from, int64_t to) {
        with_row(row, [&](const S *first, const S *grad, S *out) {
            const int64_t begin = from * fastxent_block, end = to * fastxent_block;
            const int64_t n = (end < pass.classes ? end : pass.classes) - begin;
            close_classes<S, Product>(first + begin, grad + begin, out + begin,
                                      merged(scratch + row * count, count), n);
        });
    });
}

// --- rows in the lanes: numbers[k * rows + r] is class k of row r, in the compute type

// The way between a tile and an array: lanes as they lie, rows that are transposed, or one by one.
enum class way { positions, classes, any };

template <class S>
FASTXENT_INLINE way way_of(const fastxent_strided &array, const int64_t *offsets, int64_t count,
                           int64_t classes) {
    constexpr int64_t size = sizeof(S);
    if (!array.aligned) return way::any;
    bool close = count % lanes<typename compute_of<S>::type>::count == 0;
    for (int64_t r = 1; close && r < count; ++r) close = offsets[r] == offsets[0] + r * size;
    if (close) return way::positions;
    return array.class_stride == size && classes <= fastxent_tile_classes ? way::classes : way::any;
}

// Rows that lie close, up to a whole tile of them; lanes without a row repeat the first.
template <class S, class T>
FASTXENT_ONCE void load_rows(const char *data, const int64_t *offsets, int64_t count,
                             int64_t classes, T *numbers) {
    constexpr int rows = lanes<T>::count;
    const T *from[rows];
    T widened[is_half<S> ? rows * fastxent_tile_classes : 1];
    for (int r = 0; r < rows; ++r) {
        const S *row = reinterpret_cast<const S *>(data + offsets[r < count ? r : 0]);
        if constexpr (is_half<S>) {
            T *own = widened + r * fastxent_tile_classes;
            for_lanes<T>(classes, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
                store(own + k, read(row + k, some), some);
            });
            from[r] = own;
        } else {
            from[r] = row;
        }
    }
    gather(from, classes, numbers);
}

template <class S, class T>
FASTXENT_ONCE void store_rows(char *data, const int64_t *offsets, int64_t count, int64_t classes,
                              const T *numbers) {
    constexpr int rows = lanes<T>::count;
    T *to[rows], sink[fastxent_tile_classes];
    T narrow[is_half<S> ? rows * fastxent_tile_classes : 1];
    for (int r = 0; r < rows; ++r) {
        to[r] = sink;
        if constexpr (is_half<S>)
            to[r] = narrow + r * fastxent_tile_classes;
        else if (r < count)
            to[r] = reinterpret_cast<S *>(data + offsets[r]);
    }
    for_pieces<T>(classes, [&](int64_t k, auto n) __attribute__((always_inline)) {
        lanes<T> piece[n.value];
#pragma GCC unroll 4
        for (int j = 0; j < n.value; ++j) piece[j] = load(numbers + (k + j) * rows);
        store_classes<T, n.value>(to, k, piece);
    });
    if constexpr (is_half<S>)
        for (int64_t r = 0; r < count; ++r) {
            S *row = reinterpret_cast<S *>(data + offsets[r]);
            for_lanes<T>(classes, [&](int64_t k, auto some, int) __attribute__((always_inline)) {
                write(row + k, load<T>(to[r] + k, some, T(0)), some);
            });
        }
}

// From or to an array, `count` rows, tile after tile, each of `classes` lanes.
template <bool reading, class S, class T>
FASTXENT_ONCE void move(const fastxent_strided &array, int64_t row, int64_t count, int64_t classes,
                        T *numbers) {
    constexpr int64_t rows = lanes<T>::count;
    int64_t all[most_tiles * rows];
    char *data = static_cast<char *>(array.data);
    offsets_of(array, row, count, all);
    // positions that all lie close are taken class after class, which is how they lie in memory
    int64_t at_once = way_of<S>(array, all, count, classes) == way::positions ? count : rows;
    for (int64_t begin = 0; begin < count; begin += at_once) {
        const int64_t *offsets = all + begin;
        const int64_t some = at_once < count - begin ? at_once : count - begin;
        T *tiles = numbers + begin * classes;
        const way here = way_of<S>(array, offsets, some, classes);
        if (here == way::positions) {
            for (int64_t k = 0; k < classes; ++k)
                for (int64_t r = 0; r < some; r += rows) {
                    S *lane = reinterpret_cast<S *>(data + offsets[0] + k * array.class_stride) + r;
                    T *number = tiles + r * classes + k * rows;
                    if constexpr (reading)
                        store(number, read(lane, whole{}));
                    else
                        write(lane, load(number), whole{});
                }
        } else if (here == way::classes) {
            if constexpr (reading)
                load_rows<S>(data, offsets, some, classes, tiles);
            else
                store_rows<S>(data, offsets, some, classes, tiles);
        } else {
            for (int64_t k = 0; k < classes; ++k) {
                S stored[rows] = {};
                char *class_data = data + k * array.class_stride;
                if constexpr (!reading) write(stored, load(tiles + k * rows), whole{});
                for (int64_t r = 0; r < some; ++r) {
                    if constexpr (reading)
                        __builtin_memcpy(stored + r, class_data + offsets[r], sizeof(S));
                    else
                        __builtin_memcpy(class_data + offsets[r], stored + r, sizeof(S));
                }
                if constexpr (reading) store(tiles + k * rows, read(stored, whole{}));
            }
        }
    }
}

// The products of a tile, over `grad`.
template <class T, class Product>
FASTXENT_ONCE void tile_product(const T *first, T *grad, int64_t classes) {
    constexpr int rows = lanes<T>::count;
    long_sum<lanes<double>> all[wide<T>::parts];
    for (auto &one : all) one = {splat(0.0), splat(0.0)};
    for (int64_t begin = 0; begin < classes; begin += run_classes) {
        const int64_t end = begin + run_classes < classes ? begin + run_classes : classes;
        wide<T> run = splat_wide<T>(0.0);
        for (int64_t k = begin; k < end; ++k)
            add(run, Product::summed(load(first + k * rows), load(grad + k * rows)));
        for (int i = 0; i < wide<T>::parts; ++i) all[i].add(run.of[i]);
    }
    const lanes<T> sums = narrowed(each_wide<T>([&](int i) {
        // as value_of: the rest of an infinite sum is NaN
        const lanes<double> total = all[i].total;
        return where_equal(total - total, splat(0.0), total + all[i].rest, total);
    }));
    for (int64_t k = 0; k < classes; ++k)
        store(grad + k * rows, Product::closed(load(first + k * rows), load(grad + k * rows), sums));
}

template <class S, class Product> void by_tile_of(const fastxent_jacobian &pass) {
    using T = typename compute_of<S>::type;
    constexpr int64_t rows = lanes<T>::count;
    const fastxent_jacobian_schedule &plan = pass.schedule;
    const int64_t strip = plan.tiles * rows;
    for_chunks(plan.chunks, pass.threads, [&](int64_t chunk, int thread) {
        T *first = static_cast<T *>(pass.scratch) + 2 * thread * strip * pass.classes;
        T *grad = first + strip * pass.classes;
        const int64_t begin = chunk * plan.chunk_rows, to = begin + plan.chunk_rows;
        const int64_t end = to < pass.rows ? to : pass.rows;
        for (int64_t row = begin; row < end; row += strip) {
            const int64_t count = strip < end - row ? strip : end - row;
            move<true, S>(pass.first, row, count, pass.classes, first);
            move<true, S>(pass.grad, row, count, pass.classes, grad);
            for (int64_t r = 0; r < count; r += rows)
                tile_product<T, Product>(first + r * pass.classes, grad + r * pass.classes,
                                         pass.classes);
            move<false, S>(pass.out, row, count, pass.classes, grad);
        }
    });
}

template <class S> void product_of(const fastxent_jacobian &pass) {
    if (pass.schedule.tiles)
        pass.is_log ? by_tile_of<S, of_log_proba>(pass) : by_tile_of<S, of_proba>(pass);
    else
        pass.is_log ? by_row<S, of_log_proba>(pass) : by_row<S, of_proba>(pass);
}

}  // namespace jacobian

void softmax_backward(const fastxent_jacobian &pass) {
    switch (pass.kind) {
    case 'f': return jacobian::product_of<float>(pass);
    case 'd': return jacobian::product_of<double>(pass);
    case 'e': return jacobian::product_of<jacobian::float16>(pass);
    default: return jacobian::product_of<jacobian::bfloat16>(pass);
    }
}

}  // namespace
