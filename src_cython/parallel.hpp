// The one parallel loop.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

// Chunks are handed out as threads come, so that a core that is busy elsewhere delays the call by one
// chunk only; which thread takes one changes no bit of the result. With one thread OpenMP is not
// entered, which makes forked children safe.
template <class Body> void for_chunks(int64_t chunks, int threads, const Body &body) {
#ifdef _OPENMP
    if (threads > 1 && chunks > 1) {
#pragma omp parallel num_threads(threads)
        {
            const int thread = omp_get_thread_num();
#pragma omp for schedule(dynamic, 1)
            for (int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk, thread);
        }
        return;
    }
#endif
    (void)threads;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk, 0);
}

}  // namespace
