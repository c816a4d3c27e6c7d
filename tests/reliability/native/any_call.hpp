// Any verb, as the bytes say. A program has one level: that with whose flags kernels.cpp was compiled.
#pragma once

#include "binary_call.hpp"
#include "check_rows.hpp"
#include "jacobian_call.hpp"
#include "shard_call.hpp"

constexpr int64_t most_when_fuzzed = 4200;

inline void any_call(const uint8_t *data, size_t size, int64_t most) {
    source from(data, size);
    const fastxent_level &level = *fastxent_levels[0];
    switch (from.below(8)) {
    case 0: return check_binary(from, level, most);
    case 1: return check_jacobian(from, level, most);
    case 2: return check_shards(from, level, most);
    case 3: return check_labels(from, level, most);
    default: check_rows(from, level, most);
    }
}
