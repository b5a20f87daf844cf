#include "tests/cuda_emulator/report.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/cuda_emulator/block.h"

namespace emulator
{
static thread_local cudaError_t last_error;

void fail(const char *format, ...)
{
    char place[256];
    va_list arguments;

    fflush(stdout);
    describe_place(place, sizeof(place));
    fprintf(stderr, "CUDA emulator: %s", place);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, " (IBOT_EMULATOR_SEED=%llu)\n", (unsigned long long)seed());
    fflush(stderr);
    abort();
}

cudaError_t refuse(cudaError_t error, const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "CUDA emulator: %s: ", cudaGetErrorName(error));
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, " (IBOT_EMULATOR_SEED=%llu)\n", (unsigned long long)seed());
    return remember(error);
}

cudaError_t remember(cudaError_t error)
{
    if (error != cudaSuccess)
        last_error = error;
    return error;
}

uint64_t environment_number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    char *end;

    if (text == nullptr || *text == '\0')
        return otherwise;
    uint64_t value = strtoull(text, &end, 10);
    if (*end != '\0') {
        fprintf(stderr, "CUDA emulator: %s is '%s'; wanted a number\n", name, text);
        abort();
    }
    return value;
}

uint64_t seed()
{
    static const uint64_t value = environment_number("IBOT_EMULATOR_SEED", 1);
    return value;
}

/* xorshift64*, Vigna 2016 */
uint32_t random_below(uint32_t n)
{
    static uint64_t state = seed() * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du;

    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    uint32_t drawn = (uint32_t)(state * 0x2545f4914f6cdd1du >> 32);
    return (uint32_t)((uint64_t)drawn * n >> 32);
}
} // namespace emulator

using namespace emulator;

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer", "invalid device pointer"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection",
     "invalid copy direction for memcpy"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureMerge, "cudaErrorStreamCaptureMerge",
     "operation would result in a merge of separate capture sequences"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched",
     "capture was not ended in the same stream as it began"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined",
     "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation",
     "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent",
     "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
     "attempt to terminate a thread-local capture sequence from another thread"},
};

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &known : errors)
        if (known.error == error)
            return known.name;
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &known : errors)
        if (known.error == error)
            return known.text;
    return "unrecognized error code";
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}
