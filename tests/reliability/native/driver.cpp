// Calls drawn from a seed, or from files that a fuzzer has left, one after the other.
//
//     driver COUNT SEED MOST_ELEMENTS      driver --files FILE...      driver --planted WHAT
#include "any_call.hpp"
#include "planted.hpp"

namespace {

std::vector<uint8_t> content_of(const char *path) {
    std::FILE *file = std::fopen(path, "rb");
    REQUIRE(file, "%s cannot be read", path);
    std::vector<uint8_t> bytes(1 << 20);
    bytes.resize(std::fread(bytes.data(), 1, bytes.size(), file));
    std::fclose(file);
    return bytes;
}

// Numbers in a row have nothing in common after it (S. Vigna's splitmix64).
uint64_t mixed(uint64_t number) {
    number += 0x9e3779b97f4a7c15;
    number = (number ^ number >> 30) * 0xbf58476d1ce4e5b9;
    number = (number ^ number >> 27) * 0x94d049bb133111eb;
    return number ^ number >> 31;
}

}  // namespace

int main(int count, char **words) {
    if (count == 3 && std::strcmp(words[1], "--planted") == 0) return planted(words[2]);
    if (count > 2 && std::strcmp(words[1], "--files") == 0) {
        for (int i = 2; i < count; ++i) {
            const std::vector<uint8_t> bytes = content_of(words[i]);
            std::fprintf(stderr, "%s\n", words[i]);
            any_call(bytes.data(), bytes.size(), most_when_fuzzed);
        }
        return 0;
    }
    REQUIRE(count == 4, "usage: driver COUNT SEED MOST_ELEMENTS | --files FILE... | --planted WHAT");
    const long long calls = std::atoll(words[1]);
    for (long long i = 0; i < calls; ++i) {
        const uint64_t number = mixed(mixed(std::strtoull(words[2], nullptr, 10)) + static_cast<uint64_t>(i));
        uint8_t bytes[8];
        std::memcpy(bytes, &number, 8);
        if (std::getenv("DRIVER_TELLS")) std::fprintf(stderr, "call %lld\n", i);
        any_call(bytes, 8, std::atoll(words[3]));
    }
    std::printf("%lld calls\n", calls);
}
