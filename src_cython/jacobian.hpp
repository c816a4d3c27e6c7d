// The Jacobian products of softmax and its logarithm (docs/math.md has the formulas):
//
//     p * (g - sum p * g)      and      g - exp(log p) * sum g
//
// Rows of many classes that lie close are taken one by one, all others a tile at a time, a row in each
// lane. Inputs and output have any strides, each its own.
#pragma once

#include "jacobian_rows.hpp"
#include "jacobian_tile.hpp"

namespace {
namespace jacobian {

template <class S> bool product_of(const fastxent_jacobian &pass) {
    if (pass.schedule.tiles)
        return pass.is_log ? by_tile_of<S, of_log_proba>(pass) : by_tile_of<S, of_proba>(pass);
    return pass.is_log ? by_row<S, of_log_proba>(pass) : by_row<S, of_proba>(pass);
}

}  // namespace jacobian

bool softmax_backward(const fastxent_jacobian &pass) {
    bool is_done = false;
    with_written_kind(pass.out.kind, [&](auto stored) {
        is_done = jacobian::product_of<typename decltype(stored)::type>(pass);
    });
    return is_done;
}

}  // namespace
