/* Capture of streams into graphs. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_GRAPH_H
#define IBOT_TESTS_CUDA_EMULATOR_GRAPH_H

#include "tests/cuda_emulator/runtime.h"

namespace emulator
{
/* Adds work to the capture that the stream is in. */
cudaError_t record(CUstream_st *stream, operation &&work);
/* An event recorded in, or waited for by, a stream of which one captures. */
cudaError_t record_event(CUevent_st *event, CUstream_st *stream);
cudaError_t wait_for_captured(CUstream_st *stream, const CUevent_st *event);
} // namespace emulator

#endif
