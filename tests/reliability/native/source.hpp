// What to do, drawn from bytes: a fuzzer's, or a generator's when there are no more of them.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

class source {
    const uint8_t *at_, *end_;
    uint64_t state_ = 0xcbf29ce484222325;

    static constexpr uint64_t multiplier = 6364136223846793005, increment = 1442695040888963407;

  public:
    source(const uint8_t *data, size_t size) : at_(data), end_(data + size) {
        for (size_t i = 0; i < size; ++i) state_ = (state_ ^ data[i]) * 0x100000001b3;
    }

    uint8_t byte() {
        if (at_ < end_) return *at_++;
        state_ = state_ * multiplier + increment;
        return static_cast<uint8_t>(state_ >> 56);
    }
    uint32_t word() {
        uint32_t word = 0;
        for (int i = 0; i < 4; ++i) word = word << 8 | byte();
        return word;
    }
    // A number below `most`, which is at least 1.
    int64_t below(int64_t most) { return (most <= 256 ? byte() : word()) % most; }
    bool chance(int in) { return byte() % in == 0; }
    double between(double low, double high) { return low + (high - low) * word() / 4294967295.0; }
    template <class T> T one_of(std::initializer_list<T> choices) {
        return choices.begin()[below(static_cast<int64_t>(choices.size()))];
    }
};

// Stops the program where a result is wrong, so that a fuzzer keeps the input.
#define REQUIRE(condition, ...)                                       \
    do {                                                              \
        if (!(condition)) {                                           \
            std::fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);      \
            std::fprintf(stderr, __VA_ARGS__);                        \
            std::fprintf(stderr, " (%s is false)\n", #condition);     \
            std::abort();                                             \
        }                                                             \
    } while (0)
