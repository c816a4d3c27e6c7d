// libFuzzer's way in: every input is one call of a verb.
#include "any_call.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    any_call(data, size, most_when_fuzzed);
    return 0;
}
