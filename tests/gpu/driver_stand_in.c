/* What stands for NVIDIA's driver where there is none: device memory is the host's, and every call
 * that matters is told on standard output. Stream 0x77 is one that is captured, and a launch on 0x66
 * fails. The first device has memory pools, the second one has none. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    NOT_READY = 600,
    LAUNCH_FAILED = 719
};

static void *const others = (void *)0x9000; /* context of another library */
static void *current = (void *)0x9000;
static int capture_mode = 0, is_past = 1;

#define TELL(...) (printf(__VA_ARGS__), putchar('\n'), fflush(stdout))

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { return *version = 99000, 0; }
int cuDeviceGetCount(int *count) { return *count = 2, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = 40 + ordinal, 0; }

int cuDeviceGetName(char *name, int length, int device) {
    return snprintf(name, length, "Card %d", device), 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 9 : attribute == 76 ? 0 : attribute == 16 ? 132 : -1;
    if (attribute == 115)
        *value = device == 40;
    return 0;
}

int cuDevicePrimaryCtxRetain(void **context, int device) {
    return *context = (void *)(uintptr_t)(0x100 * device), 0;
}

int cuCtxGetCurrent(void **context) { return *context = current, 0; }

int cuCtxPushCurrent_v2(void *context) {
    TELL("within %p", context);
    return current = context, 0;
}

int cuCtxPopCurrent_v2(void **context) {
    *context = current;
    current = others;
    return 0;
}

int cuThreadExchangeStreamCaptureMode(int *mode) {
    int before = capture_mode;
    capture_mode = *mode;
    return *mode = before, 0;
}

int cuMemAlloc_v2(uint64_t *address, size_t size) {
    TELL("allocate %zu in mode %d", size, capture_mode);
    if (size > 1000000)
        return OUT_OF_MEMORY;
    return *address = (uint64_t)(uintptr_t)malloc(size), 0;
}

int cuMemAllocAsync(uint64_t *address, size_t size, void *stream) {
    TELL("allocate %zu on %p in mode %d", size, stream, capture_mode);
    return *address = (uint64_t)(uintptr_t)malloc(size), 0;
}

int cuMemFreeAsync(uint64_t address, void *stream) {
    TELL("free on %p in mode %d", stream, capture_mode);
    return free((void *)(uintptr_t)address), 0;
}

int cuPointerGetAttribute(void *value, int attribute, uint64_t address) {
    if (attribute != 9 || address < 0x1000)
        return INVALID_VALUE;
    return *(int *)value = 1, 0;
}

int cuMemFree_v2(uint64_t address) {
    TELL("free in mode %d", capture_mode);
    return free((void *)(uintptr_t)address), 0;
}

int cuMemcpyHtoDAsync_v2(uint64_t address, const void *source, size_t size, void *stream) {
    TELL("upload %zu on %p", size, stream);
    return memcpy((void *)(uintptr_t)address, source, size), 0;
}

int cuMemcpyDtoHAsync_v2(void *target, uint64_t address, size_t size, void *stream) {
    TELL("download %zu on %p", size, stream);
    return memcpy(target, (void *)(uintptr_t)address, size), 0;
}

int cuStreamSynchronize(void *stream) { return TELL("synchronize %p", stream), 0; }

int cuStreamIsCapturing(void *stream, int *status) {
    *status = stream == (void *)0x77;
    return current == others ? INVALID_CONTEXT : 0;
}

int cuEventCreate(void **event, unsigned flags) { return *event = (void *)0x55, 0; }
int cuEventQuery(void *event) { return TELL("query in mode %d", capture_mode), NOT_READY * !is_past; }
int cuEventSynchronize(void *event) { return TELL("wait on the host in mode %d", capture_mode), 0; }
int stand_in_is_past(int now) { return is_past = now; }
int cuEventRecord(void *event, void *stream) { return TELL("record on %p", stream), 0; }

int cuStreamWaitEvent(void *stream, void *event, unsigned flags) {
    return TELL("wait on %p for %p", stream, event), 0;
}

int cuEventDestroy_v2(void *event) { return TELL("destroy %p", event), 0; }

int cuModuleLoadData(void **module, const void *image) {
    TELL("load %.9s in mode %d", (const char *)image, capture_mode);
    return *module = (void *)0x2000, 0;
}

int cuModuleGetFunction(void **function, void *module, const char *name) {
    TELL("function %s", name);
    return strcmp(name, "fastxent_missing") ? (*function = (void *)0x3000, 0) : NOT_FOUND;
}

int cuFuncSetAttribute(void *function, int attribute, int value) {
    return TELL("attribute %d is %d", attribute, value), 0;
}

int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                   unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                   void *stream, void **parameters, void **extra) {
    const int64_t *words = extra[1];
    TELL("launch %p of %u %u %u x %u %u %u, shared %u, on %p: %zu bytes, %lld %lld", function,
         grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, *(size_t *)extra[3],
         (long long)words[0], (long long)words[1]);
    return stream == (void *)0x66 ? LAUNCH_FAILED : 0;
}

int cuGetErrorString(int code, const char **text) {
    return *text = code == NOT_FOUND ? "named symbol not found" : "another error", 0;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags,
                        int *status) {
    char versioned[200];
    snprintf(versioned, sizeof versioned, "%s_v2", name);
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    *function = dlsym(library, versioned);
    if (*function == NULL)
        *function = dlsym(library, name);
    if (status != NULL)
        *status = *function == NULL;
    return *function == NULL ? NOT_FOUND : 0;
}

int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
